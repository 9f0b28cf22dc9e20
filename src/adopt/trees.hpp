// Copies of file trees with everything that belongs to them, and trees that share files with others. By descriptor;
// symlinks are never followed.
#pragma once

#include <cstdint>

#include "base/result.hpp"

namespace wherry::adopt {

struct TreeTotals {
    std::uint64_t files = 0;
    std::uint64_t bytes = 0;
};

enum class Attributes : unsigned char {
    plain,         // of a volume
    overlay_upper  // of a container's writable layer: overlayfs' own attributes are carried over where they mean the
                   // same in another place; unimplemented where they do not (redirects, metadata-only copies)
};

// Everything in the folder `from`, and its own attributes, into the empty folder `to`: kinds, owners, modes, times,
// extended attributes, hard links within the tree, holes. File content is shared (FICLONE) where the file system can,
// else copied.
Result<TreeTotals> copy_tree(int from, int to, Attributes attributes);

// Replaces files of `to` by hard links to those of the same name in `from` that are equal in kind, owner, mode, size,
// time and extended attributes, have one name and have not been touched since `before` (seconds since the epoch). The
// caller knows that their content is equal. Times of folders stay. Nothing happens across file systems.
Result<TreeTotals> share_files(int from, int to, std::int64_t before);

}  // namespace wherry::adopt
