#include "engine/crash_point.hpp"

#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdlib>
#include <string_view>

namespace wherry::engine {

void crash_point(std::string_view name) {
    static const char* const wanted = std::getenv("WHERRY_CRASH_AT");
    if (wanted == nullptr) return;
    std::string_view point = wanted;
    static int left = [] {
        const std::string_view text = wanted;
        const std::size_t colon = text.find(':');
        int count = 1;
        if (colon != std::string_view::npos) std::from_chars(text.data() + colon + 1, text.data() + text.size(), count);
        return count;
    }();
    point = point.substr(0, point.find(':'));
    if (name == point && --left == 0) ::kill(::getpid(), SIGKILL);
}

}  // namespace wherry::engine
