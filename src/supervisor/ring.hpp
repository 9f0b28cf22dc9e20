// A bounded buffer of a stream's latest bytes, addressed by their offset since the start of the stream. Its memory
// is allocated by the first append and given back by drop_before() when nothing is left.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace wherry::supervisor {

class Ring {
  public:
    explicit Ring(std::size_t capacity) : capacity_(capacity) {}

    std::uint64_t begin() const { return begin_; }  // offset of the oldest byte held
    std::uint64_t end() const { return begin_ + size_; }
    std::size_t free_space() const { return capacity_ - size_; }
    bool empty() const { return size_ == 0; }
    // Raises the limit, keeping what is held.
    void grow(std::size_t capacity);

    // `bytes` go behind end(); at most free_space() of them.
    void append(std::string_view bytes);
    // Bytes that were not kept went by: everything held so far is dropped, too.
    void skip_to(std::uint64_t offset);
    // The longest contiguous piece from `offset` on; empty at the end. begin() <= offset <= end().
    std::string_view peek(std::uint64_t offset) const;
    void drop_before(std::uint64_t offset);

  private:
    std::size_t capacity_;
    std::string memory_;  // empty, or capacity_ bytes
    std::size_t first_ = 0;
    std::size_t size_ = 0;
    std::uint64_t begin_ = 0;
};

}  // namespace wherry::supervisor
