#include <sys/wait.h>

#include <cerrno>

#include "oci/container.hpp"

namespace wherry::oci {

namespace {

Result<std::optional<ExitStatus>> wait_with(int pidfd, int flags) {
    siginfo_t info{};
    while (::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | flags) < 0) {
        if (errno != EINTR) return fail_errno("waitid");
    }
    if (info.si_pid == 0) return std::nullopt;
    ExitStatus status;
    if (info.si_code == CLD_EXITED) {
        status.code = info.si_status;
    } else {
        status.signal = info.si_status;
        status.code = 128 + info.si_status;
        status.core_dumped = info.si_code == CLD_DUMPED;
    }
    return status;
}

}  // namespace

Result<ExitStatus> wait_exit(int pidfd) {
    auto status = TRY(wait_with(pidfd, 0));
    if (!status) return fail(Code::internal, "waitid returned nothing");
    return *status;
}

Result<std::optional<ExitStatus>> try_wait_exit(int pidfd) {
    return wait_with(pidfd, WNOHANG);
}

}  // namespace wherry::oci
