// A tar stream into a folder of a container that may be running: by Docker's rules of what replaces what, and without a
// way out, whatever the stream says and whatever the container does to its files meanwhile. Every name is resolved
// inside `root` by openat2(RESOLVE_IN_ROOT); symlinks in it lead where they lead a process of the container. Files are
// always made new (O_EXCL), never opened by a name that something else could have taken. Single-threaded.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "image/copy/user.hpp"
#include "image/tar/reader.hpp"

namespace wherry::image {

struct ExtractionOptions {
    bool keep_kinds = false;         // invalid_argument where a folder would replace something else, or be replaced
    std::optional<FileOwner> owner;  // of everything; nullopt: as the archive says
};

class Extraction {
  public:
    // `place`: a folder below `root` (both descriptors outlive the extraction). not_found; invalid_argument when it is
    // no folder; permission_denied (EROFS) when it can't be written to.
    static Result<Extraction> open(int root, std::string_view place, ExtractionOptions options);

    Result<> apply(const TarEntry& entry, TarReader& reader);
    Result<> finish();  // times of folders

  private:
    Extraction(int root, ExtractionOptions options) : root_(root), options_(options) {}

    struct FolderTime {
        std::string path;
        std::int64_t seconds = 0;
        std::uint32_t nanoseconds = 0;
    };

    std::string inside(std::string_view path) const;  // a path of the archive as one of the root
    Result<int> folder(std::string_view path);
    Result<Fd> make_folders(const std::string& path) const;
    Result<bool> make_way(int parent, const std::string& name, const std::string& path, const TarEntry& entry);
    Result<> create_file(int parent, const std::string& name, const TarEntry& entry, TarReader& reader);
    Result<> overwrite(int parent, const std::string& name, const TarEntry& entry, TarReader& reader);
    Result<> create_directory(int parent, const std::string& name, const std::string& path, const TarEntry& entry);
    Result<> create_other(int parent, const std::string& name, const TarEntry& entry);
    Result<> create_hard_link(int parent, const std::string& name, const TarEntry& entry);
    Result<> set_attributes(int file, const TarEntry& entry) const;
    FileOwner owner_of(const TarEntry& entry) const;

    int root_;
    ExtractionOptions options_;
    Fd place_;
    std::string place_path_;  // without symlinks
    bool busy_ = false;       // what make_way() found can't be taken away, but written to
    std::string cached_path_;
    Fd cached_;
    std::vector<FolderTime> times_;
    std::size_t times_bytes_ = 0;
};

}  // namespace wherry::image
