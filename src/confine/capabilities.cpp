#include "confine/capabilities.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace wherry::confine {
namespace {

constexpr std::array<std::string_view, capability_count> names_by_number{
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
};

char upper(char c) {
    return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
}

bool is_all(std::string_view name) {
    return name.size() == 3 && upper(name[0]) == 'A' && upper(name[1]) == 'L' && upper(name[2]) == 'L';
}

// The set of the names other than ALL, and whether ALL was among them.
struct Wish {
    CapabilitySet set;
    bool all = false;
};

Result<Wish> parse_wish(std::span<const std::string> names) {
    Wish wish;
    for (const std::string& name : names) {
        if (is_all(name)) {
            wish.all = true;
            continue;
        }
        auto number = capability_number(name);
        if (!number) return fail(Code::invalid_argument, "unknown capability: \"" + name + "\"");
        wish.set.add(*number);
    }
    return wish;
}

struct KernelSets {
    __user_cap_data_struct low;
    __user_cap_data_struct high;
};

std::uint64_t join_words(std::uint32_t low, std::uint32_t high) {
    return std::uint64_t{high} << 32U | low;
}

}  // namespace

std::vector<std::string> CapabilitySet::names() const {
    std::vector<std::string> out;
    for (int number = 0; number < capability_count; ++number)
        if (contains(number)) out.emplace_back(capability_name(number));
    return out;
}

std::string_view capability_name(int number) {
    if (number < 0 || number >= capability_count) return {};
    return names_by_number[static_cast<std::size_t>(number)];
}

std::optional<int> capability_number(std::string_view name) {
    std::string wanted;
    wanted.reserve(name.size() + 4);
    for (char c : name) wanted += upper(c);
    if (!wanted.starts_with("CAP_")) wanted.insert(0, "CAP_");
    auto found = std::ranges::find(names_by_number, wanted);
    if (found == names_by_number.end()) return std::nullopt;
    return static_cast<int>(found - names_by_number.begin());
}

CapabilitySet all_capabilities() {
    return CapabilitySet((std::uint64_t{1} << capability_count) - 1);
}

Result<CapabilitySet> parse_capabilities(std::span<const std::string> names) {
    CapabilitySet set;
    for (const std::string& name : names) {
        auto number = capability_number(name);
        if (!number) return fail(Code::invalid_argument, "unknown capability: \"" + name + "\"");
        set.add(*number);
    }
    return set;
}

CapabilitySet docker_default_capabilities() {
    return {
        CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FSETID,  CAP_FOWNER,           CAP_MKNOD,      CAP_NET_RAW, CAP_SETGID,
        CAP_SETUID, CAP_SETFCAP,      CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT, CAP_KILL,    CAP_AUDIT_WRITE};
}

Result<CapabilitySet> adjust_capabilities(CapabilitySet base, std::span<const std::string> add,
                                          std::span<const std::string> drop) {
    Wish added = TRY(parse_wish(add), "cap-add");
    Wish dropped = TRY(parse_wish(drop), "cap-drop");
    if (added.all) return all_capabilities() - dropped.set;
    if (dropped.all) return added.set;
    return (base - dropped.set) | added.set;
}

Result<CapabilitySet> bounding_set() {
    CapabilitySet set;
    for (int number = 0; number < 64; ++number) {
        int there = ::prctl(PR_CAPBSET_READ, number, 0, 0, 0);
        if (there < 0) {
            if (errno == EINVAL && number > 0) break;  // past the last one this kernel knows
            return fail_errno("reading the capability bounding set");
        }
        if (there == 1) set.add(number);
    }
    return set;
}

Result<Capabilities> capabilities_of_this_thread() {
    Capabilities out;
    out.bounding = TRY(bounding_set());
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    KernelSets sets{};
    // SAFETY: version 3 reads and writes exactly two consecutive data structures.
    if (::syscall(SYS_capget, &header, &sets) != 0) return fail_errno("capget");
    out.effective = CapabilitySet(join_words(sets.low.effective, sets.high.effective));
    out.permitted = CapabilitySet(join_words(sets.low.permitted, sets.high.permitted));
    out.inheritable = CapabilitySet(join_words(sets.low.inheritable, sets.high.inheritable));
    for (int number = 0; number < capability_count; ++number)
        if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, number, 0, 0) == 1) out.ambient.add(number);
    return out;
}

Capabilities container_capabilities(CapabilitySet wanted) {
    return {.bounding = wanted, .effective = wanted, .permitted = wanted, .inheritable = {}, .ambient = {}};
}

namespace post_fork {

int limit_bounding_set(CapabilitySet keep) noexcept {
    for (int number = 0; number < 64; ++number) {
        if (keep.contains(number) || ::prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0) continue;
        const int error = errno;
        if (error == EINVAL && number > 0) return 0;  // past the last one this kernel knows
        // Who may drop none needs none dropped that is not there.
        if (::prctl(PR_CAPBSET_READ, number, 0, 0, 0) != 0) return error;
    }
    return 0;
}

int set_capabilities(const Capabilities& capabilities) noexcept {
    auto low = [](CapabilitySet set) { return static_cast<std::uint32_t>(set.bits()); };
    auto high = [](CapabilitySet set) { return static_cast<std::uint32_t>(set.bits() >> 32U); };
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    KernelSets sets{.low = {.effective = low(capabilities.effective),
                            .permitted = low(capabilities.permitted),
                            .inheritable = low(capabilities.inheritable)},
                    .high = {.effective = high(capabilities.effective),
                             .permitted = high(capabilities.permitted),
                             .inheritable = high(capabilities.inheritable)}};
    // SAFETY: version 3 reads exactly two consecutive data structures.
    if (::syscall(SYS_capset, &header, &sets) != 0) return errno;
    if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) return errno;
    for (int number = 0; number < 64; ++number)
        if (capabilities.ambient.contains(number) && ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0) != 0)
            return errno;
    return 0;
}

namespace {

// In a user namespace made by an unprivileged process setgroups(2) is forbidden for good.
bool setgroups_is_denied() noexcept {
    int fd = ::open("/proc/self/setgroups", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    char text[4] = {};
    ssize_t got = ::read(fd, text, sizeof text);
    ::close(fd);
    return got == 4 && text[0] == 'd';
}

}  // namespace

int become_user(uid_t uid, gid_t gid, std::span<const gid_t> groups, const Capabilities& capabilities,
                Setgroups knowledge) noexcept {
    if (int error = limit_bounding_set(capabilities.bounding)) return error;
    // Without this, leaving uid 0 would clear the permitted set before capset could choose from it.
    if (::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return errno;
    // SAFETY: raw calls: glibc's wrappers signal other threads, of which a forked child has none but glibc may not
    // know.
    if (::syscall(SYS_setgroups, groups.size(), groups.data()) != 0) {
        int error = errno;
        if (!(error == EPERM && groups.empty() && (knowledge == Setgroups::denied || setgroups_is_denied())))
            return error;
    }
    if (::syscall(SYS_setresgid, gid, gid, gid) != 0) return errno;
    if (::syscall(SYS_setresuid, uid, uid, uid) != 0) return errno;
    if (int error = set_capabilities(capabilities)) return error;
    if (::prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) != 0) return errno;
    return 0;
}

}  // namespace post_fork
}  // namespace wherry::confine
