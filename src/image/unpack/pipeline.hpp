// Three threads over one stream: one reads and decompresses, one hashes, and the caller's parses and writes. They share
// a ring of buffers; nothing is copied between them.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "base/digest.hpp"
#include "base/result.hpp"
#include "image/tar/decoder.hpp"

namespace wherry::image {

class StreamPipeline {
  public:
    struct Summary {
        std::string digest;  // of the decompressed stream
        std::uint64_t bytes = 0;
    };

    // `progress` is called on the reading thread with the compressed bytes consumed. Both must outlive the pipeline.
    StreamPipeline(StreamDecoder& decoder, std::uint64_t max_bytes, std::function<void(std::uint64_t)> progress);
    ~StreamPipeline();  // stops and joins
    StreamPipeline(const StreamPipeline&) = delete;
    StreamPipeline& operator=(const StreamPipeline&) = delete;

    // The next piece; valid until the next call; empty at the end. The reading thread's error comes out here.
    Result<std::span<const std::byte>> next();
    // After the end: the digest of everything.
    Result<Summary> finish();

  private:
    static constexpr std::size_t slot_bytes = 256U << 10U;
    static constexpr std::size_t slot_count = 16;
    struct Slot {
        std::unique_ptr<std::byte[]> bytes = std::make_unique_for_overwrite<std::byte[]>(slot_bytes);
        std::size_t size = 0;  // 0: end of the stream
    };

    void read_loop();
    void hash_loop();
    void stop();

    StreamDecoder& decoder_;
    std::uint64_t max_bytes_;
    std::function<void(std::uint64_t)> progress_;
    std::array<Slot, slot_count> slots_;
    std::mutex mutex_;  // guards everything below
    std::condition_variable changed_;
    std::uint64_t produced_ = 0;  // slots
    std::uint64_t parsed_ = 0;
    std::uint64_t hashed_ = 0;
    bool holding_ = false;  // the caller still reads slot parsed_
    bool stopping_ = false;
    std::optional<Error> error_;
    std::uint64_t total_bytes_ = 0;
    Sha256 hash_;  // the hashing thread's, the caller's once that ended
    std::thread reader_;
    std::thread hasher_;
};

}  // namespace wherry::image
