// Whatever parses must survive being written and parsed again.
#include <cstdlib>

#include "image/reference.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::image;
    // SAFETY: bytes read as characters.
    std::string_view text(reinterpret_cast<const char*>(data), size);
    if (auto reference = parse_reference(text)) {
        auto again = parse_reference(reference->canonical());
        if (!again || *again != *reference) std::abort();
        auto familiar = parse_reference(reference->familiar());
        if (!familiar || *familiar != *reference) std::abort();
    }
    return 0;
}
