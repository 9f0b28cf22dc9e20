// Writes the entries of a layer's tar stream below a folder. Single-threaded; runs inside the jail of wherry-unpack,
// but does not rely on it: every path is resolved by this code, component by component where a symlink of the archive
// is in the way, and opened with openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "image/tar/reader.hpp"
#include "image/unpack/plan.hpp"
#include "image/unpack/recipe.hpp"

namespace wherry::image {

class Unpacker {
  public:
    struct Totals {
        std::uint64_t entries = 0;
        std::uint64_t size_bytes = 0;  // stored content of files
    };

    // `workspace` holds the empty folders "diff" (becomes the root) and "replaced". The file "opaque" is written into
    // it: zero-terminated paths of opaque folders, for the parent to mark, because marking needs CAP_SYS_ADMIN.
    static Result<Unpacker> create(int workspace, RecipeWriter& recipe, std::uint64_t max_entries);

    Result<> apply(const TarEntry& entry, TarReader& reader);
    Result<Totals> finish();

  private:
    // A folder inside the root: its path without symlinks, and a descriptor (O_PATH).
    struct Folder {
        std::string path;
        int fd = -1;
    };
    enum class Missing : unsigned char { create, fail };

    Unpacker(RecipeWriter& recipe, std::uint64_t max_entries) : recipe_(&recipe), max_entries_(max_entries) {}

    Result<Fd> open_beneath(const std::string& path, int flags) const;
    Result<Folder> folder(std::string_view path, Missing missing);
    Result<std::string> resolve(std::string_view path, Missing missing) const;
    Result<> make_way(const Folder& parent, const std::string& name, const TarEntry* entry);
    Result<> set_aside(const Folder& parent, const std::string& name, bool directory);

    Result<> create(const Plan& plan, const TarEntry& entry, TarReader& reader);
    Result<> create_file(const Folder& parent, const std::string& name, const TarEntry& entry, TarReader& reader);
    Result<> create_directory(const Folder& parent, const std::string& name, const TarEntry& entry);
    Result<> create_special(const Folder& parent, const std::string& name, const Plan& plan, const TarEntry& entry);
    Result<> create_hard_link(const Folder& parent, const std::string& name, const Plan& plan);
    Result<> whiteout(const Plan& plan);
    Result<> mark_opaque(std::string_view path);
    Result<> directory_attributes(int directory, const std::string& path, const TarEntry& entry);
    Result<> restore_directory_times();

    RecipeWriter* recipe_;
    std::uint64_t max_entries_;
    Fd root_;
    Fd replaced_;
    Fd opaque_;
    Fd directory_times_;
    std::string pending_times_;
    std::uint32_t replaced_count_ = 0;
    Totals totals_;
    bool cached_valid_ = false;
    std::string cached_request_;  // what was asked for last ...
    Folder cached_;               // ... and where it is
    Fd cached_fd_;
};

}  // namespace wherry::image
