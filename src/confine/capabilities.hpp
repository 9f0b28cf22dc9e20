// Capabilities (capabilities(7)) by raw capset(2) and prctl(2), so that static binaries need no libcap.
//
//     CapabilitySet wanted = TRY(adjust_capabilities(docker_default_capabilities(), cap_add, cap_drop));
//     wanted = wanted & TRY(bounding_set());          // this machine may lack some
//     Capabilities caps = container_capabilities(wanted);
//     ... in the child: post_fork::become_user(uid, gid, groups, caps)
#pragma once

#include <sys/types.h>

#include <bit>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace wherry::confine {

// One bit a capability, bit number as in <linux/capability.h>.
class CapabilitySet {
  public:
    constexpr CapabilitySet() = default;
    constexpr explicit CapabilitySet(std::uint64_t bits) : bits_(bits) {}
    constexpr CapabilitySet(std::initializer_list<int> numbers) {
        for (int number : numbers) add(number);
    }

    constexpr bool contains(int number) const { return (bits_ >> static_cast<unsigned>(number)) & 1U; }
    constexpr void add(int number) { bits_ |= std::uint64_t{1} << static_cast<unsigned>(number); }
    constexpr void remove(int number) { bits_ &= ~(std::uint64_t{1} << static_cast<unsigned>(number)); }
    constexpr bool empty() const { return bits_ == 0; }
    constexpr int size() const { return std::popcount(bits_); }
    constexpr std::uint64_t bits() const { return bits_; }
    // "CAP_CHOWN" ..., in the order of their numbers.
    std::vector<std::string> names() const;

    friend constexpr CapabilitySet operator&(CapabilitySet a, CapabilitySet b) {
        return CapabilitySet(a.bits_ & b.bits_);
    }
    friend constexpr CapabilitySet operator|(CapabilitySet a, CapabilitySet b) {
        return CapabilitySet(a.bits_ | b.bits_);
    }
    // What a has and b has not.
    friend constexpr CapabilitySet operator-(CapabilitySet a, CapabilitySet b) {
        return CapabilitySet(a.bits_ & ~b.bits_);
    }
    friend constexpr bool operator==(CapabilitySet, CapabilitySet) = default;

  private:
    std::uint64_t bits_ = 0;
};

// The five sets of a thread.
struct Capabilities {
    CapabilitySet bounding;
    CapabilitySet effective;
    CapabilitySet permitted;
    CapabilitySet inheritable;
    CapabilitySet ambient;

    friend bool operator==(const Capabilities&, const Capabilities&) = default;
};

inline constexpr int capability_count = 41;  // CAP_CHOWN (0) to CAP_CHECKPOINT_RESTORE (40)

std::string_view capability_name(int number);  // "CAP_CHOWN"; empty for a number without a name
// Any case, with or without "CAP_".
std::optional<int> capability_number(std::string_view name);
CapabilitySet all_capabilities();  // the 41
// invalid_argument naming the first name that is none.
Result<CapabilitySet> parse_capabilities(std::span<const std::string> names);

// Docker's fourteen: CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE
// SYS_CHROOT KILL AUDIT_WRITE.
CapabilitySet docker_default_capabilities();
// Docker's --cap-add and --cap-drop: any case, CAP_ or not, ALL on either side. With ALL added: everything but what is
// dropped by name. With ALL dropped: what is added and nothing else. Otherwise base, without the dropped, with the
// added (named on both sides, the add wins).
Result<CapabilitySet> adjust_capabilities(CapabilitySet base, std::span<const std::string> add,
                                          std::span<const std::string> drop);

// What execve(2) can ever give to this process and its children.
Result<CapabilitySet> bounding_set();
Result<Capabilities> capabilities_of_this_thread();

// The sets a container's process gets from one wish: bounding, permitted, effective; inheritable and ambient stay empty
// (CVE-2022-24769: inheritable capabilities leak into programs with file capabilities).
Capabilities container_capabilities(CapabilitySet wanted);

// Async-signal-safe; 0 or an errno. The calling thread only.
namespace post_fork {

// Drops from the bounding set all that `keep` lacks. EPERM without CAP_SETPCAP when something has to go.
int limit_bounding_set(CapabilitySet keep) noexcept;
// capset and ambient set; not the bounding set. EPERM when `permitted` exceeds what the thread has.
int set_capabilities(const Capabilities& capabilities) noexcept;
// The whole change of user in the only order that works: bounding set, keep-capabilities, groups, gid, uid, capset,
// ambient. `umask` etc. are the caller's. Groups are set even when the span is empty (that clears them), except where
// the user namespace denies setgroups and the span is empty.
// `knowledge`: whether that is so is read from /proc/self, which a process outside of the mounted procfs's pid
// namespace has not got; such a one is told.
enum class Setgroups : unsigned char { ask_proc, denied };
int become_user(uid_t uid, gid_t gid, std::span<const gid_t> groups, const Capabilities& capabilities,
                Setgroups knowledge = Setgroups::ask_proc) noexcept;

}  // namespace post_fork
}  // namespace wherry::confine
