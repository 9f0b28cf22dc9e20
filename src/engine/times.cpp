#include "engine/times.hpp"

#include <charconv>
#include <string>

namespace wherry::engine {
namespace {

constexpr std::int64_t longest_seconds = std::int64_t{100} * 366 * 24 * 3600;

}  // namespace

Result<Nanoseconds> parse_duration(std::string_view text) {
    const auto invalid = [&] {
        return fail(Code::invalid_argument, "invalid duration: \"" + std::string(text) + "\"");
    };
    if (text == "0") return Nanoseconds{0};
    if (text.empty()) return invalid();
    std::string_view rest = text;
    Nanoseconds total{0};
    while (!rest.empty()) {
        std::int64_t number = 0;
        const auto [stop, wrong] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
        if (wrong != std::errc{} || number < 0 || number > longest_seconds) return invalid();
        rest.remove_prefix(static_cast<std::size_t>(stop - rest.data()));
        if (rest.starts_with("ms")) {
            total += std::chrono::milliseconds(number);
            rest.remove_prefix(2);
        } else if (rest.starts_with('h') || rest.starts_with('m') || rest.starts_with('s')) {
            const std::int64_t unit = rest.front() == 'h' ? 3600 : rest.front() == 'm' ? 60 : 1;
            if (number > longest_seconds / unit) return invalid();
            total += std::chrono::seconds(number * unit);
            rest.remove_prefix(1);
        } else {
            return invalid();
        }
        if (total > std::chrono::seconds(longest_seconds)) return invalid();
    }
    return total;
}

Result<WallTime> parse_until(std::string_view text) {
    const std::string given(text);
    for (const char* ending : {"", "Z", ":00Z", "T00:00:00Z"}) {
        if (const auto time = parse_rfc3339(given + ending)) return *time;
    }
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (!text.empty() && error == std::errc{} && end == text.data() + text.size() && number >= 0 &&
        number < 2 * longest_seconds)
        return WallTime(std::chrono::seconds(number));
    const auto before = parse_duration(text);
    if (!before) return fail(Code::invalid_argument, "invalid value for until: \"" + given + "\"");
    return wall_now() - *before;
}

}  // namespace wherry::engine
