// descriptors.json from hostile bytes: its names become arguments of a program. What is accepted is of the two forms,
// and comes back the same after it was written.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "checkpoint/descriptors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::checkpoint;
    // SAFETY: bytes are bytes.
    std::string_view input(reinterpret_cast<const char*>(data), size);
    auto streams = parse_standard_streams(input);
    if (!streams) return 0;
    for (const std::string& stream : *streams) {
        if (!stream.empty() && (!is_replaceable(stream) || stream.find_first_of("/ \n\\") != std::string::npos))
            __builtin_trap();
    }
    auto again = parse_standard_streams(to_text(*streams));
    if (!again || *again != *streams) __builtin_trap();
    return 0;
}
