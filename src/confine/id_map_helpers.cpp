#include "confine/id_map_helpers.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/fd.hpp"
#include "confine/process_attributes.hpp"

namespace wherry::confine {

namespace {

bool maps_only(std::span<const IdMapping> mappings, unsigned own) {
    return mappings.size() == 1 && mappings.front().size == 1 && mappings.front().host_id == own;
}

// There is no library for this: the helper's set-uid bit is the point.
Result<> run_helper(const char* name, pid_t pid, std::span<const IdMapping> mappings) {
    std::string path = std::string("/usr/bin/") + name;
    if (::access(path.c_str(), X_OK) < 0) path = std::string("/bin/") + name;
    if (::access(path.c_str(), X_OK) < 0)
        return fail(
            Code::unavailable,
            std::string(name) + " is not installed (package uidmap): without it a user can map his own id only");
    std::vector<std::string> words{name, std::to_string(pid)};
    for (const IdMapping& mapping : mappings) {
        words.push_back(std::to_string(mapping.container_id));
        words.push_back(std::to_string(mapping.host_id));
        words.push_back(std::to_string(mapping.size));
    }
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    Pipe output = TRY(make_pipe());
    pid_t child = ::fork();
    if (child < 0) return fail_errno("fork");
    if (child == 0) {
        // SAFETY: after fork: async-signal-safe calls only, then execve.
        ::dup2(output.write.get(), 2);
        post_fork::close_on_exec_from(3);
        char* no_environment[] = {nullptr};
        ::execve(path.c_str(), arguments.data(), no_environment);
        ::_exit(127);
    }
    output.write.reset();
    auto said = read_to_end(output.read.get(), 4096);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
    std::string text = said ? *said : std::string();
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return fail(Code::permission_denied, text.empty() ? std::string(name) + " failed" : text);
}

}  // namespace

Result<> write_id_maps_as_user(pid_t pid, std::span<const IdMapping> uids, std::span<const IdMapping> gids) {
    if (maps_only(uids, ::geteuid()) && maps_only(gids, ::getegid()))
        return write_id_maps(pid, uids, gids, Setgroups::deny);
    TRY(validate_id_mappings(uids), "uid mappings");
    TRY(validate_id_mappings(gids), "gid mappings");
    TRY(run_helper("newgidmap", pid, gids));
    return run_helper("newuidmap", pid, uids);
}

}  // namespace wherry::confine
