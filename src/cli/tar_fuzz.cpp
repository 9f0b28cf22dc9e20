// The archive of a container, as cp reads it.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cli/tar.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::size_t at = 0;
    wherry::cli::TarReader reader([&](std::span<std::byte> buffer) -> wherry::Result<std::size_t> {
        std::size_t count = std::min(buffer.size(), size - at);
        if (count > 0) std::memcpy(buffer.data(), data + at, count);  // data is null when there is none
        at += count;
        return count;
    });
    std::array<std::byte, 512> buffer{};
    while (true) {
        auto entry = reader.next();
        if (!entry || !*entry) return 0;
        while (true) {
            auto count = reader.read(buffer);
            if (!count) return 0;
            if (*count == 0) break;
        }
    }
}
