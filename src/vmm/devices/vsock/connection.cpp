#include "vmm/devices/vsock/connection.hpp"

#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace wherry::vmm::vsock {

bool Connection::write(const GuestBuffers& data) {
    // A guest that ignores its credit loses the connection, and we no memory.
    if (data.size() > buffer_bytes || unsent.size() + data.size() > buffer_bytes) return false;
    received += static_cast<std::uint32_t>(data.size());
    std::uint64_t done = 0;
    if (unsent.empty()) {
        const auto written = data.write_to(socket.get());
        if (!written && written.error().os_errno() != EAGAIN) return false;
        done = written.value_or(0);
        forwarded += static_cast<std::uint32_t>(done);
    }
    if (done < data.size()) {
        const std::size_t before = unsent.size(), rest = data.size() - done;
        unsent.resize(before + rest);
        data.copy_out(done, std::as_writable_bytes(std::span(unsent)).subspan(before));
    }
    return true;
}

bool Connection::flush() {
    while (!unsent.empty()) {
        const ssize_t n = send(socket.get(), unsent.data(), unsent.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        forwarded += static_cast<std::uint32_t>(n);
        unsent.erase(0, static_cast<std::size_t>(n));
    }
    return true;
}

}  // namespace wherry::vmm::vsock
