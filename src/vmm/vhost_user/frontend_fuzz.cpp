// Answers of a hostile process to the monitor's messages: errors, never more.
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstdlib>

#include "vmm/testing/driver.hpp"
#include "vmm/vhost_user/frontend.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry;
    if (size > (1U << 15U)) return 0;
    static const auto memory = vmm::testing::make_memory(1U << 16U);
    auto [monitor, other] = *make_socket_pair(SOCK_STREAM);
    // SAFETY: the input as characters; it fits into the socket. Then the stream ends: nothing waits.
    if (size > 0 && !write_all(other.get(), {reinterpret_cast<const char*>(data), size})) abort();
    shutdown(other.get(), SHUT_WR);
    auto frontend = vmm::vhost_user::Frontend::greet(std::move(monitor), ~0ULL, 2);
    if (!frontend) return 0;
    // SAFETY: makes a descriptor, owned at once.
    const Fd event(eventfd(0, EFD_CLOEXEC));
    if (!frontend->start(frontend->features(), *memory)) return 0;
    if (!frontend->start_queue(0, {}, event.get(), event.get())) return 0;
    [[maybe_unused]] const auto stopped = frontend->stop_queue(0);
    return 0;
}
