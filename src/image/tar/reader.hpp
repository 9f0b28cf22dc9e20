// A streaming reader of tar archives: v7, ustar, pax, GNU (long names, base-256 numbers) and star, sparse files in
// GNU's four encodings. It keeps names and attributes as bytes, bounds everything a stream may claim, and never
// allocates by a claimed size. Where formats leave room it reads as Go's archive/tar does, because that is what Docker
// reads with: two readers that disagree about an archive are a way to smuggle files.
//
//     TarReader reader(chunks);
//     while (auto entry = TRY(reader.next())) {
//         for (;;) { auto piece = TRY(reader.data()); if (piece.empty()) break; ... }
//     }
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace wherry::image {

enum class TarType : unsigned char { regular, hard_link, symlink, character_device, block_device, directory, fifo };

struct TarExtent {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
};

struct TarEntry {
    TarType type = TarType::regular;
    std::string path;        // as the archive has it: may be absolute, hold ".." or anything but a zero byte
    std::string target;      // of links
    std::uint32_t mode = 0;  // permission bits, setuid, setgid, sticky
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::uint64_t size_bytes = 0;  // of the file once written, holes included
    std::int64_t mtime_seconds = 0;
    std::uint32_t mtime_nanoseconds = 0;
    std::uint32_t device_major = 0;
    std::uint32_t device_minor = 0;
    std::map<std::string, std::string> xattrs;
    bool sparse = false;
    std::vector<TarExtent> extents;  // when sparse: where the stored bytes go; ordered, inside size_bytes
    std::uint64_t stored_bytes = 0;  // of content in the stream
};

// The next piece of the stream, valid until the next call; empty at the end.
using ChunkReader = std::function<Result<std::span<const std::byte>>()>;
// POSIX.1-2017, pax: archives consist of blocks.
inline constexpr std::size_t tar_block_bytes = 512;
using TarBlock = std::array<std::byte, tar_block_bytes>;

// Sees every byte of the stream that data() does not return, in order: headers, padding, the end.
using RawObserver = std::function<Result<>(std::span<const std::byte>)>;

class TarReader {
  public:
    explicit TarReader(ChunkReader chunks, RawObserver raw = {}) : chunks_(std::move(chunks)), raw_(std::move(raw)) {}

    // Skips what is left of the present entry. nullopt at the archive's end (then the rest of the stream was read,
    // too). invalid_argument: not a tar archive, or a broken one.
    Result<std::optional<TarEntry>> next();
    // The next piece of the entry's stored content; empty when there is no more. Valid until the next call.
    Result<std::span<const std::byte>> data();

  private:
    struct Pax;

    Result<bool> fill();
    Result<> observe(std::span<const std::byte> bytes);
    Result<bool> read_block(TarBlock& block);
    Result<> skip(std::uint64_t count);
    Result<std::string> read_special(std::uint64_t size);
    Result<> drain();
    Result<TarEntry> decode(const TarBlock& block, Pax& pax);
    Result<> read_old_sparse_map(const TarBlock& block, TarEntry& entry);
    Result<> read_sparse_map_1_0(TarEntry& entry);

    ChunkReader chunks_;
    RawObserver raw_;
    std::span<const std::byte> current_;
    std::uint64_t remaining_ = 0;  // stored bytes of the entry not read yet
    std::uint64_t padding_ = 0;
    bool any_entry_ = false;
    bool done_ = false;
};

}  // namespace wherry::image
