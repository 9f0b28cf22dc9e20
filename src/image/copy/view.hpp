// The container's file system as the confined child sees it: a private mount namespace whose root is the container's.
// Whatever is mounted in it, devices can't be opened, and nothing of it is seen by anybody else.
#pragma once

#include "base/fd.hpp"
#include "base/result.hpp"
#include "image/copy/job.hpp"

namespace wherry::image {

inline constexpr int copy_root_fd = 4;  // the trees of job.mounts follow

// Needs CAP_SYS_ADMIN; before anything foreign is read. Returns the root (O_PATH).
Result<Fd> enter_view(const CopyJob& job);

}  // namespace wherry::image
