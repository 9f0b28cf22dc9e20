// A container's file system, assembled inside its new mount namespace, step by step; each step is a call so that the
// child can note the time and run hooks between them. Internal to the room.
//
//     Rootfs rootfs(plan, join);  open_sources -> attach_root -> mounts -> devices -> protect -> pivot
//
// Everything is done through descriptors: of the root, of detached mounts, of targets resolved inside the root. No path
// of the image is ever walked by the kernel outside the root.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "oci/container.hpp"
#include "oci/mount_options.hpp"
#include "oci/spec.hpp"

namespace wherry::oci {

// One mount of the configuration with its options read: done before the clone, where failing is cheap.
struct PlannedMount {
    const Mount* mount = nullptr;
    MountOptions options;
    std::string destination;  // clean and absolute
    bool bind = false;
    Fd tree;  // a bind's detached source; opened by the parent when the child has no right to (user namespaces)
};

struct CgroupDirectory {
    std::string name;    // below /sys/fs/cgroup: "memory"; "" for a pure v2 host
    std::string source;  // the container's own directory in that hierarchy
};

struct RootfsPlan {
    const Spec* spec = nullptr;
    std::string bundle;     // what relative sources start at
    std::string root_path;  // absolute; not used with an overlay
    const OverlayRoot* overlay = nullptr;
    std::vector<PlannedMount> mounts;
    std::vector<CgroupDirectory> cgroups;
    bool user_namespace = false;
    std::function<Result<>()> before_cgroups;  // called once, before the first mount that shows cgroups
    bool sources_in_child = true;              // bind sources are opened by the child, in its new namespaces
    bool joined_mount_namespace = false;
    bool no_pivot = false;
    bool terminal = false;
};

Result<RootfsPlan> plan_rootfs(const Spec& spec, const std::string& bundle, const OverlayRoot* overlay);
// Opens the bind sources and idmaps them, with the rights of the caller. Idmapped ones are the parent's business: that
// takes a helper process found by its pid in /proc, which the child in its new pid namespace could not.
enum class BindSources : unsigned char { all, idmapped };
Result<> open_bind_sources(RootfsPlan& plan, BindSources which);

struct Terminal {
    Fd master;
    Fd slave;
};

class Rootfs {
  public:
    explicit Rootfs(RootfsPlan& plan) : plan_(plan) {}

    Result<> detach_from_host();  // propagation of the new namespace, sources
    Result<> attach_root();
    Result<> make_mounts();
    Result<> make_devices();
    Result<Terminal> open_terminal();  // from the container's own devpts where it has one
    Result<> bind_console(int slave);
    Result<> write_sysctls();
    Result<> protect();  // masked and read-only paths, then what was to become read-only
    Result<> pivot();

    int root() const { return root_.get(); }
    // A procfs root that was proven, -1 when the container has none.
    int procfs() const { return procfs_.get(); }

  private:
    Result<> attach_root_aside();
    Result<> make_mount_entry(PlannedMount& planned);
    Result<> make_cgroup_mount(const PlannedMount& planned, int target);
    Result<> copy_up(int target, int mount);
    Result<> make_device(const Device& device);
    Result<> make_link(const std::string& path, const std::string& target);
    Result<> mask(const std::string& path);
    Result<> make_readonly(const std::string& path);
    Result<Fd> open_guarded(const std::string& path);

    RootfsPlan& plan_;
    Fd root_, old_root_, null_device_, procfs_, devpts_, empty_folder_;
    bool empty_folder_attached_ = false;
    bool proc_mounted_ = false;
    std::vector<int> readonly_at_the_end_;
    std::vector<Fd> kept_;
};

}  // namespace wherry::oci
