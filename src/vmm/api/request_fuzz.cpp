// Requests of the API: a line "METHOD path" and a body. Parsing only; nothing is carried out.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "vmm/api/request.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // SAFETY: bytes as characters.
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const std::size_t space = text.find(' ');
    if (space == std::string_view::npos) return 0;
    const std::size_t line = text.find('\n', space);
    const std::string_view path = text.substr(space + 1, line == std::string_view::npos ? line : line - space - 1);
    const std::string_view body = line == std::string_view::npos ? std::string_view() : text.substr(line + 1);
    const auto parsed = wherry::vmm::api::parse_request(text.substr(0, space), path, body);
    if (!parsed && parsed.error().message().empty()) __builtin_trap();
    return 0;
}
