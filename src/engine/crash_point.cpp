#include "engine/crash_point.hpp"

#include <unistd.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string_view>
#include <thread>

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
    const std::size_t plus = point.find('+');
    const std::string_view held = plus == std::string_view::npos ? std::string_view() : point.substr(plus + 1);
    point = point.substr(0, point.find_first_of(":+"));
    if (name != point || --left != 0) return;
    unsigned milliseconds = 0;
    std::from_chars(held.data(), held.data() + held.size(), milliseconds);
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    ::kill(::getpid(), SIGKILL);
}

}  // namespace wherry::engine
