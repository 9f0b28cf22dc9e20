// Any text as a configuration file: it is taken or refused with a line's number.
#include <cstdlib>
#include <string_view>

#include "dns/config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::dns;
    if (size > 1U << 16U) return 0;
    // SAFETY: bytes as characters.
    auto config = parse_config({reinterpret_cast<const char*>(data), size}, "input", "/etc/wherry");
    if (!config && config.error().describe().empty()) std::abort();
    return 0;
}
