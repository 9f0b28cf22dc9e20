// update, commit, diff, export.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/container_flags.hpp"
#include "cli/output_file.hpp"
#include "cli/reference.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option update_options[] = {
    {"blkio-weight", 0, "uint16", "Block IO (relative weight), between 10 and 1000, or 0 to disable", check_uint16,
     "0"},
    {"cpu-period", 0, "int", "Limit CPU CFS (Completely Fair Scheduler) period", check_integer},
    {"cpu-quota", 0, "int", "Limit CPU CFS (Completely Fair Scheduler) quota", check_integer},
    {"cpu-rt-period", 0, "int", "Limit the CPU real-time period in microseconds", check_integer},
    {"cpu-rt-runtime", 0, "int", "Limit the CPU real-time runtime in microseconds", check_integer},
    {"cpu-shares", 'c', "int", "CPU shares (relative weight)", check_integer},
    {"cpus", 0, "decimal", "Number of CPUs", check_cpus},
    {"cpuset-cpus", 0, "string", "CPUs in which to allow execution (0-3, 0,1)"},
    {"cpuset-mems", 0, "string", "MEMs in which to allow execution (0-3, 0,1)"},
    {"kernel-memory", 0, "bytes", "Kernel memory limit (accepted; kernels ignore it)", check_bytes, {}, true},
    {"memory", 'm', "bytes", "Memory limit", check_bytes},
    {"memory-reservation", 0, "bytes", "Memory soft limit", check_bytes},
    {"memory-swap", 0, "bytes", "Swap limit equal to memory plus swap: -1 to enable unlimited swap", check_swap_bytes},
    {"pids-limit", 0, "int", "Tune container pids limit (set -1 for unlimited)", check_integer},
    {"restart", 0, "string", "Restart policy to apply when a container exits"},
};
constexpr Option commit_options[] = {
    {"author", 'a', "string", "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")"},
    {"change", 'c', "list", "Apply Dockerfile instruction to the created image"},
    {"message", 'm', "string", "Commit message"},
    {"pause", 'p', {}, "Pause container during commit", nullptr, "true"},
};
constexpr Option export_options[] = {{"output", 'o', "string", "Write to a file, instead of STDOUT"}};

Result<int> update(Session& session, const Invocation& invocation) {
    json::object body;
    TRY(add_resources(invocation.options, body));
    if (invocation.options.given("restart"))
        body["RestartPolicy"] = TRY(parse_restart_policy(invocation.options.text("restart")));
    if (body.empty()) return fail(Code::invalid_argument, "you must provide one or more flags when using this command");
    json::value request(std::move(body));
    int code = 0;
    for (const std::string& name : invocation.arguments) {
        auto answer = session.post("/containers/" + segment(name) + "/update", &request);
        if (!answer) {
            session.report(answer.error());
            code = 1;
            continue;
        }
        if (const json::value* warnings = value_at(*answer, "Warnings"); warnings != nullptr && warnings->is_array())
            for (const json::value& warning : warnings->get_array()) session.error("WARNING: " + print_text(warning));
        session.out(name + "\n");
    }
    return code;
}

Result<int> commit(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    QueryText query;
    query.add("container", invocation.arguments[0]);
    if (invocation.arguments.size() > 1) {
        RepositoryTag target = TRY(parse_repository_tag(invocation.arguments[1]));
        query.add("repo", target.repository).add("tag", target.tag);
    }
    query.add("comment", options.text("message")).add("author", options.text("author"));
    for (const std::string& change : options.list("change")) query.add("changes", change);
    if (!options.flag("pause", true)) query.add("pause", "0");
    json::value empty(json::object{});
    json::value answer = TRY(session.post("/commit" + query.text(), &empty));
    session.out(text_at(answer, "Id") + "\n");
    return 0;
}

Result<int> diff(Session& session, const Invocation& invocation) {
    if (invocation.arguments.front().empty()) return fail(Code::invalid_argument, "Container name cannot be empty");
    json::value answer = TRY(session.get("/containers/" + segment(invocation.arguments.front()) + "/changes"));
    if (answer.is_array())
        for (const json::value& change : answer.get_array()) {
            static constexpr std::array<std::string_view, 3> kinds = {"C", "A", "D"};
            auto kind = static_cast<std::size_t>(integer_at(change, "Kind"));
            session.out(std::string(kind < kinds.size() ? kinds.at(kind) : "?") + " " + text_at(change, "Path") + "\n");
        }
    return 0;
}

Result<int> export_container(Session& session, const Invocation& invocation) {
    std::string path = invocation.options.text("output");
    TRY(check_output_file(session, path));
    auto response = TRY(session.checked(
        {.method = "GET", .target = "/containers/" + segment(invocation.arguments.front()) + "/export"}));
    TRY(write_output_file(response, path));
    return 0;
}

}  // namespace

Result<> check_output_file(Session& session, const std::string& path) {
    if (path.empty() && session.stdout_is_terminal())
        return fail(Code::invalid_argument, "cowardly refusing to save to a terminal. Use the -o flag or redirect");
    if (path.empty()) return {};
    auto slash = path.rfind('/');
    std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
    if (!path_exists(folder))
        return fail(Code::not_found, "invalid output path: directory \"" + folder + "\" does not exist");
    return {};
}

Result<> write_output_file(http::ClientResponse& response, const std::string& path) {
    // Through a temporary file beside it: an interrupted save leaves no half archive under the name.
    std::string temporary = path + ".wherry-" + std::to_string(::getpid());
    Fd file;
    int target = STDOUT_FILENO;
    bool regular = false;
    if (!path.empty()) {
        struct stat info{};
        regular = ::stat(path.c_str(), &info) < 0 || S_ISREG(info.st_mode);
        file = TRY(open_file(regular ? temporary : path, regular ? O_WRONLY | O_CREAT | O_TRUNC : O_WRONLY, 0600),
                   "open the output");
        target = file.get();
    }
    std::vector<char> buffer(256U << 10U);
    auto copy = [&]() -> Result<> {
        while (true) {
            std::size_t count = TRY(response.read_some(std::as_writable_bytes(std::span(buffer))));
            if (count == 0) return {};
            TRY(write_all(target, {buffer.data(), count}));
        }
    };
    auto copied = copy();
    if (!regular) return copied;
    if (!copied) {
        ::unlink(temporary.c_str());
        return copied;
    }
    if (::rename(temporary.c_str(), path.c_str()) < 0) return fail_errno("rename to " + path);
    return {};
}

void add_change_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"update", "container update"},
         .usage = "[OPTIONS] CONTAINER [CONTAINER...]",
         .summary = "Update configuration of one or more containers",
         .example = "wherry update --memory 256m web",
         .options = update_options,
         .minimum = 1,
         .run = update},
        {.names = {"commit", "container commit"},
         .usage = "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
         .summary = "Create a new image from a container's changes",
         .example = "wherry commit -m 'with tools' job tools:1",
         .options = commit_options,
         .minimum = 1,
         .maximum = 2,
         .run = commit},
        {.names = {"diff", "container diff"},
         .usage = "CONTAINER",
         .summary = "Inspect changes to files or directories on a container's filesystem",
         .example = "wherry diff job",
         .minimum = 1,
         .maximum = 1,
         .run = diff},
        {.names = {"export", "container export"},
         .usage = "[OPTIONS] CONTAINER",
         .summary = "Export a container's filesystem as a tar archive",
         .example = "wherry export -o job.tar job",
         .options = export_options,
         .minimum = 1,
         .maximum = 1,
         .run = export_container},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
