// Tar archives for cp: POSIX.1-2001 (pax) and GNU long names, read and written as a stream.
//
// What is read comes from a container and is hostile: names are only ever resolved below the destination's descriptor,
// symbolic links in it are not followed, devices and foreign types are skipped, sizes are bounded by the stream itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::cli {

struct TarEntry {
    std::string name;  // without a trailing slash
    char type = '0';   // '0' file, '1' hard link, '2' symbolic link, '3' '4' devices, '5' folder, '6' fifo
    mode_t mode = 0644;
    uid_t uid = 0;
    gid_t gid = 0;
    std::int64_t mtime_s = 0;
    std::uint64_t size = 0;
    std::string link;
};

using ByteSource = std::function<Result<std::size_t>(std::span<std::byte> buffer)>;

class TarReader {
  public:
    explicit TarReader(ByteSource source) : source_(std::move(source)) {}
    // The next entry; nullopt at the end. What is left of the entry before is skipped.
    Result<std::optional<TarEntry>> next();
    // The entry's content; 0 at its end.
    Result<std::size_t> read(std::span<std::byte> buffer);
    // Reads the stream to its end, so that the other side is not cut off.
    Result<> drain();

  private:
    Result<bool> fill(std::span<std::byte> buffer);  // exactly; false at a clean end
    Result<std::string> read_text(std::uint64_t size);

    ByteSource source_;
    std::uint64_t left_ = 0;     // of the current entry's content
    std::uint64_t padding_ = 0;  // after it
};

// One header with its pax records where needed.
std::string tar_header(const TarEntry& entry);
// Two zero blocks.
std::string tar_end();
// Zero bytes up to the next block.
std::string tar_padding(std::uint64_t size);

// Yields the archive of one path while it is read: the path itself under `root_name`, and everything below it.
class TarOfPath {
  public:
    // follow: `path` itself may be a symbolic link that is followed.
    static Result<TarOfPath> open(const std::string& path, std::string root_name, bool follow);
    Result<std::size_t> read(std::span<std::byte> buffer);

  private:
    struct Item {
        std::string path;
        std::string name;
    };
    TarOfPath() = default;
    Result<> add(const Item& item, bool follow);

    std::vector<Item> stack_;
    std::string pending_;
    std::size_t offset_ = 0;
    Fd file_;
    std::uint64_t file_left_ = 0;
    std::uint64_t file_size_ = 0;
    bool ended_ = false;
};

struct ExtractOptions {
    bool owners = false;  // keep uid and gid
    // What the archive's root (its first entry, and what lies below it) is called; empty: a root folder's contents go
    // into the destination itself.
    std::string root_name;
};

// Unpacks into the folder `path` (there already).
Result<> extract_tar(TarReader& reader, const std::string& path, const ExtractOptions& options);

}  // namespace wherry::cli
