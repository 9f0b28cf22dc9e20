// wherry-unpack: writes one layer's tar stream into a folder. Started by the daemon with the stream on 0, reports on 3
// and the folder on 4 (src/image/unpack/program.hpp); everything else is gone before it reads the first byte.
//
//     wherry-unpack <max bytes> <max entries>
#include <linux/capability.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "confine/jail.hpp"
#include "image/unpack/program.hpp"
#include "system_calls.hpp"

namespace {

using namespace wherry;

Result<> confine_self() {
    confine::Jail jail;
    jail.root_kind = confine::JailRoot::pivot;
    jail.root = image::workspace_fd;
    jail.namespaces = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    // Owners, modes, devices and file capabilities of the image's files; nothing that reaches beyond the folder.
    for (auto capability : {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_MKNOD, CAP_SETFCAP}) {
        jail.keep_capabilities.add(capability);
    }
    jail.die_with_parent = ::getppid();
    jail.limits = {{RLIMIT_CORE, 0, 0}, {RLIMIT_NOFILE, 64, 64}};
    jail.keep_fds = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, image::report_fd, image::workspace_fd};
#if !defined(__SANITIZE_ADDRESS__) && !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)
    jail.seccomp = allowed_system_calls();
#endif
    return confine::enter_jail(std::move(jail));
}

bool parse_limit(const char* text, std::uint64_t& value) {
    auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
    return error == std::errc() && *end == '\0' && value > 0;
}

}  // namespace

int main(int argc, char** argv) {
    image::UnpackLimits limits;
    if (argc != 3 || !parse_limit(argv[1], limits.max_bytes) || !parse_limit(argv[2], limits.max_entries)) {
        std::fputs("wherry-unpack: started by wherryd, not by hand\n", stderr);
        return 2;
    }
    ::umask(0);
    ::signal(SIGPIPE, SIG_IGN);
    if (auto jailed = confine_self(); !jailed) {
        std::string line =
            image::format_report(std::unexpected(std::move(jailed).error().context("jail of wherry-unpack")));
        return write_all(image::report_fd, line) ? 1 : 2;
    }
    return image::run_unpack(limits);
}
