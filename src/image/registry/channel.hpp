// A bounded queue of byte chunks between one writing and one reading thread, with an end that may be an error on either
// side.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>

#include "base/result.hpp"
#include "image/bytes.hpp"

namespace wherry::image {

class Channel {
  public:
    explicit Channel(std::size_t limit_bytes) : limit_(limit_bytes) {}

    // Waits for room. `cancelled` once the reader is gone.
    Result<> write(std::string chunk);
    // No more comes: the end, or why not.
    void finish(Result<> outcome);
    // At most buffer.size() bytes; 0 is the end; the writer's error when it ended with one.
    Result<std::size_t> read(std::span<std::byte> buffer);
    // The reader takes no more.
    void abandon();

  private:
    std::mutex lock_;
    std::condition_variable changed_;
    std::deque<std::string> chunks_;
    std::size_t offset_ = 0;  // read of the first chunk
    std::size_t size_ = 0;
    std::size_t limit_;
    bool finished_ = false;
    bool abandoned_ = false;
    std::optional<Error> error_;
};

}  // namespace wherry::image
