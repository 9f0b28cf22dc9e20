#include "oci/channel.hpp"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <span>

namespace wherry::oci {

namespace {

constexpr std::size_t text_limit = 2048;
constexpr std::size_t groups_limit = 512;

// The wire form: both ends are the same binary, so its layout is the compiler's.
struct Wire {
    MessageKind kind;
    std::int64_t pid;
    Timeline timeline;
    Code code;
    int os_errno;
    std::uint32_t text_length, home_length, name_length, group_count;
    uid_t uid;
    gid_t gid;
    std::array<char, text_limit> text;
    std::array<char, 512> home, name;
    std::array<gid_t, groups_limit> groups;
};

template <std::size_t Size>
std::uint32_t put(std::array<char, Size>& field, const std::string& text) {
    std::size_t length = std::min(text.size(), Size);
    std::memcpy(field.data(), text.data(), length);
    return static_cast<std::uint32_t>(length);
}

template <std::size_t Size>
std::string get(const std::array<char, Size>& field, std::uint32_t length) {
    return std::string(field.data(), std::min<std::size_t>(length, Size));
}

}  // namespace

Result<> send_message(int socket, const Message& message, int descriptor) {
    Wire wire{};
    wire.kind = message.kind;
    wire.pid = message.pid;
    wire.timeline = message.timeline;
    wire.code = message.code;
    wire.os_errno = message.os_errno;
    wire.text_length = put(wire.text, message.text);
    wire.home_length = put(wire.home, message.user.home);
    wire.name_length = put(wire.name, message.user.name);
    wire.uid = message.user.user.uid;
    wire.gid = message.user.user.gid;
    const auto& groups = message.user.user.additional_gids;
    wire.group_count = static_cast<std::uint32_t>(std::min(groups.size(), groups_limit));
    std::copy_n(groups.begin(), wire.group_count, wire.groups.begin());
    // SAFETY: Wire is trivially copyable; the receiver is another copy of this program.
    std::string_view bytes(reinterpret_cast<const char*>(&wire), sizeof wire);
    std::span<const int> fds(&descriptor, descriptor >= 0 ? 1 : 0);
    return send_with_fds(socket, bytes, fds);
}

Result<std::optional<Message>> receive_message(int socket) {
    Wire wire{};
    // SAFETY: as above; the length is checked before anything is read from it.
    auto bytes = std::as_writable_bytes(std::span(&wire, 1));
    auto got = receive_with_fds(socket, bytes);
    // The other side has ended without reading what we sent. What it sent before comes after this one error (unix(7)).
    if (!got && got.error().os_errno() == ECONNRESET) got = receive_with_fds(socket, bytes);
    Received received = TRY(std::move(got));
    if (received.bytes == 0) return std::nullopt;
    if (received.bytes != sizeof wire) return fail(Code::data_loss, "cut message from the runtime's child");
    Message message;
    message.kind = wire.kind;
    message.pid = wire.pid;
    message.timeline = wire.timeline;
    message.code = wire.code;
    message.os_errno = wire.os_errno;
    message.text = get(wire.text, wire.text_length);
    message.user.home = get(wire.home, wire.home_length);
    message.user.name = get(wire.name, wire.name_length);
    message.user.user.uid = wire.uid;
    message.user.user.gid = wire.gid;
    message.user.user.additional_gids.assign(
        wire.groups.begin(), wire.groups.begin() + std::min<std::ptrdiff_t>(wire.group_count, groups_limit));
    if (!received.fds.empty()) message.descriptor = std::move(received.fds.front());
    return message;
}

Message failure_message(const Error& error) {
    Message message;
    message.kind = MessageKind::failed;
    message.code = error.code();
    message.os_errno = error.os_errno();
    message.text = error.describe();
    return message;
}

Error error_of(const Message& message) {
    return Error(message.code, message.text, message.os_errno);
}

}  // namespace wherry::oci
