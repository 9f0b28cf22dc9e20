// Which pages of a piece of guest memory were written: one bit for each 4 KiB. Marked from any thread.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

namespace wherry::vmm {

class DirtyPages {
  public:
    static constexpr std::uint64_t page_bytes = 4096;

    explicit DirtyPages(std::uint64_t bytes);

    // Pages that [offset, offset + bytes) touches; all of it lies inside.
    void mark(std::uint64_t offset, std::uint64_t bytes);
    // Adds the bits of KVM's log, which has the same shape, from a page on whose number is a multiple of 64.
    void merge(std::span<const std::uint64_t> words, std::uint64_t first_page = 0);
    void clear();
    // The first page from `page` on that is marked (or is not); the number of pages when there is none.
    std::uint64_t next(std::uint64_t page, bool marked) const;
    std::uint64_t pages() const { return pages_; }

  private:
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    std::uint64_t pages_;
    std::uint64_t word_count_;
    // From calloc: large ones cost nothing until they are written.
    std::unique_ptr<std::uint64_t[], Free> words_;
};

}  // namespace wherry::vmm
