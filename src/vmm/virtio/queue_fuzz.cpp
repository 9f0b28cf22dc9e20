// A queue in memory of arbitrary bytes: popping ends, and nothing outside of memory is touched.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "vmm/testing/driver.hpp"
#include "vmm/virtio/queue.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::vmm;
    static const auto memory = testing::make_memory(1U << 16U);
    constexpr std::size_t head = 8;
    if (size < head) return 0;
    memory->fill(GuestAddress{0}, 1U << 16U, std::byte{0});
    const auto bytes = std::as_bytes(std::span(data, size)).subspan(head);
    memory->write_bytes(GuestAddress{0}, bytes.first(std::min<std::size_t>(bytes.size(), 1U << 16U)));
    Queue queue(64);
    queue.state.size = static_cast<std::uint16_t>(1U << (data[0] % 7));
    queue.state.ready = true;
    queue.state.event_index = (data[1] & 1U) != 0;
    queue.state.indirect = (data[1] & 2U) != 0;
    queue.state.descriptors = GuestAddress{std::uint64_t{data[2]} * 16};
    queue.state.available = GuestAddress{std::uint64_t{data[3]} * 64};
    queue.state.used = GuestAddress{std::uint64_t{data[4]} * 256};
    queue.state.next_available = data[5];
    if (!queue.start(memory)) return 0;
    Chain chain;
    for (int i = 0; i < 256; ++i) {
        const auto got = queue.pop(chain);
        if (!got || !*got) break;
        chain.writable.fill(0, chain.writable.size(), std::byte{0x5a});
        std::array<std::byte, 64> copy{};
        chain.readable.copy_out(data[6], copy);
        chain.writable.drop_front(data[7]);
        queue.push(chain.head, 1);
        queue.take_signal();
    }
    return 0;
}
