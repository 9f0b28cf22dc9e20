#include "image/registry/channel.hpp"

#include <algorithm>
#include <cstring>

namespace wherry::image {

Result<> Channel::write(std::string chunk) {
    std::unique_lock lock(lock_);
    changed_.wait(lock, [&] { return size_ < limit_ || abandoned_; });
    if (abandoned_) return fail(Code::cancelled, "nobody reads any more");
    size_ += chunk.size();
    chunks_.push_back(std::move(chunk));
    changed_.notify_all();
    return {};
}

void Channel::finish(Result<> outcome) {
    std::lock_guard lock(lock_);
    finished_ = true;
    if (!outcome) error_ = std::move(outcome).error();
    changed_.notify_all();
}

Result<std::size_t> Channel::read(std::span<std::byte> buffer) {
    std::unique_lock lock(lock_);
    changed_.wait(lock, [&] { return !chunks_.empty() || finished_; });
    if (error_) return std::unexpected(error_->clone());  // at once: what came before it is not needed
    if (chunks_.empty()) return std::size_t{0};
    std::string& chunk = chunks_.front();
    std::size_t count = std::min(buffer.size(), chunk.size() - offset_);
    std::memcpy(buffer.data(), chunk.data() + offset_, count);
    offset_ += count;
    if (offset_ == chunk.size()) {
        size_ -= chunk.size();
        chunks_.pop_front();
        offset_ = 0;
        changed_.notify_all();
    }
    return count;
}

void Channel::abandon() {
    std::lock_guard lock(lock_);
    abandoned_ = true;
    chunks_.clear();
    changed_.notify_all();
}

}  // namespace wherry::image
