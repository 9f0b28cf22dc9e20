#include "vmm/vhost_user/message.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace wherry::vmm::vhost_user {
namespace {

// One descriptor a region.
constexpr std::size_t most_fds = most_regions;

Result<> read_rest(int socket, std::span<std::byte> out) {
    while (!out.empty()) {
        const ssize_t n = recv(socket, out.data(), out.size(), 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(Code::unavailable, "vhost-user: no answer in time", errno);
        if (n == 0) return fail(Code::unavailable, "vhost-user: the other end is gone");
        out = out.subspan(static_cast<std::size_t>(n));
    }
    return {};
}

}  // namespace

Result<MemoryTable> Message::as_memory_table() const {
    MemoryTable table;
    constexpr std::size_t head = sizeof table.count + sizeof table.padding;
    if (header.bytes < head || header.bytes > sizeof table)
        return fail(Code::invalid_argument, "vhost-user: size of the memory table");
    std::memcpy(&table, payload.data(), header.bytes);
    if (table.count > most_regions || header.bytes < head + table.count * sizeof(MemoryRegion))
        return fail(Code::invalid_argument, "vhost-user: size of the memory table");
    return table;
}

Result<> send(int socket, Request request, std::uint32_t flags, std::span<const std::byte> payload,
              std::span<const int> fds) {
    const Header header = {.request = static_cast<std::uint32_t>(request),
                           .flags = version | flags,
                           .bytes = static_cast<std::uint32_t>(payload.size())};
    std::array<std::byte, sizeof header + largest_payload> bytes;
    if (payload.size() > largest_payload || fds.size() > most_fds)
        return fail(Code::invalid_argument, "vhost-user: a message that is too long");
    std::memcpy(bytes.data(), &header, sizeof header);
    if (!payload.empty()) std::memcpy(bytes.data() + sizeof header, payload.data(), payload.size());
    iovec piece = {.iov_base = bytes.data(), .iov_len = sizeof header + payload.size()};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * most_fds)> control = {};
    msghdr message = {};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
        message.msg_control = control.data();
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
        cmsghdr* part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
        std::memcpy(CMSG_DATA(part), fds.data(), sizeof(int) * fds.size());
    }
    while (piece.iov_len > 0) {
        const ssize_t n = sendmsg(socket, &message, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(Code::unavailable, "vhost-user: the other end takes no message", errno);
        piece.iov_base = static_cast<std::byte*>(piece.iov_base) + n;
        piece.iov_len -= static_cast<std::size_t>(n);
        message.msg_control = nullptr;  // went with the first byte
        message.msg_controllen = 0;
    }
    return {};
}

Result<Message> receive(int socket) {
    Message out;
    // The descriptors come with the first bytes, which are the header's.
    iovec piece = {.iov_base = &out.header, .iov_len = sizeof out.header};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * most_fds)> control = {};
    msghdr message = {};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    ssize_t n = -1;
    do {
        n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0) return fail(Code::unavailable, "vhost-user: no message in time", errno);
    if (n == 0) return fail(Code::unavailable, "vhost-user: the other end is gone");
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
            out.fds.emplace_back(fd);
        }
    }
    if ((message.msg_flags & MSG_CTRUNC) != 0) return fail(Code::invalid_argument, "vhost-user: too many descriptors");
    const auto got = static_cast<std::size_t>(n);
    TRY(read_rest(socket, std::as_writable_bytes(std::span(&out.header, 1)).subspan(got)));
    if ((out.header.flags & version_mask) != version)
        return fail(Code::invalid_argument, "vhost-user: another version of the protocol");
    if (out.header.bytes > largest_payload) return fail(Code::invalid_argument, "vhost-user: a message too long");
    TRY(read_rest(socket, std::span(out.payload).first(out.header.bytes)));
    return out;
}

}  // namespace wherry::vmm::vhost_user
