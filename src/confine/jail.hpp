// A jail for our own helper children (the layer unpacker, the microVM's monitor): everything they do not need is gone
// before they see the first foreign byte.
//
//     Jail jail = {.root = directory.get(), .keep_capabilities = {...}, .keep_fds = {0, 1, 2, 5}};
//     PreparedJail prepared = TRY(PreparedJail::prepare(jail));   // in the parent, may allocate and fail
//     ... in the child after fork: int error = post_fork::enter_jail(prepared);
// or, in a helper that has just been exec'd and confines itself: TRY(enter_jail(jail));
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "confine/capabilities.hpp"
#include "confine/rlimits.hpp"
#include "confine/seccomp.hpp"

namespace wherry::confine {

enum class JailRoot : unsigned char {
    keep,        // the file system stays as it is
    pivot,       // new mount namespace, private; the directory becomes /; the old root is gone from it
    chroot_only  // chroot(2): for where a mount namespace is not to be had
};

struct Jail {
    JailRoot root_kind = JailRoot::keep;
    int root = -1;                      // directory descriptor for pivot and chroot_only
    std::uint64_t root_attributes = 0;  // MOUNT_ATTR_... that a pivoted root gets
    std::uint64_t namespaces = 0;       // further CLONE_NEW... flags to unshare (network, ipc, uts); never pid or user
    std::optional<uid_t> uid;
    std::optional<gid_t> gid;
    CapabilitySet keep_capabilities;  // bounding, permitted and effective afterwards
    bool no_new_privileges = true;
    bool dumpable = false;
    pid_t die_with_parent = 0;  // parent's pid; 0: not asked for
    std::vector<ResourceLimit> limits;
    SeccompProgram seccomp;              // empty: none
    std::vector<int> keep_fds{0, 1, 2};  // all others are closed
};

// Which step failed, for the parent's message.
enum class JailStep : unsigned char {
    none,
    parent,
    unshare,
    private_mounts,
    root_mount,
    pivot,
    chroot,
    change_directory,
    limits,
    capabilities,
    dumpable,
    privileges,
    close,
    seccomp
};
const char* to_string(JailStep step);

class PreparedJail {
  public:
    static Result<PreparedJail> prepare(Jail jail);
    const Jail& jail() const { return jail_; }

  private:
    explicit PreparedJail(Jail jail) : jail_(std::move(jail)) {}
    Jail jail_;  // keep_fds sorted and unique
};

// For a process that confines itself, single-threaded.
Result<> enter_jail(Jail jail);

namespace post_fork {
struct JailFailure {
    JailStep step = JailStep::none;
    int error = 0;
};
// Enters in the right order; error 0 when done.
JailFailure enter_jail(const PreparedJail& prepared) noexcept;
}  // namespace post_fork
}  // namespace wherry::confine
