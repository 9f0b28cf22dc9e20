#include "base/id.hpp"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstdlib>

namespace wherry {

void fill_random(std::span<std::byte> buffer) {
    while (!buffer.empty()) {
        ssize_t got = ::getrandom(buffer.data(), buffer.size(), 0);
        if (got <= 0) std::abort();
        buffer = buffer.subspan(static_cast<std::size_t>(got));
    }
}

std::string hex(std::span<const std::byte> bytes) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    text.reserve(bytes.size() * 2);
    for (std::byte b : bytes) {
        text += digits[std::to_integer<std::size_t>(b >> 4)];
        text += digits[std::to_integer<std::size_t>(b & std::byte{15})];
    }
    return text;
}

Result<std::string> unhex(std::string_view text) {
    if (text.size() % 2 != 0) return fail(Code::invalid_argument, "odd number of hexadecimal digits");
    auto value = [](char c) -> int {
        if (c >= '0' && c <= '9') return c - '0';
        if (c >= 'a' && c <= 'f') return c - 'a' + 10;
        if (c >= 'A' && c <= 'F') return c - 'A' + 10;
        return -1;
    };
    std::string bytes;
    bytes.reserve(text.size() / 2);
    for (std::size_t i = 0; i < text.size(); i += 2) {
        int high = value(text[i]);
        int low = value(text[i + 1]);
        if (high < 0 || low < 0) return fail(Code::invalid_argument, "not a hexadecimal digit");
        bytes += static_cast<char>(high * 16 + low);
    }
    return bytes;
}

std::string make_id() {
    while (true) {
        std::array<std::byte, 32> raw{};
        fill_random(raw);
        std::string id = hex(raw);
        // A hostname of digits alone confuses tools; Docker draws again too.
        if (!std::all_of(id.begin(), id.begin() + short_id_length, [](char c) { return c >= '0' && c <= '9'; }))
            return id;
    }
}

}  // namespace wherry
