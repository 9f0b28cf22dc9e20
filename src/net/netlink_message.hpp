// Building and reading netlink messages (netlink(7)): headers, attributes, nesting; and a blocking socket that sends
// a batch and collects its acknowledgements. Shared by route netlink and nf_tables. Host byte order unless a name
// says otherwise. Nothing read from the kernel is trusted to be well-formed.
#pragma once

#include <linux/netlink.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::net {

// One or more messages, back to back.
class NetlinkWriter {
  public:
    // Starts a message; `body` is the protocol's fixed header (ifinfomsg, nfgenmsg, …).
    template <class Body>
        requires std::is_trivially_copyable_v<Body>
    void begin(std::uint16_t type, std::uint16_t flags, std::uint32_t sequence, const Body& body) {
        start(type, flags, sequence);
        append(&body, sizeof body);
    }
    void end();  // of the message
    // Asks for an acknowledgement of the message that starts at `offset` of data().
    void acknowledge(std::size_t offset);

    void attribute(unsigned type, const void* data, std::size_t size);
    void attribute(unsigned type, std::string_view bytes) { attribute(type, bytes.data(), bytes.size()); }
    void string(unsigned type, std::string_view text);  // with its terminating zero
    void u8(unsigned type, std::uint8_t value) { attribute(type, &value, sizeof value); }
    void u16(unsigned type, std::uint16_t value) { attribute(type, &value, sizeof value); }
    void u32(unsigned type, std::uint32_t value) { attribute(type, &value, sizeof value); }
    void be16(unsigned type, std::uint16_t value);
    void be32(unsigned type, std::uint32_t value);
    void be64(unsigned type, std::uint64_t value);
    void flag(unsigned type) { attribute(type, nullptr, 0); }

    // Nested attributes: auto at = nest(type); …; close(at).
    std::size_t nest(unsigned type);
    void close(std::size_t at);
    // Raw bytes inside a nest (struct ifinfomsg in VETH_INFO_PEER).
    void append(const void* data, std::size_t size);

    std::string_view data() const { return {buffer_.data(), buffer_.size()}; }
    bool empty() const { return buffer_.empty(); }
    void clear() { buffer_.clear(); }

  private:
    void start(std::uint16_t type, std::uint16_t flags, std::uint32_t sequence);
    void pad();

    std::vector<char> buffer_;
    std::size_t message_ = 0;
};

// A read-only view of attributes. Iteration stops at the first malformed one.
class NetlinkAttributes {
  public:
    explicit NetlinkAttributes(std::string_view bytes) : bytes_(bytes) {}

    struct Attribute {
        unsigned type = 0;  // without the nested and byte-order flags
        std::string_view data;

        std::uint8_t u8() const { return value<std::uint8_t>(); }
        std::uint16_t u16() const { return value<std::uint16_t>(); }
        std::uint32_t u32() const { return value<std::uint32_t>(); }
        std::uint32_t be32() const;
        std::uint64_t be64() const;
        std::string text() const;  // up to the first zero
        NetlinkAttributes nested() const { return NetlinkAttributes(data); }

      private:
        // The value, or zero where the attribute is too short.
        template <class T>
        T value() const {
            T result{};
            if (data.size() >= sizeof result) __builtin_memcpy(&result, data.data(), sizeof result);
            return result;
        }
    };

    // False at the end.
    bool next(Attribute& attribute);
    // The first attribute of that type; empty data and type 0 when there is none.
    Attribute find(unsigned type) const;

  private:
    std::string_view bytes_;
};

// A received message: its type and what follows the netlink header.
struct NetlinkMessage {
    std::uint16_t type = 0;
    std::string_view payload;

    // The fixed header of type Body, and the attributes after it; false when the payload is too short.
    template <class Body>
    bool split(Body& body, NetlinkAttributes& attributes) const {
        if (payload.size() < sizeof body) return false;
        __builtin_memcpy(&body, payload.data(), sizeof body);
        std::size_t offset = (sizeof body + NLMSG_ALIGNTO - 1) / NLMSG_ALIGNTO * NLMSG_ALIGNTO;
        attributes = NetlinkAttributes(payload.substr(offset < payload.size() ? offset : payload.size()));
        return true;
    }
};

// A blocking netlink socket with extended acknowledgements. One thread at a time.
class NetlinkChannel {
  public:
    static Result<NetlinkChannel> open(int protocol);  // NETLINK_ROUTE, NETLINK_NETFILTER

    // The sequence number for the next message.
    std::uint32_t next_sequence() { return sequence_++; }

    // Sends the messages and waits until `acknowledgements` of them (those with NLM_F_ACK) were answered. Returns the
    // first error; `failed`, when given, receives the sequence number it was for.
    Result<> transact(const NetlinkWriter& messages, std::size_t acknowledgements, std::uint32_t* failed = nullptr);
    // An nf_tables batch: the kernel answers an error for each bad message and otherwise one acknowledgement
    // for the last, `final_sequence`.
    Result<> transact_batch(const NetlinkWriter& messages, std::uint32_t final_sequence,
                            std::uint32_t* failed = nullptr);
    // Sends one NLM_F_DUMP or get request and hands over every message of the answer. unavailable with EINTR when
    // the table changed while it was read: the caller may ask again.
    Result<> query(const NetlinkWriter& request, const std::function<void(const NetlinkMessage&)>& visit);

    int fd() const { return socket_.get(); }

  private:
    explicit NetlinkChannel(Fd socket) : socket_(std::move(socket)), buffer_(8U << 10U) {}
    Result<std::string_view> receive();
    Result<> send(const NetlinkWriter& messages);

    Fd socket_;
    std::uint32_t sequence_ = 1;
    std::vector<char> buffer_;
};

}  // namespace wherry::net
