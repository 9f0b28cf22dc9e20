// Byte streams as the image room takes and gives them: blocking, pulled and pushed by the caller's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::image {

// Where bytes come from: a descriptor (handed to a confined child without copying) or a function.
class ByteSource {
  public:
    // Fills at most buffer.size() bytes; 0 is the end of the stream. An error ends the operation that reads.
    using Read = std::function<Result<std::size_t>(std::span<std::byte> buffer)>;

    static ByteSource from_fd(Fd fd);     // owns it
    static ByteSource borrow_fd(int fd);  // must outlive the source
    static ByteSource from_function(Read read);
    static ByteSource from_string(std::string bytes);

    Result<std::size_t> read(std::span<std::byte> buffer);
    // The descriptor all bytes come from, or -1 when the source is a function.
    int fd() const noexcept { return fd_; }

  private:
    Fd owned_;
    int fd_ = -1;
    Read read_;
};

// Takes all of `data` or fails; an error ends the operation that writes.
using ByteSink = std::function<Result<>(std::span<const std::byte> data)>;

ByteSink sink_to_fd(int fd);  // blocking descriptor, which must outlive the sink

inline std::span<const std::byte> as_bytes(std::string_view text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}
// SAFETY: char may alias any object representation.
inline std::string_view as_text(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

struct Progress {
    std::string id;      // what it is about: a short digest or a file name
    std::string action;  // "Loading layer", "Importing"
    std::uint64_t current_bytes = 0;
    std::uint64_t total_bytes = 0;  // 0: not known
};
// Called on the working thread every few MiB. An error (code cancelled) ends the operation, nothing stays behind.
using ProgressFunction = std::function<Result<>(const Progress& progress)>;

}  // namespace wherry::image
