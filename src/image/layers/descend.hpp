// Going down a file tree by descriptor, never by way of a symlink.
#pragma once

#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::image {

// `path` below the folder `root` (empty: root itself), with no symlink anywhere on the way and none at its end.
Result<Fd> open_beneath(int root, const std::string& path, int flags);
// Names in a folder, sorted, without "." and "..".
Result<std::vector<std::string>> sorted_names(int folder);

}  // namespace wherry::image
