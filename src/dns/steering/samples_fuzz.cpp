// What senders and state files say: samples, heads of control requests, prefixes and the tables made of them.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "dns/steering/control.hpp"
#include "dns/steering/latency.hpp"
#include "dns/steering/prefix_table.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::dns::steering;
    // SAFETY: bytes as text.
    std::string_view text(reinterpret_cast<const char*>(data), size);
    LatencyMap map(3, {});
    if (map.load(text, 1'000'000)) {
        map.summarize(1'000'000);
        std::vector<PrefixTable::Entry> entries;
        for (const Prefix& prefix : map.cells()) {
            auto estimates = map.estimate(prefix, 1'000'000);
            entries.push_back({prefix, static_cast<std::uint16_t>(estimates.size())});
        }
        PrefixTable table(std::move(entries), 0);
        for (const Prefix& prefix : map.cells())
            (void)table.find(std::span<const std::uint8_t>(prefix.bytes).first(prefix.ipv6 ? 16 : 4));
        LatencyMap again(3, {});
        if (!again.load(map.save(), 1'000'000)) __builtin_trap();  // what was written is read
    }
    std::size_t length = 0;
    (void)parse_control_head(text, length);
    (void)Prefix::parse(text);
    return 0;
}
