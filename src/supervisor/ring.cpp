#include "supervisor/ring.hpp"

#include <algorithm>
#include <cassert>

namespace wherry::supervisor {

void Ring::grow(std::size_t capacity) {
    if (capacity <= capacity_) return;
    if (!memory_.empty()) {
        std::string memory;
        memory.reserve(capacity);
        for (std::uint64_t offset = begin(); offset < end(); offset += peek(offset).size()) memory += peek(offset);
        memory.resize(capacity);
        memory_ = std::move(memory);
        first_ = 0;
    }
    capacity_ = capacity;
}

void Ring::append(std::string_view bytes) {
    assert(bytes.size() <= free_space());
    if (bytes.empty()) return;
    if (memory_.empty()) {
        memory_.resize(capacity_);
        first_ = 0;
    }
    std::size_t at = (first_ + size_) % capacity_;
    std::size_t before_wrap = std::min(bytes.size(), capacity_ - at);
    bytes.copy(memory_.data() + at, before_wrap);
    bytes.substr(before_wrap).copy(memory_.data(), bytes.size() - before_wrap);
    size_ += bytes.size();
}

void Ring::skip_to(std::uint64_t offset) {
    drop_before(end());
    begin_ = offset;
}

std::string_view Ring::peek(std::uint64_t offset) const {
    assert(offset >= begin_ && offset <= end());
    std::size_t skip = static_cast<std::size_t>(offset - begin_);
    std::size_t at = size_ == 0 ? 0 : (first_ + skip) % capacity_;
    return std::string_view(memory_).substr(at, std::min(size_ - skip, capacity_ - at));
}

void Ring::drop_before(std::uint64_t offset) {
    if (offset <= begin_) return;
    std::size_t count = static_cast<std::size_t>(std::min<std::uint64_t>(offset - begin_, size_));
    begin_ += count;
    size_ -= count;
    first_ = (first_ + count) % capacity_;
    if (size_ == 0) std::string().swap(memory_);
}

}  // namespace wherry::supervisor
