#include "net/netlink_message.hpp"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace wherry::net {

namespace {

constexpr std::size_t align(std::size_t size) {
    return (size + NLMSG_ALIGNTO - 1) / NLMSG_ALIGNTO * NLMSG_ALIGNTO;
}

// The kernel answers within the system call that asked; this only bounds a kernel that never does.
constexpr int answer_timeout_ms = 10'000;

}  // namespace

void NetlinkWriter::append(const void* data, std::size_t size) {
    const char* bytes = static_cast<const char*>(data);
    buffer_.insert(buffer_.end(), bytes, bytes + size);
    pad();
}

void NetlinkWriter::pad() {
    buffer_.resize(align(buffer_.size()));
}

void NetlinkWriter::start(std::uint16_t type, std::uint16_t flags, std::uint32_t sequence) {
    message_ = buffer_.size();
    nlmsghdr header{};
    header.nlmsg_type = type;
    header.nlmsg_flags = flags;
    header.nlmsg_seq = sequence;
    append(&header, sizeof header);
}

void NetlinkWriter::end() {
    auto length = static_cast<std::uint32_t>(buffer_.size() - message_);
    std::memcpy(buffer_.data() + message_, &length, sizeof length);
}

void NetlinkWriter::acknowledge(std::size_t offset) {
    nlmsghdr header{};
    std::memcpy(&header, buffer_.data() + offset, sizeof header);
    header.nlmsg_flags |= NLM_F_ACK;
    std::memcpy(buffer_.data() + offset, &header, sizeof header);
}

void NetlinkWriter::attribute(unsigned type, const void* data, std::size_t size) {
    nlattr header{};
    header.nla_type = static_cast<std::uint16_t>(type);
    header.nla_len = static_cast<std::uint16_t>(NLA_HDRLEN + size);
    append(&header, sizeof header);
    if (size != 0) append(data, size);
}

void NetlinkWriter::string(unsigned type, std::string_view text) {
    std::string copy(text);
    attribute(type, copy.c_str(), copy.size() + 1);
}

void NetlinkWriter::be16(unsigned type, std::uint16_t value) {
    u16(type, htons(value));
}
void NetlinkWriter::be32(unsigned type, std::uint32_t value) {
    u32(type, htonl(value));
}
void NetlinkWriter::be64(unsigned type, std::uint64_t value) {
    std::uint64_t swapped = __builtin_bswap64(value);
    if constexpr (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) swapped = value;
    attribute(type, &swapped, sizeof swapped);
}

std::size_t NetlinkWriter::nest(unsigned type) {
    std::size_t at = buffer_.size();
    attribute(type | NLA_F_NESTED, nullptr, 0);
    return at;
}

void NetlinkWriter::close(std::size_t at) {
    auto length = static_cast<std::uint16_t>(buffer_.size() - at);
    std::memcpy(buffer_.data() + at, &length, sizeof length);
}

std::uint32_t NetlinkAttributes::Attribute::be32() const {
    return ntohl(u32());
}

std::uint64_t NetlinkAttributes::Attribute::be64() const {
    auto raw = value<std::uint64_t>();
    if constexpr (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) return raw;
    return __builtin_bswap64(raw);
}

std::string NetlinkAttributes::Attribute::text() const {
    return std::string(data.substr(0, data.find('\0')));
}

bool NetlinkAttributes::next(Attribute& attribute) {
    nlattr header{};
    if (bytes_.size() < sizeof header) return false;
    std::memcpy(&header, bytes_.data(), sizeof header);
    if (header.nla_len < NLA_HDRLEN || header.nla_len > bytes_.size()) {
        bytes_ = {};
        return false;
    }
    attribute.type = header.nla_type & static_cast<unsigned>(NLA_TYPE_MASK);
    attribute.data = bytes_.substr(NLA_HDRLEN, header.nla_len - static_cast<std::size_t>(NLA_HDRLEN));
    std::size_t step = align(header.nla_len);
    bytes_ = step < bytes_.size() ? bytes_.substr(step) : std::string_view{};
    return true;
}

NetlinkAttributes::Attribute NetlinkAttributes::find(unsigned type) const {
    NetlinkAttributes copy = *this;
    Attribute attribute;
    while (copy.next(attribute)) {
        if (attribute.type == type) return attribute;
    }
    return {};
}

Result<NetlinkChannel> NetlinkChannel::open(int protocol) {
    Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
    if (!socket) return fail_errno("open netlink socket");
    int on = 1;
    // Without these (kernels before 4.12) errors are only less well worded.
    ::setsockopt(socket.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
    ::setsockopt(socket.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    // SAFETY: the sockets API takes every address family through sockaddr.
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        return fail_errno("bind netlink socket");
    return NetlinkChannel(std::move(socket));
}

Result<> NetlinkChannel::send(const NetlinkWriter& messages) {
    std::string_view data = messages.data();
    if (data.size() > 128U << 10U) {
        // A message has to fit the socket's send buffer whole.
        int size = static_cast<int>(data.size() * 2);
        if (::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
            ::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    }
    sockaddr_nl kernel{};
    kernel.nl_family = AF_NETLINK;
    ssize_t sent = -1;
    do {
        // SAFETY: as above.
        sent = ::sendto(socket_.get(), data.data(), data.size(), 0, reinterpret_cast<const sockaddr*>(&kernel),
                        sizeof kernel);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) return fail_errno("send to netlink");
    if (static_cast<std::size_t>(sent) != data.size()) return fail(Code::internal, "netlink took half a message");
    return {};
}

Result<std::string_view> NetlinkChannel::receive() {
    pollfd poll{socket_.get(), POLLIN, 0};
    int ready = -1;
    do {
        ready = ::poll(&poll, 1, answer_timeout_ms);
    } while (ready < 0 && errno == EINTR);
    if (ready == 0) return fail(Code::deadline_exceeded, "no answer from netlink", ETIMEDOUT);
    while (true) {
        ssize_t size = ::recv(socket_.get(), nullptr, 0, MSG_PEEK | MSG_TRUNC);
        if (size > static_cast<ssize_t>(buffer_.size())) buffer_.resize(static_cast<std::size_t>(size));
        sockaddr_nl sender{};
        socklen_t length = sizeof sender;
        // SAFETY: as above.
        size =
            ::recvfrom(socket_.get(), buffer_.data(), buffer_.size(), 0, reinterpret_cast<sockaddr*>(&sender), &length);
        if (size < 0) {
            if (errno == EINTR) continue;
            return fail_errno("receive from netlink");
        }
        // Only the kernel (port 0) is believed: any process may send to our port.
        if (sender.nl_pid != 0) continue;
        return std::string_view(buffer_.data(), static_cast<std::size_t>(size));
    }
}

namespace {

// Cuts the next message off `data`; false at the end or at a malformed one.
bool next_message(std::string_view& data, nlmsghdr& header, std::string_view& payload) {
    if (data.size() < sizeof header) return false;
    std::memcpy(&header, data.data(), sizeof header);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > data.size()) return false;
    payload = data.substr(sizeof header, header.nlmsg_len - sizeof header);
    std::size_t step = align(header.nlmsg_len);
    data = step < data.size() ? data.substr(step) : std::string_view{};
    return true;
}

// The outcome an NLMSG_ERROR carries: 0 is an acknowledgement.
Result<> outcome_of(const nlmsghdr& header, std::string_view payload) {
    nlmsgerr error{};
    if (payload.size() < sizeof error) return fail(Code::internal, "short netlink acknowledgement");
    std::memcpy(&error, payload.data(), sizeof error);
    if (error.error == 0) return {};
    std::string words = "netlink";
    if ((header.nlmsg_flags & NLM_F_ACK_TLVS) != 0) {
        // The failed request follows whole unless NLM_F_CAPPED says that only its header does.
        std::size_t offset = sizeof error;
        if ((header.nlmsg_flags & NLM_F_CAPPED) == 0 && error.msg.nlmsg_len > sizeof error.msg)
            offset += align(error.msg.nlmsg_len - sizeof error.msg);
        if (offset < payload.size()) {
            std::string text = NetlinkAttributes(payload.substr(offset)).find(NLMSGERR_ATTR_MSG).text();
            if (!text.empty()) words += " (" + text + ")";
        }
    }
    return fail_errno(-error.error, words);
}

}  // namespace

Result<> NetlinkChannel::transact(const NetlinkWriter& messages, std::size_t acknowledgements, std::uint32_t* failed) {
    TRY(send(messages));
    Result<> first{};
    while (acknowledgements != 0) {
        std::string_view data = TRY(receive());
        nlmsghdr header{};
        std::string_view payload;
        while (acknowledgements != 0 && next_message(data, header, payload)) {
            if (header.nlmsg_type != NLMSG_ERROR) continue;
            --acknowledgements;
            auto outcome = outcome_of(header, payload);
            if (!outcome && first) {
                if (failed != nullptr) *failed = header.nlmsg_seq;
                first = std::move(outcome);
            }
        }
    }
    return first;
}

Result<> NetlinkChannel::transact_batch(const NetlinkWriter& messages, std::uint32_t final_sequence,
                                        std::uint32_t* failed) {
    TRY(send(messages));
    Result<> first{};
    while (true) {
        // After a failed batch some kernels send errors only: the queue running dry ends the wait as well.
        pollfd poll{socket_.get(), POLLIN, 0};
        if (!first && ::poll(&poll, 1, 0) == 0) return first;
        std::string_view data = TRY(receive());
        nlmsghdr header{};
        std::string_view payload;
        while (next_message(data, header, payload)) {
            if (header.nlmsg_type != NLMSG_ERROR) continue;
            auto outcome = outcome_of(header, payload);
            if (!outcome) {
                if (first) {
                    if (failed != nullptr) *failed = header.nlmsg_seq;
                    first = std::move(outcome);
                }
                continue;
            }
            if (header.nlmsg_seq == final_sequence && first) return {};
        }
    }
}

Result<> NetlinkChannel::query(const NetlinkWriter& request, const std::function<void(const NetlinkMessage&)>& visit) {
    TRY(send(request));
    nlmsghdr asked{};
    std::memcpy(&asked, request.data().data(), sizeof asked);
    const bool dump = (asked.nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
    bool interrupted = false;
    while (true) {
        std::string_view data = TRY(receive());
        nlmsghdr header{};
        std::string_view payload;
        while (next_message(data, header, payload)) {
            if (header.nlmsg_seq != asked.nlmsg_seq) continue;
            if ((header.nlmsg_flags & NLM_F_DUMP_INTR) != 0) interrupted = true;
            if (header.nlmsg_type == NLMSG_ERROR) return outcome_of(header, payload);
            if (header.nlmsg_type == NLMSG_DONE) {
                std::int32_t error = 0;
                if (payload.size() >= sizeof error) std::memcpy(&error, payload.data(), sizeof error);
                if (error < 0) return fail_errno(-error, "netlink dump");
                if (interrupted) return fail_errno(EINTR, "netlink dump");
                return {};
            }
            visit(NetlinkMessage{header.nlmsg_type, payload});
            if (!dump) return {};
        }
    }
}

}  // namespace wherry::net
