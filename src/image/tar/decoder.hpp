// Decompression in-process, never by a program: gzip (ISA-L), zstd, bzip2 and xz, told apart from plain bytes by their
// first bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.hpp"
#include "image/bytes.hpp"

namespace wherry::image {

enum class Compression : unsigned char { none, gzip, zstd, bzip2, xz };

class StreamDecoder {
  public:
    // `source` must outlive the decoder.
    explicit StreamDecoder(ByteSource& source);
    ~StreamDecoder();
    StreamDecoder(const StreamDecoder&) = delete;
    StreamDecoder& operator=(const StreamDecoder&) = delete;

    // Decompressed bytes, as many as fit or are there; 0 at the end. invalid_argument: truncated or corrupt input;
    // resource_exhausted: xz data that takes more than 128 MiB of memory to decode (`xz -9` takes 65).
    Result<std::size_t> read(std::span<std::byte> out);
    std::uint64_t consumed_bytes() const noexcept { return consumed_; }
    Compression compression() const noexcept { return compression_; }

  private:
    struct Gzip;
    struct Zstd;
    struct Bzip2;
    struct Xz;
    Result<> detect();
    Result<bool> fill();
    Result<std::size_t> read_gzip(std::span<std::byte> out);
    Result<std::size_t> read_zstd(std::span<std::byte> out);
    Result<std::size_t> read_bzip2(std::span<std::byte> out);
    Result<std::size_t> read_xz(std::span<std::byte> out);

    ByteSource& source_;
    std::unique_ptr<std::byte[]> buffer_;
    std::span<std::byte> input_;  // not decoded yet, within buffer_
    std::uint64_t consumed_ = 0;
    bool detected_ = false;
    bool source_ended_ = false;
    Compression compression_ = Compression::none;
    std::unique_ptr<Gzip> gzip_;
    std::unique_ptr<Zstd> zstd_;
    std::unique_ptr<Bzip2> bzip2_;
    std::unique_ptr<Xz> xz_;
};

}  // namespace wherry::image
