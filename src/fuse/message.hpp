// One request of a client and the room for its reply, wherever they are. What is read is a copy; bytes of files go
// straight between file and message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

#include "fuse/answer.hpp"

namespace wherry::fuse {

class Message {
  public:
    Message() = default;
    Message(const Message&) = delete;
    Message& operator=(const Message&) = delete;
    virtual ~Message() = default;

    virtual std::uint64_t request_bytes() const = 0;
    virtual std::uint64_t reply_room() const = 0;
    // The whole span or nothing.
    virtual bool read(std::uint64_t offset, std::span<std::byte> out) const = 0;
    virtual bool write(std::uint64_t offset, std::span<const std::byte> data) = 0;
    // From a file at an offset into the reply, or from the request into a file: bytes done, fewer at the file's end.
    virtual Answer<std::size_t> read_file(int fd, std::uint64_t at, std::uint64_t reply_offset, std::size_t bytes) = 0;
    virtual Answer<std::size_t> write_file(int fd, std::uint64_t at, std::uint64_t request_offset,
                                           std::size_t bytes) = 0;
    // For an answer that comes later: this message as one that lives on.
    virtual std::unique_ptr<Message> keep() = 0;
    // Of one that was kept: it is answered with so many bytes. On the serving thread.
    virtual void finish(std::uint32_t reply_bytes) = 0;

    template <class T>
        requires std::is_trivially_copyable_v<T>
    bool read_value(std::uint64_t offset, T& out) const {
        return read(offset, std::as_writable_bytes(std::span(&out, 1)));
    }
    template <class T>
        requires std::is_trivially_copyable_v<T>
    bool write_value(std::uint64_t offset, const T& value) {
        return write(offset, std::as_bytes(std::span(&value, 1)));
    }
};

}  // namespace wherry::fuse
