#include "image/bytes.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

namespace wherry::image {

ByteSource ByteSource::from_fd(Fd fd) {
    ByteSource source = borrow_fd(fd.get());
    source.owned_ = std::move(fd);
    return source;
}

ByteSource ByteSource::borrow_fd(int fd) {
    ByteSource source;
    source.fd_ = fd;
    return source;
}

ByteSource ByteSource::from_function(Read read) {
    ByteSource source;
    source.read_ = std::move(read);
    return source;
}

ByteSource ByteSource::from_string(std::string bytes) {
    auto text = std::make_shared<std::string>(std::move(bytes));
    auto position = std::make_shared<std::size_t>(0);
    return from_function([text, position](std::span<std::byte> buffer) -> Result<std::size_t> {
        std::size_t count = std::min(buffer.size(), text->size() - *position);
        std::memcpy(buffer.data(), text->data() + *position, count);
        *position += count;
        return count;
    });
}

Result<std::size_t> ByteSource::read(std::span<std::byte> buffer) {
    if (read_) return read_(buffer);
    for (;;) {
        ssize_t count = ::read(fd_, buffer.data(), buffer.size());
        if (count >= 0) return static_cast<std::size_t>(count);
        if (errno != EINTR) return fail_errno("read stream");
    }
}

ByteSink sink_to_fd(int fd) {
    return [fd](std::span<const std::byte> data) -> Result<> { return write_all(fd, as_text(data)); };
}

}  // namespace wherry::image
