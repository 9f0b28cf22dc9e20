// An image's /etc/passwd and /etc/group with any --user. Input: user, a zero byte, passwd, a zero byte, group.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "oci/user.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // SAFETY: bytes as characters.
    std::string_view text(reinterpret_cast<const char*>(data), size);
    auto next = [&]() {
        auto end = text.find('\0');
        std::string_view part = text.substr(0, end);
        text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
        return part;
    };
    std::string_view user = next();
    std::string_view passwd = next();
    const std::string extra[] = {"audio"};
    auto resolved = wherry::oci::resolve_user_in(passwd, text, user, extra);
    [[maybe_unused]] auto plain = wherry::oci::resolve_user_in(passwd, text, user);
    return 0;
}
