// Two file trees side by side: are they the same?
#pragma once

#include <functional>

#include "base/result.hpp"

namespace wherry::image {

// data_loss names the first path where `actual` differs from `expected`: kinds, owners, modes, times, links, devices,
// extended attributes, content, something missing, something more. Descriptors of folders. cancelled.
Result<> compare_trees(int expected, int actual, const std::function<bool()>& cancelled);

}  // namespace wherry::image
