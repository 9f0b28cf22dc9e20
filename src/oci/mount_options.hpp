// mount(8)'s option words of a configuration (runtime-spec, config.md "Mounts") as what the kernel's calls take.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace wherry::oci {

struct MountOptions {
    // Of the mount (mount_setattr(2)): MOUNT_ATTR_... to set and to clear, for this mount and, from the words with an r
    // in front (rro, rnosuid, ...), for the whole tree.
    std::uint64_t attributes_set = 0, attributes_clear = 0;
    std::uint64_t recursive_set = 0, recursive_clear = 0;
    // Of the file system, by fsconfig(2): keys without a value ("ro", "sync") and with one ("mode", "755").
    std::vector<std::string> flags;
    std::vector<std::pair<std::string, std::string>> values;
    bool bind = false;
    bool bind_recursive = false;
    unsigned long propagation = 0;  // MS_PRIVATE etc., with MS_REC; 0: not said
    bool copy_up = false;           // tmpcopyup: what the image has there is copied into the new tmpfs
    bool idmap = false, idmap_recursive = false;

    bool readonly() const;
};

// Every word that is not passed on to the file system as it is, sorted: for `features`.
std::vector<std::string> known_mount_options();
// Unknown words are the file system's own, as the specification says. invalid_argument for one that contradicts itself.
Result<MountOptions> parse_mount_options(std::span<const std::string> options);

}  // namespace wherry::oci
