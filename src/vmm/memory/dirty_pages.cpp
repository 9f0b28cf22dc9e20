#include "vmm/memory/dirty_pages.hpp"

#include <algorithm>
#include <atomic>
#include <bit>

namespace wherry::vmm {
namespace {

constexpr std::uint64_t bits = 64;

}  // namespace

DirtyPages::DirtyPages(std::uint64_t bytes)
    : pages_((bytes + page_bytes - 1) / page_bytes),
      word_count_((pages_ + bits - 1) / bits),
      words_(static_cast<std::uint64_t*>(std::calloc(std::max<std::uint64_t>(word_count_, 1), sizeof(std::uint64_t)))) {
    if (words_ == nullptr) std::abort();  // out of memory terminates
}

void DirtyPages::mark(std::uint64_t offset, std::uint64_t bytes) {
    if (bytes == 0) return;
    const std::uint64_t last = (offset + bytes - 1) / page_bytes;
    for (std::uint64_t page = offset / page_bytes; page <= last;) {
        const std::uint64_t end = std::min(last + 1, (page / bits + 1) * bits);
        const std::uint64_t count = end - page;
        const std::uint64_t mask = (count == bits ? ~0ULL : (1ULL << count) - 1) << (page % bits);
        std::atomic_ref<std::uint64_t> word(words_[page / bits]);
        // Most pages are written again and again: looking is cheaper than a locked write.
        if ((word.load(std::memory_order_relaxed) & mask) != mask) word.fetch_or(mask, std::memory_order_relaxed);
        page = end;
    }
}

void DirtyPages::merge(std::span<const std::uint64_t> words, std::uint64_t first_page) {
    const std::uint64_t first = first_page / bits;
    for (std::uint64_t i = 0; i < words.size() && first + i < word_count_; ++i)
        if (words[i] != 0)
            std::atomic_ref<std::uint64_t>(words_[first + i]).fetch_or(words[i], std::memory_order_relaxed);
}

void DirtyPages::clear() {
    for (std::uint64_t i = 0; i < word_count_; ++i) {
        std::atomic_ref<std::uint64_t> word(words_[i]);
        if (word.load(std::memory_order_relaxed) != 0) word.store(0, std::memory_order_relaxed);
    }
}

std::uint64_t DirtyPages::next(std::uint64_t page, bool marked) const {
    while (page < pages_) {
        std::uint64_t word = std::atomic_ref<std::uint64_t>(words_[page / bits]).load(std::memory_order_relaxed);
        if (!marked) word = ~word;
        word >>= page % bits;
        if (word != 0) return std::min(pages_, page + static_cast<std::uint64_t>(std::countr_zero(word)));
        page = (page / bits + 1) * bits;
    }
    return pages_;
}

}  // namespace wherry::vmm
