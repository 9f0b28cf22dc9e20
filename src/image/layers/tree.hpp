// Walks over file trees by descriptor, never following a symlink: as tar streams, sizes, and comparisons.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "image/bytes.hpp"
#include "image/layer_store.hpp"

namespace wherry::image {

enum class TreeKind : unsigned char {
    plain,         // files as they are
    overlay_upper  // overlayfs' whiteouts and opaque folders become OCI's .wh. files
};

// Everything below `root` (which itself has no entry), sorted within folders. A tree may change meanwhile: files that
// vanish are left out, files that shrink are filled with zeros.
Result<> write_tree_tar(int root, TreeKind kind, const ByteSink& sink);
// `name` in `folder`, or with an empty name the folder itself with everything below it, as an archive whose first entry
// is called `shown` and the others lie below it.
Result<> write_place_tar(int folder, const std::string& name, const std::string& shown, const ByteSink& sink);
// Sum of the sizes of regular files; those with several names count once.
Result<std::uint64_t> tree_size(int root);
// What the overlayfs upper folder changes in the tree `lower`, but for the additions in `made` (absolute paths) and the
// traces they left in the times of their folders.
Result<std::vector<Change>> compare_upper(int upper, int lower, const std::set<std::string>& made);

// A read-only or writable overlayfs mount that is in no namespace; a descriptor (O_PATH) of its root folder. Without
// `upper` at least two lowers. Paths are absolute.
Result<Fd> mount_detached_overlay(const RootFilesystem& root, RootAccess access, const std::string& scratch_folder);

}  // namespace wherry::image
