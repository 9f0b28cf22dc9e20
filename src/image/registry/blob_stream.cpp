#include "image/registry/blob_stream.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/log.hpp"

namespace wherry::image {

namespace {

constexpr std::uint64_t worth_parting_bytes = 8U << 20U;  // left to fetch
constexpr std::chrono::milliseconds trial{300};           // before it is judged whether one connection is enough
constexpr double slow_bytes_per_second = 60.0 * (1U << 20U);
constexpr std::size_t piece_bytes = 2U << 20U;
constexpr std::size_t pieces_at_once = 3;
constexpr std::uint64_t progress_bytes = 64U << 10U;  // fewer between two failures is no progress
constexpr unsigned most_failures = 200;

}  // namespace

BlobStream::BlobStream(RegistryClient& client, Descriptor blob) : client_(client), blob_(std::move(blob)) {}

BlobStream::~BlobStream() {
    for (auto& waiting : window_) waiting.wait();
}

Error BlobStream::wrong(std::string what) const {
    return {Code::data_loss, "blob " + blob_.digest + " " + std::move(what)};
}

Result<> BlobStream::open() {
    response_ = TRY(client_.open_blob(blob_, offset_));
    skip_ = response_->status() == 206 ? 0 : offset_;  // a registry without ranges begins again
    if (response_->status() == 200 && offset_ > 0) has_ranges_ = false;
    std::string_view length = response_->headers().get("Content-Length");
    const std::uint64_t promised = blob_.size_bytes - (response_->status() == 206 ? offset_ : 0);
    if (!length.empty() && length != std::to_string(promised))
        return std::unexpected(wrong("is " + std::string(length.substr(0, 20)) +
                                     " bytes long at the registry, its manifest says " + std::to_string(promised)));
    return {};
}

// After a failure that may pass: tries again, but not for ever.
Result<> BlobStream::broke_off(Error error) {
    response_.reset();
    const bool passing =
        error.code() == Code::unavailable || error.code() == Code::data_loss || error.code() == Code::deadline_exceeded;
    if (offset_ - failed_at_ >= progress_bytes) failures_ = 0;
    failed_at_ = offset_;
    if (!passing || ++failures_ >= client_.options().attempts || ++all_failures_ >= most_failures)
        return std::unexpected(std::move(error).context("blob " + blob_.digest + " after " + std::to_string(offset_) +
                                                        " of " + std::to_string(blob_.size_bytes) + " bytes"));
    log_debug("registry.resume", {{"blob", blob_.digest}, {"offset", offset_}, {"error", error}});
    return client_.pause(failures_ - 1, nullptr);
}

bool BlobStream::should_part() const {
    if (!has_ranges_ || skip_ > 0 || blob_.size_bytes - offset_ < worth_parting_bytes) return false;
    const Clock::duration elapsed = Clock::now() - started_;
    if (elapsed < trial) return false;
    const double seconds = std::chrono::duration<double>(elapsed).count();
    return waited_ * 2 > elapsed && static_cast<double>(offset_) / seconds < slow_bytes_per_second;
}

Result<> BlobStream::check_end() {
    std::array<std::byte, 1> more{};
    auto rest = response_->read_some(more);
    if (rest && *rest > 0)
        return std::unexpected(
            wrong("is longer than the " + std::to_string(blob_.size_bytes) + " bytes its manifest says"));
    response_.reset();
    return {};
}

Result<> BlobStream::check_digest() {
    if (hash_.finish_digest() == blob_.digest) return {};
    return fail(Code::data_loss,
                "filesystem layer verification failed for digest " + blob_.digest + ": the registry sent other bytes");
}

Result<std::size_t> BlobStream::read(std::span<std::byte> buffer) {
    if (ended_ || buffer.empty()) return std::size_t{0};
    std::size_t count = 0;
    while (count == 0 && offset_ < blob_.size_bytes) {
        if (client_.is_cancelled()) return fail(Code::cancelled, "cancelled");
        count = TRY(parallel_ ? read_pieces(buffer) : read_single(buffer));
    }
    if (count == 0) {
        ended_ = true;
        TRY(check_digest());
        return std::size_t{0};
    }
    hash_.update(std::span<const std::byte>(buffer).first(count));
    offset_ += count;
    // The last piece is not given away before it is known that nothing follows.
    if (offset_ == blob_.size_bytes && response_) TRY(check_end());
    return count;
}

// 0: try again.
Result<std::size_t> BlobStream::read_single(std::span<std::byte> buffer) {
    if (started_ == Clock::time_point{}) started_ = Clock::now();
    const Clock::time_point before = Clock::now();
    if (!response_) {
        auto opened = open();
        if (!opened) {
            // What the client tried again in vain will not do better here; a wrong length is wrong for good.
            return std::unexpected(std::move(opened).error());
        }
    }
    auto got = response_->read_some(buffer);
    waited_ += Clock::now() - before;
    if (!got || *got == 0) {
        TRY(broke_off(got ? Error(Code::data_loss, "it ends early") : std::move(got).error()));
        return std::size_t{0};
    }
    std::size_t count = *got;
    if (skip_ > 0) {
        const auto drop = static_cast<std::size_t>(std::min<std::uint64_t>(skip_, count));
        skip_ -= drop;
        count -= drop;
        std::memmove(buffer.data(), buffer.data() + drop, count);
    }
    if (count > blob_.size_bytes - offset_)
        return std::unexpected(
            wrong("is longer than the " + std::to_string(blob_.size_bytes) + " bytes its manifest says"));
    if (should_part()) {
        parallel_ = true;
        asked_ = offset_ + count;
        response_.reset();
        log_debug("registry.parallel", {{"blob", blob_.digest}, {"offset", asked_}});
    }
    return count;
}

Result<std::size_t> BlobStream::read_pieces(std::span<std::byte> buffer) {
    while (piece_offset_ == piece_.size()) {
        while (asked_ < blob_.size_bytes && window_.size() < pieces_at_once) {
            const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(piece_bytes, blob_.size_bytes - asked_));
            window_.push_back(std::async(std::launch::async,
                                         [this, at = asked_, size] { return client_.read_range(blob_, at, size); }));
            asked_ += size;
        }
        auto piece = window_.front().get();
        window_.pop_front();
        if (!piece) {
            for (auto& waiting : window_) waiting.wait();
            window_.clear();
            if (piece.error().code() != Code::unimplemented) return std::unexpected(std::move(piece).error());
            parallel_ = has_ranges_ = false;  // the plain way, from where we are
            return std::size_t{0};
        }
        piece_ = std::move(*piece);
        piece_offset_ = 0;
    }
    const std::size_t count = std::min(buffer.size(), piece_.size() - piece_offset_);
    std::memcpy(buffer.data(), piece_.data() + piece_offset_, count);
    piece_offset_ += count;
    return count;
}

}  // namespace wherry::image
