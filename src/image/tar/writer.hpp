// Writes tar archives: ustar headers, pax records for what does not fit (long or non-ASCII names, large numbers,
// fractions of seconds, extended attributes), GNU's sparse format 1.0 for files with holes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "image/bytes.hpp"
#include "image/tar/reader.hpp"

namespace wherry::image {

class TarWriter {
  public:
    explicit TarWriter(ByteSink sink) : sink_(std::move(sink)) {}

    // A header. For a regular file exactly entry.stored_bytes must follow by content(); when entry.sparse, the extents'
    // bytes in their order (size_bytes is the real size).
    Result<> begin(const TarEntry& entry);
    Result<> content(std::span<const std::byte> bytes);
    // Fills up to what begin() promised with zeros (a file that shrank while it was read), and pads.
    Result<> end();
    // The archive's end.
    Result<> finish();

    // A whole small file.
    Result<> file(std::string_view path, std::string_view bytes, std::int64_t mtime_seconds = 0);

  private:
    Result<> put(std::span<const std::byte> bytes) { return sink_(bytes); }
    Result<> zeros(std::uint64_t count);
    Result<> header(const TarEntry& entry, std::string_view name, std::string_view target, char flag,
                    std::uint64_t size);

    ByteSink sink_;
    std::uint64_t promised_ = 0;
    std::uint64_t padding_ = 0;
};

}  // namespace wherry::image
