// Copies what a directory holds into a fresh, empty one by descriptors: for tmpfs with tmpcopyup and for new volumes.
#pragma once

#include "base/result.hpp"

namespace wherry::oci {

// Directories, regular files, symlinks, fifos and devices with owner, mode and times; sockets are left out. Never
// follows a symlink, never enters another mount's contents by name. `from` and `to` may be O_PATH descriptors.
Result<> copy_directory(int from, int to);

}  // namespace wherry::oci
