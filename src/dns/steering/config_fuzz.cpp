// Steering blocks: any text is a configuration or an error.
#include <cstddef>
#include <cstdint>

#include "dns/config_tree.hpp"
#include "dns/steering/config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::dns;
    // SAFETY: bytes as text.
    auto tree = parse_config_tree({reinterpret_cast<const char*>(data), size}, "fuzz");
    if (tree) (void)steering::parse_steering(*tree, "fuzz", "/nowhere");
    return 0;
}
