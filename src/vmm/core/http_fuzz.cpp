// The HTTP parser: the same requests come out however the bytes are cut.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "vmm/core/http.hpp"

namespace {

std::string run(std::string_view text, std::size_t step) {
    wherry::vmm::HttpParser parser({.head_bytes = 512, .body_bytes = 512});
    std::string out;
    for (std::size_t at = 0; at < text.size(); at += step) {
        parser.feed(text.substr(at, step));
        for (;;) {
            auto request = parser.next();
            if (!request) return out + "!";
            if (!*request) break;
            out += (*request)->method + " " + (*request)->target + " " + (*request)->body + "\n";
        }
    }
    return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // SAFETY: bytes as characters.
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    if (size == 0 || size > 4096) return 0;
    const std::string whole = run(text, size);
    const std::string cut = run(text, 1);
    // A head over its limit is noticed sooner when it comes in pieces; all else is the same.
    if (whole != cut && !whole.ends_with('!') && !cut.ends_with('!')) abort();
    return 0;
}
