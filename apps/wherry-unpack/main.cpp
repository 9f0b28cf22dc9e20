// wherry-unpack: the daemon's hands on files. Started by it, never by hand; everything the work does not need is gone
// before the first foreign byte is read.
//
//     wherry-unpack <max bytes> <max entries>    a layer's tar stream on 0 into the folder on 4
//                                                (src/image/unpack/program.hpp)
//     wherry-unpack cp ...                       between a container's root and a tar stream (src/image/copy/job.hpp)
#include <linux/capability.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <vector>

#include "confine/jail.hpp"
#include "image/copy/program.hpp"
#include "image/copy/view.hpp"
#include "image/unpack/program.hpp"
#include "system_calls.hpp"

namespace {

using namespace wherry;

confine::Jail common_jail() {
    confine::Jail jail;
    jail.namespaces = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    // Owners, modes, devices and file capabilities of the image's files; nothing that reaches beyond the folder.
    for (auto capability : {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_MKNOD, CAP_SETFCAP}) {
        jail.keep_capabilities.add(capability);
    }
    jail.die_with_parent = ::getppid();
    jail.limits = {{RLIMIT_CORE, 0, 0}, {RLIMIT_NOFILE, 64, 64}};
#if !defined(__SANITIZE_ADDRESS__) && !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)
    jail.seccomp = allowed_system_calls();
#endif
    return jail;
}

Result<> confine_self() {
    confine::Jail jail = common_jail();
    jail.root_kind = confine::JailRoot::pivot;
    jail.root = image::workspace_fd;
    jail.keep_fds = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, image::report_fd, image::workspace_fd};
    return confine::enter_jail(std::move(jail));
}

// The view is the jail's root: what is not in it is out of reach already. One descriptor for each folder of a path.
Result<> confine_copy(int root) {
    confine::Jail jail = common_jail();
    jail.limits = {{RLIMIT_CORE, 0, 0}, {RLIMIT_NOFILE, 4096, 4096}};
    jail.keep_fds = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, image::report_fd, root};
    return confine::enter_jail(std::move(jail));
}

int copy(const std::vector<std::string_view>& arguments) {
    auto job = image::parse_arguments(arguments);
    if (!job) return 2;
    auto root = image::enter_view(*job);
    if (!root) return image::refuse_copy(std::move(root).error());
    if (auto jailed = confine_copy(root->get()); !jailed)
        return image::refuse_copy(std::move(jailed).error().context("jail of the copy"));
    return image::run_copy(*job, *root);
}

bool parse_limit(const char* text, std::uint64_t& value) {
    auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
    return error == std::errc() && *end == '\0' && value > 0;
}

}  // namespace

int main(int argc, char** argv) {
    ::umask(0);
    ::signal(SIGPIPE, SIG_IGN);
    if (argc > 1 && std::string_view(argv[1]) == "cp") return copy({argv + 1, argv + argc});
    image::UnpackLimits limits;
    if (argc != 3 || !parse_limit(argv[1], limits.max_bytes) || !parse_limit(argv[2], limits.max_entries)) {
        std::fputs("wherry-unpack: started by wherryd, not by hand\n", stderr);
        return 2;
    }
    if (auto jailed = confine_self(); !jailed) {
        std::string line =
            image::format_report(std::unexpected(std::move(jailed).error().context("jail of wherry-unpack")));
        return write_all(image::report_fd, line) ? 1 : 2;
    }
    return image::run_unpack(limits);
}
