// Frames for the metadata service's TCP/IP: each with its length in two bytes in front, and time that passes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "vmm/mmds/stack.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::vmm::mmds;
    auto service = std::make_shared<Service>(51200);
    if (!service->put(wherry::json::object{{"a", wherry::json::object{{"b", "c"}}}})) return 0;
    Stack stack(service);
    std::int64_t now = 1;
    std::span<const std::uint8_t> rest(data, size);
    while (rest.size() > 2) {
        const std::size_t length =
            std::min<std::size_t>((rest[0] | (std::size_t{rest[1]} << 8U)) & 0x7ffU, rest.size() - 2);
        const bool lets_time_pass = (rest[1] & 0x80U) != 0;
        const auto frame = std::as_bytes(rest.subspan(2, length));
        rest = rest.subspan(2 + length);
        if (stack.wants(frame.first(std::min<std::size_t>(frame.size(), 42)))) stack.receive(frame, now);
        for (int i = 0; i < 64 && stack.has_output(); ++i) {
            if (stack.take_output().size() < 42) __builtin_trap();
        }
        now += lets_time_pass ? 2'000'000'000 : 1000;
        stack.tick(now);
        if (const auto timeout = stack.next_timeout(now); timeout && timeout->count() <= 0) __builtin_trap();
    }
    return 0;
}
