// What the client has open. Numbers are never used twice in a session; a bounded number of handles is open. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/fd.hpp"
#include "fuse/answer.hpp"

namespace wherry::fuse {

struct Handle {
    std::uint64_t node = 0;
    Fd fd;
    bool is_directory = false;
    // Of directories: entries read and not handed out yet, and the position of the first of them.
    std::vector<char> entries;
    std::size_t next_entry = 0;
    std::uint64_t position = 0;
};

class HandleTable {
  public:
    explicit HandleTable(std::size_t limit, std::uint64_t first = 1) : limit_(limit), first_(first), next_(first) {}

    bool full() const { return handles_.size() >= limit_; }
    // ENFILE when there are too many.
    Answer<std::uint64_t> add(Handle handle);
    // EBADF for what is none, or one of another node or kind.
    Answer<Handle*> find(std::uint64_t number, std::uint64_t node, bool is_directory);
    void remove(std::uint64_t number) { handles_.erase(number); }
    void clear() {
        handles_.clear();
        next_ = first_;
    }
    std::size_t size() const { return handles_.size(); }

  private:
    std::size_t limit_;
    std::uint64_t first_, next_;
    std::unordered_map<std::uint64_t, std::unique_ptr<Handle>> handles_;
};

}  // namespace wherry::fuse
