#include "confine/process_attributes.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/prctl.h>
#include <signal.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <climits>
#include <string>

#include "base/fd.hpp"
#include "confine/capabilities.hpp"

namespace wherry::confine {
namespace {

int close_range(unsigned first, unsigned last, unsigned flags) noexcept {
    // SAFETY: close_range(2) takes three plain integers.
    return ::syscall(SYS_close_range, first, last, flags) == 0 ? 0 : errno;
}

}  // namespace

Result<unsigned long> parse_personality(std::string_view domain) {
    if (domain == "LINUX") return static_cast<unsigned long>(PER_LINUX);
    if (domain == "LINUX32") return static_cast<unsigned long>(PER_LINUX32);
    return fail(Code::invalid_argument, "unknown personality \"" + std::string(domain) + "\": LINUX or LINUX32");
}

Result<int> get_oom_score_adj() {
    std::string text = TRY(read_file("/proc/self/oom_score_adj", 64));
    int value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
}

Result<> check_oom_score_adj(int value) {
    if (value < -1000 || value > 1000)
        return fail(Code::invalid_argument, "oom_score_adj " + std::to_string(value) + " is outside of -1000 to 1000");
    int now = TRY(get_oom_score_adj());
    if (value < now && !TRY(capabilities_of_this_thread()).effective.contains(CAP_SYS_RESOURCE))
        return fail(Code::permission_denied, "an oom_score_adj of " + std::to_string(value) + " is below the present " +
                                                 std::to_string(now) +
                                                 ", and lowering it takes CAP_SYS_RESOURCE, which is missing here");
    return {};
}

Result<> set_oom_score_adj(pid_t pid, int value) {
    std::string path = "/proc/" + (pid == 0 ? std::string("self") : std::to_string(pid)) + "/oom_score_adj";
    auto written = write_control_file(path, std::to_string(value));
    if (written) return {};
    if (written.error().os_errno() == EACCES) TRY(check_oom_score_adj(value));
    return std::unexpected(std::move(written).error());
}

namespace post_fork {

int set_no_new_privileges() noexcept {
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : errno;
}

int set_securebits(unsigned long bits) noexcept {
    return ::prctl(PR_SET_SECUREBITS, bits, 0, 0, 0) == 0 ? 0 : errno;
}

int set_dumpable(bool dumpable) noexcept {
    return ::prctl(PR_SET_DUMPABLE, dumpable ? 1 : 0, 0, 0, 0) == 0 ? 0 : errno;
}

int set_personality(unsigned long persona) noexcept {
    return ::personality(persona) >= 0 ? 0 : errno;
}

int die_with_parent(pid_t parent) noexcept {
    if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return errno;
    // The parent may have gone before the line above; then the signal never comes.
    if (parent != 0 && ::getppid() != parent) return ESRCH;
    return 0;
}

int set_oom_score_adj(int value) noexcept {
    char text[16];
    char* end = text + sizeof text;
    char* begin = end;
    unsigned magnitude = value < 0 ? 0U - static_cast<unsigned>(value) : static_cast<unsigned>(value);
    do {
        *--begin = static_cast<char>('0' + magnitude % 10);
        magnitude /= 10;
    } while (magnitude != 0);
    if (value < 0) *--begin = '-';
    int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return errno;
    ssize_t written = ::write(fd, begin, static_cast<std::size_t>(end - begin));
    int error = written < 0 ? errno : 0;
    ::close(fd);
    return error;
}

int close_from(unsigned first) noexcept {
    return close_range(first, UINT_MAX, 0);
}

int close_on_exec_from(unsigned first) noexcept {
    return close_range(first, UINT_MAX, CLOSE_RANGE_CLOEXEC);
}

int close_all_but(std::span<const int> sorted_keep) noexcept {
    unsigned next = 0;  // the lowest descriptor not dealt with yet
    for (int keep : sorted_keep) {
        if (keep < 0) continue;
        auto kept = static_cast<unsigned>(keep);
        if (kept > next)
            if (int error = close_range(next, kept - 1, 0)) return error;
        if (kept >= next) next = kept + 1;
    }
    return close_range(next, UINT_MAX, 0);
}

}  // namespace post_fork
}  // namespace wherry::confine
