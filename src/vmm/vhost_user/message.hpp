// vhost-user messages (QEMU's docs/interop/vhost-user.rst) on a unix stream socket, as both ends need them: a
// monitor that gives its queues away, and a process that serves them. Little-endian, host and wire alike.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::vmm::vhost_user {

enum class Request : std::uint32_t {
    get_features = 1,
    set_features = 2,
    set_owner = 3,
    reset_owner = 4,
    set_mem_table = 5,
    set_vring_num = 8,
    set_vring_addr = 9,
    set_vring_base = 10,
    get_vring_base = 11,
    set_vring_kick = 12,
    set_vring_call = 13,
    set_vring_err = 14,
    get_protocol_features = 15,
    set_protocol_features = 16,
    get_queue_num = 17,
    set_vring_enable = 18,
    get_inflight_fd = 31,
    set_inflight_fd = 32,
};

// Feature bit of the device's features: there are protocol features, and rings start disabled.
inline constexpr std::uint64_t feature_protocol_features = 1ULL << 30U;
// Protocol features.
inline constexpr std::uint64_t protocol_multiqueue = 1ULL << 0U;
inline constexpr std::uint64_t protocol_reply_ack = 1ULL << 3U;
inline constexpr std::uint64_t protocol_inflight = 1ULL << 12U;

struct Header {
    std::uint32_t request = 0;
    std::uint32_t flags = 0;
    std::uint32_t bytes = 0;  // of what follows
};
static_assert(sizeof(Header) == 12);
inline constexpr std::uint32_t version_mask = 3, version = 1, reply_flag = 4, need_reply_flag = 8;

struct MemoryRegion {
    std::uint64_t guest_address = 0;
    std::uint64_t bytes = 0;
    std::uint64_t user_address = 0;  // what addresses of rings count in
    std::uint64_t file_offset = 0;
};
inline constexpr std::size_t most_regions = 8;
struct MemoryTable {
    std::uint32_t count = 0;
    std::uint32_t padding = 0;
    std::array<MemoryRegion, most_regions> regions = {};
};
struct VringState {
    std::uint32_t index = 0;
    std::uint32_t value = 0;
};
struct VringAddress {
    std::uint32_t index = 0;
    std::uint32_t flags = 0;
    std::uint64_t descriptors = 0;
    std::uint64_t used = 0;
    std::uint64_t available = 0;
    std::uint64_t log = 0;
};
// Memory in which requests that are not answered yet are noted: see inflight.hpp.
struct InflightDescription {
    std::uint64_t bytes = 0;
    std::uint64_t offset = 0;
    std::uint16_t queues = 0;
    std::uint16_t queue_size = 0;
    std::uint32_t padding = 0;
};
// Of kicks and calls: the queue, and whether there is no descriptor.
inline constexpr std::uint64_t vring_index_mask = 0xff, vring_no_descriptor = 0x100;

inline constexpr std::size_t largest_payload = 512;

struct Message {
    Header header;
    std::array<std::byte, largest_payload> payload = {};
    std::vector<Fd> fds;

    Request request() const { return static_cast<Request>(header.request); }
    // invalid_argument when the payload is of another size.
    template <class T>
        requires std::is_trivially_copyable_v<T>
    Result<T> as() const {
        if (header.bytes != sizeof(T)) return fail(Code::invalid_argument, "vhost-user: size of a message");
        T value = {};
        std::memcpy(&value, payload.data(), sizeof value);
        return value;
    }
    // A table may be as long as its count says.
    Result<MemoryTable> as_memory_table() const;
};

// Waits as long as the socket's timeouts say. unavailable at the end of the stream and at a timeout.
Result<> send(int socket, Request request, std::uint32_t flags, std::span<const std::byte> payload,
              std::span<const int> fds = {});
template <class T>
    requires std::is_trivially_copyable_v<T>
Result<> send(int socket, Request request, std::uint32_t flags, const T& value, std::span<const int> fds = {}) {
    return send(socket, request, flags, std::as_bytes(std::span(&value, 1)), fds);
}
// One message. invalid_argument for what is none.
Result<Message> receive(int socket);

}  // namespace wherry::vmm::vhost_user
