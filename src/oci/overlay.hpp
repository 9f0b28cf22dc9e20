// An overlayfs mount, detached: attached by whoever wants it. Internal to the room.
#pragma once

#include "base/fd.hpp"
#include "base/result.hpp"
#include "oci/container.hpp"

namespace wherry::oci {

// Layers are given to the kernel one by one (lowerdir+, since 6.7), or, where that is not known, as one string of
// /proc/self/fd names, by fsconfig or, beyond its 256 bytes, by mount(2).
enum class OverlayMethod : unsigned char { automatic, one_string };
Result<Fd> mount_overlay(const OverlayRoot& overlay, OverlayMethod method = OverlayMethod::automatic);

}  // namespace wherry::oci
