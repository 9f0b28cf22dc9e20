#include "image/unpack/pipeline.hpp"

#include <algorithm>

namespace wherry::image {

namespace {
constexpr std::uint64_t progress_step_bytes = 4U << 20U;
}

StreamPipeline::StreamPipeline(StreamDecoder& decoder, std::uint64_t max_bytes,
                               std::function<void(std::uint64_t)> progress)
    : decoder_(decoder), max_bytes_(max_bytes), progress_(std::move(progress)) {
    reader_ = std::thread([this] { read_loop(); });
    hasher_ = std::thread([this] { hash_loop(); });
}

StreamPipeline::~StreamPipeline() {
    stop();
}

void StreamPipeline::stop() {
    {
        std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    changed_.notify_all();
    if (reader_.joinable()) reader_.join();
    if (hasher_.joinable()) hasher_.join();
}

void StreamPipeline::read_loop() {
    std::uint64_t total = 0;
    std::uint64_t reported = 0;
    for (;;) {
        Slot* slot = nullptr;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return stopping_ || produced_ - std::min(parsed_, hashed_) < slot_count; });
            if (stopping_) return;
            slot = &slots_[produced_ % slot_count];
        }
        std::optional<Error> error;
        slot->size = 0;
        // Small pieces (a socket, a pipe) are gathered, so that the other two threads wake seldom.
        while (slot->size < slot_bytes) {
            auto count = decoder_.read(std::span(slot->bytes.get() + slot->size, slot_bytes - slot->size));
            if (!count) {
                error = std::move(count).error();
                break;
            }
            if (*count == 0) break;
            slot->size += *count;
        }
        total += slot->size;
        if (!error && total > max_bytes_) {
            error = Error(Code::resource_exhausted,
                          "stream is longer than " + std::to_string(max_bytes_) + " bytes once decompressed");
        }
        if (decoder_.consumed_bytes() - reported >= progress_step_bytes) {
            reported = decoder_.consumed_bytes();
            if (progress_) progress_(reported);
        }
        std::unique_lock lock(mutex_);
        total_bytes_ = total;
        bool last = error || slot->size == 0;
        if (error) {
            error_ = std::move(error);
        } else {
            ++produced_;
        }
        lock.unlock();
        changed_.notify_all();
        if (last) return;
    }
}

void StreamPipeline::hash_loop() {
    for (;;) {
        Slot* slot = nullptr;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return stopping_ || error_ || hashed_ < produced_; });
            if (stopping_ || (error_ && hashed_ == produced_)) return;
            slot = &slots_[hashed_ % slot_count];
        }
        bool last = slot->size == 0;
        if (!last) hash_.update(std::span<const std::byte>(slot->bytes.get(), slot->size));
        {
            std::lock_guard lock(mutex_);
            ++hashed_;
        }
        changed_.notify_all();
        if (last) return;
    }
}

Result<std::span<const std::byte>> StreamPipeline::next() {
    std::unique_lock lock(mutex_);
    if (holding_) {
        holding_ = false;
        ++parsed_;
        changed_.notify_all();
    }
    changed_.wait(lock, [&] { return error_ || parsed_ < produced_; });
    if (parsed_ == produced_) return std::unexpected(error_->clone());
    Slot& slot = slots_[parsed_ % slot_count];
    // The end stays where it is, so that asking again gives the end again.
    if (slot.size > 0) holding_ = true;
    return std::span<const std::byte>(slot.bytes.get(), slot.size);
}

Result<StreamPipeline::Summary> StreamPipeline::finish() {
    for (;;) {
        auto piece = TRY(next());
        if (piece.empty()) break;
    }
    reader_.join();
    hasher_.join();
    return Summary{.digest = hash_.finish_digest(), .bytes = total_bytes_};
}

}  // namespace wherry::image
