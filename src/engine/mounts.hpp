// What -v, --mount, --tmpfs, --volumes-from and an image's VOLUMEs come to: a plan, made and checked when a container
// is created. Pure parsing; nothing is made here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "engine/container_spec.hpp"
#include "engine/mount_point.hpp"

namespace wherry::engine {

struct PlannedMount {
    MountPoint point;
    bool make_source = false;  // a missing directory of the host is made (-v does, --mount does not)
    bool anonymous = false;    // a volume without a name yet
    bool populate = true;      // a new volume gets what the image has at that place
    VolumeOptions volume_options;
};

// One of HostConfig.Binds: source:destination[:options]. invalid_argument with Docker's words.
Result<PlannedMount> parse_bind(std::string_view text, const std::string& volume_driver);
Result<PlannedMount> parse_mount(const MountRequest& request);
// Everything together, each destination once; sorted so that what lies deeper comes later. `inherited`: the mounts of
// --volumes-from, which lose against what is named here.
Result<std::vector<PlannedMount>> plan_mounts(const Config& config, const HostConfig& host_config,
                                              const std::vector<MountPoint>& inherited);

// An absolute path without "." and ".." parts and double slashes; "/a/b".
std::string clean_path(std::string_view path);
// Options of a tmpfs ("rw,size=64m,mode=1777"), checked.
Result<Strings> parse_tmpfs_options(std::string_view text);
// "64m" -> bytes; invalid_argument.
Result<std::int64_t> parse_bytes(std::string_view text);

}  // namespace wherry::engine
