// What the daemon reads of a copying child, and what the child reads of a container's /etc/passwd and /etc/group.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "image/copy/job.hpp"
#include "image/copy/place.hpp"
#include "image/copy/user.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::image;
    // SAFETY: bytes as chars.
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    if (auto stat = parse_stat(text)) {
        std::string line = format_stat(*stat);
        line.pop_back();
        auto again = parse_stat(line);
        if (!again || again->name != stat->name || again->link_target != stat->link_target) std::abort();
    }
    static_cast<void>(parse_copy_error(text));
    const std::string place = absolute_place(text);
    if (!place.starts_with('/') || place.find("/../") != std::string::npos || place.ends_with("/..")) std::abort();
    const std::size_t half = text.find('\0');
    if (half != std::string_view::npos)
        static_cast<void>(find_owner_in(text.substr(half), text.substr(half), text.substr(0, half)));
    return 0;
}
