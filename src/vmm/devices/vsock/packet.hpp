// The packets of virtio-vsock (Virtio 1.2, section 5.10.6).
#pragma once

#include <cstdint>

namespace wherry::vmm::vsock {

struct [[gnu::packed]] Header {
    std::uint64_t source_cid = 0;
    std::uint64_t destination_cid = 0;
    std::uint32_t source_port = 0;
    std::uint32_t destination_port = 0;
    std::uint32_t bytes = 0;
    std::uint16_t type = 0;
    std::uint16_t operation = 0;
    std::uint32_t flags = 0;
    std::uint32_t buffer_bytes = 0;  // of the sender's receive buffer
    std::uint32_t forwarded = 0;     // bytes the sender has taken out of it, modulo 2^32
};
static_assert(sizeof(Header) == 44);

inline constexpr std::uint64_t host_cid = 2;
inline constexpr std::uint16_t type_stream = 1;

enum Operation : std::uint16_t {
    operation_request = 1,
    operation_response = 2,
    operation_reset = 3,
    operation_shutdown = 4,
    operation_data = 5,
    operation_credit_update = 6,
    operation_credit_request = 7,
};

inline constexpr std::uint32_t shutdown_receive = 1;
inline constexpr std::uint32_t shutdown_send = 2;

}  // namespace wherry::vmm::vsock
