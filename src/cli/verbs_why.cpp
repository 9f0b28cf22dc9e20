// why: a container's end in a sentence.
#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"

namespace wherry::cli {

namespace {

// Where the daemon has no sentence (dockerd), its state tells what it can.
std::string from_state(const std::string& name, const json::value& container) {
    std::string status = text_at(container, "State.Status");
    std::string problem = text_at(container, "State.Error");
    std::int64_t code = integer_at(container, "State.ExitCode");
    if (flag_at(container, "State.OOMKilled")) {
        std::int64_t limit = integer_at(container, "HostConfig.Memory");
        return name + " was killed because it used more memory than it may" +
               (limit > 0 ? " (" + std::to_string(limit) + " bytes)." : ".");
    }
    if (status == "running" || status == "paused" || status == "restarting") return name + " is " + status + ".";
    if (!problem.empty()) return name + " did not start: " + problem + ".";
    if (status == "created") return name + " was never started.";
    if (code > 128 && code < 160) return name + " was ended by signal " + std::to_string(code - 128) + ".";
    return name + " exited with code " + std::to_string(code) + ".";
}

Result<int> why(Session& session, const Invocation& invocation) {
    int code = 0;
    for (const std::string& name : invocation.arguments) {
        auto answer = session.get("/wherry/containers/" + segment(name) + "/why");
        std::string sentence = answer ? text_at(*answer, "Why") : std::string();
        if (sentence.empty()) {
            auto container = session.get("/containers/" + segment(name) + "/json");
            if (!container) {
                session.report(container.error());
                code = 1;
                continue;
            }
            sentence = from_state(name, *container);
        }
        session.out((invocation.arguments.size() > 1 ? name + ": " : "") + sentence + "\n");
    }
    return code;
}

}  // namespace

void add_why_verbs(std::vector<const Command*>& all) {
    static const Command command{.names = {"why"},
                                 .usage = "CONTAINER [CONTAINER...]",
                                 .summary = "Say in a sentence why a container ended or did not start",
                                 .example = "wherry why job",
                                 .minimum = 1,
                                 .run = why};
    all.push_back(&command);
}

}  // namespace wherry::cli
