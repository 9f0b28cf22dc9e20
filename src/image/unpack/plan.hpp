// What an entry of a layer's tar stream asks for, decided from its name alone: no system call, so that it can be
// fuzzed.
#pragma once

#include <string>
#include <string_view>

#include "base/result.hpp"
#include "image/tar/reader.hpp"

namespace wherry::image {

enum class PlanKind : unsigned char {
    root,      // the root folder itself: attributes only
    create,    // make `path`
    whiteout,  // `path` of lower layers is deleted here
    opaque,    // nothing of lower layers shows in the folder `path` (may be empty: the root)
    ignore     // bookkeeping of aufs
};

struct Plan {
    PlanKind kind = PlanKind::create;
    std::string path;    // relative, without ".", ".." or empty parts
    std::string target;  // of a hard link, in the same form
};

// invalid_argument when the name leaves the root, is too long, or can't be a file's name.
Result<Plan> plan_entry(const TarEntry& entry);

// "a//./b/../c" -> "a/c"; a leading "/" is dropped. invalid_argument when ".." leads outside.
Result<std::string> clean_path(std::string_view path);
// Whether an extended attribute from an archive is set on a file: what changes how overlayfs or the host's security
// modules treat the file is not.
bool accepts_xattr(std::string_view name);

}  // namespace wherry::image
