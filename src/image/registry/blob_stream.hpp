// A registry's blob as a stream to read from, in order and checked: a broken connection goes on where it stopped, and
// the end comes only when length and digest are right.
//
// One connection carries the blob as long as that fills the way (a near registry, a slow reader). Where the network is
// what is waited for and the blob is large, the rest comes in pieces of several connections side by side.
//
// Threading: one thread at a time. The registry's client may be shared.
#pragma once

#include <chrono>
#include <deque>
#include <future>
#include <optional>
#include <span>

#include "base/digest.hpp"
#include "base/result.hpp"
#include "image/registry/client.hpp"

namespace wherry::image {

class BlobStream {
  public:
    // Nothing is asked before the first read. The client must outlive the stream.
    BlobStream(RegistryClient& client, Descriptor blob);
    ~BlobStream();  // waits for the pieces under way
    BlobStream(const BlobStream&) = delete;
    BlobStream& operator=(const BlobStream&) = delete;

    // 0: the end, and everything before it was the blob. data_loss: other bytes than its digest says, more or fewer
    // than its length; unavailable, deadline_exceeded after all tries; cancelled.
    Result<std::size_t> read(std::span<std::byte> buffer);
    std::uint64_t received() const { return offset_; }
    bool complete() const { return offset_ == blob_.size_bytes; }
    bool is_parallel() const { return parallel_; }

  private:
    using Clock = std::chrono::steady_clock;

    Result<> open();
    Result<std::size_t> read_single(std::span<std::byte> buffer);
    Result<std::size_t> read_pieces(std::span<std::byte> buffer);
    Result<> check_end();
    Result<> check_digest();
    Result<> broke_off(Error error);
    bool should_part() const;
    Error wrong(std::string what) const;

    RegistryClient& client_;
    Descriptor blob_;
    std::optional<http::ClientResponse> response_;
    std::uint64_t offset_ = 0;  // read and hashed
    std::uint64_t skip_ = 0;    // of a response that began at the blob's start again
    std::uint64_t failed_at_ = 0;
    unsigned failures_ = 0;      // without progress worth speaking of
    unsigned all_failures_ = 0;  // of the whole blob
    Sha256 hash_;
    bool ended_ = false;
    Clock::time_point started_{};
    Clock::duration waited_{};  // for the network

    bool parallel_ = false;
    bool has_ranges_ = true;
    std::uint64_t asked_ = 0;
    std::deque<std::future<Result<std::string>>> window_;
    std::string piece_;
    std::size_t piece_offset_ = 0;
};

}  // namespace wherry::image
