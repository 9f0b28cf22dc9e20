#include "cli/units.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <span>

namespace wherry::cli {

namespace {

bool digit(char c) {
    return c >= '0' && c <= '9';
}

}  // namespace

std::string general(double value, int digits) {
    char text[64];
    int length = std::snprintf(text, sizeof text, "%.*g", digits, value);
    return {text, static_cast<std::size_t>(length)};
}

Result<std::int64_t> parse_bytes(std::string_view text) {
    const std::string quoted = "'" + std::string(text) + "'";
    auto last = text.find_last_of("0123456789. ");
    if (last == std::string_view::npos) return invalid("invalid size: " + quoted);
    std::string_view number = text[last] == ' ' ? text.substr(0, last) : text.substr(0, last + 1);
    std::string suffix;
    for (char c : text.substr(last + 1)) suffix += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    double size = 0;
    auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), size);
    if (number.empty() || error != std::errc() || end != number.data() + number.size())
        return invalid("strconv.ParseFloat: parsing \"" + std::string(number) + "\": invalid syntax");
    if (size < 0 || !std::isfinite(size)) return invalid("invalid size: " + quoted);
    double factor = 1;
    if (!suffix.empty()) {
        auto bad = [&] { return invalid("invalid suffix: '" + std::string(text.substr(last + 1)) + "'"); };
        if (suffix.size() > 3) return bad();
        auto step = std::string_view("kmgtp").find(suffix[0]);
        if (suffix == "b") {
            step = std::string_view::npos;
        } else if (step == std::string_view::npos || (suffix.size() == 2 && suffix[1] != 'b') ||
                   (suffix.size() == 3 && suffix.substr(1) != "ib")) {
            return bad();
        }
        if (step != std::string_view::npos) factor = std::pow(1024.0, static_cast<double>(step + 1));
    }
    double bytes = size * factor;
    if (bytes >= static_cast<double>(std::numeric_limits<std::int64_t>::max()))
        return invalid("invalid size: " + quoted);
    return static_cast<std::int64_t>(bytes);
}

Result<std::int64_t> parse_swap_bytes(std::string_view text) {
    if (text == "-1") return -1;
    return parse_bytes(text);
}

Result<std::int64_t> parse_duration(std::string_view text) {
    const std::string quoted = "\"" + std::string(text) + "\"";
    auto bad = [&] { return invalid("time: invalid duration " + quoted); };
    std::string_view rest = text;
    bool negative = false;
    if (!rest.empty() && (rest.front() == '-' || rest.front() == '+')) {
        negative = rest.front() == '-';
        rest.remove_prefix(1);
    }
    if (rest == "0") return 0;
    if (rest.empty()) return bad();
    double total = 0;
    while (!rest.empty()) {
        std::size_t length = 0;
        while (length < rest.size() && (digit(rest[length]) || rest[length] == '.')) ++length;
        double number = 0;
        const std::string digits(rest.substr(0, length));
        const char* last = digits.data() + digits.size();
        auto [end, error] = std::from_chars(digits.data(), last, number);
        if (length == 0 || error != std::errc() || end != last) return bad();
        rest.remove_prefix(length);
        std::size_t unit_length = 0;
        while (unit_length < rest.size() && !digit(rest[unit_length]) && rest[unit_length] != '.') ++unit_length;
        if (unit_length == 0) return invalid("time: missing unit in duration " + quoted);
        std::string_view unit = rest.substr(0, unit_length);
        static constexpr std::array<std::pair<std::string_view, double>, 8> units = {{{"ns", 1.0},
                                                                                      {"us", 1e3},
                                                                                      {"\xc2\xb5s", 1e3},
                                                                                      {"\xce\xbcs", 1e3},
                                                                                      {"ms", 1e6},
                                                                                      {"s", 1e9},
                                                                                      {"m", 60e9},
                                                                                      {"h", 3600e9}}};
        double scale = 0;
        for (const auto& [name, value] : units)
            if (name == unit) scale = value;
        if (scale == 0) return invalid("time: unknown unit \"" + std::string(unit) + "\" in duration " + quoted);
        total += number * scale;
        rest.remove_prefix(unit_length);
    }
    if (total >= 9.2e18) return bad();
    return static_cast<std::int64_t>(negative ? -std::llround(total) : std::llround(total));
}

Result<std::int64_t> parse_nano_cpus(std::string_view text) {
    auto bad = [&] { return invalid("failed to parse " + std::string(text) + " as a rational number"); };
    auto number = [](std::string_view part) -> std::optional<double> {
        double value = 0;
        if (part.starts_with('+')) part.remove_prefix(1);
        auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
        if (part.empty() || error != std::errc() || end != part.data() + part.size() || !std::isfinite(value))
            return std::nullopt;
        return value;
    };
    auto slash = text.find('/');
    auto above = number(text.substr(0, slash));
    auto below = slash == std::string_view::npos ? std::optional<double>(1.0) : number(text.substr(slash + 1));
    if (!above || !below || *below == 0) return bad();
    double nano = *above / *below * 1e9;
    if (std::abs(nano) >= 9.2e18) return bad();
    if (std::abs(nano - std::round(nano)) > 1e-3) return invalid("value is too precise");
    return std::llround(nano);
}

namespace {
template <class T>
Result<> only_check(Result<T> result) {
    if (!result) return std::unexpected(std::move(result).error());
    return {};
}
}  // namespace

Result<> check_bytes(std::string_view value) {
    return only_check(parse_bytes(value));
}
Result<> check_swap_bytes(std::string_view value) {
    return only_check(parse_swap_bytes(value));
}
Result<> check_duration(std::string_view value) {
    return only_check(parse_duration(value));
}
Result<> check_cpus(std::string_view value) {
    return only_check(parse_nano_cpus(value));
}

namespace {
std::string scaled(double size, double base, std::span<const std::string_view> names, int digits) {
    std::size_t step = 0;
    while (size >= base && step + 1 < names.size()) {
        size /= base;
        ++step;
    }
    return general(size, digits) + std::string(names[step]);
}
}  // namespace

std::string human_size(double bytes, int digits) {
    static constexpr std::array<std::string_view, 9> names = {"B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
    return scaled(bytes, 1000.0, names, digits);
}

std::string human_binary_size(double bytes) {
    static constexpr std::array<std::string_view, 9> names = {"B",   "KiB", "MiB", "GiB", "TiB",
                                                              "PiB", "EiB", "ZiB", "YiB"};
    return scaled(bytes, 1024.0, names, 4);
}

std::string human_duration(std::int64_t seconds) {
    auto count = [](std::int64_t n, const char* unit) { return std::to_string(n) + unit; };
    if (seconds < 1) return "Less than a second";
    if (seconds == 1) return "1 second";
    if (seconds < 60) return count(seconds, " seconds");
    std::int64_t minutes = seconds / 60;
    if (minutes == 1) return "About a minute";
    if (minutes < 60) return count(minutes, " minutes");
    std::int64_t hours = static_cast<std::int64_t>(std::floor(static_cast<double>(seconds) / 3600.0 + 0.5));
    if (hours == 1) return "About an hour";
    if (hours < 48) return count(hours, " hours");
    if (hours < 24LL * 7 * 2) return count(hours / 24, " days");
    if (hours < 24LL * 30 * 2) return count(hours / 24 / 7, " weeks");
    if (hours < 24LL * 365 * 2) return count(hours / 24 / 30, " months");
    return count(static_cast<std::int64_t>(static_cast<double>(seconds) / 3600.0 / 24.0 / 365.0), " years");
}

std::string human_ago(WallTime then, WallTime now) {
    return human_duration(std::chrono::duration_cast<std::chrono::seconds>(now - then).count()) + " ago";
}

std::string go_time(WallTime time) {
    std::string text = format_rfc3339(time);
    return text.substr(0, 10) + " " + text.substr(11, 8) + " +0000 UTC";
}

Result<std::string> parse_timestamp(std::string_view text, WallTime now) {
    auto format = [](WallTime time) {
        std::int64_t total = time.time_since_epoch().count();
        std::int64_t seconds = total / 1'000'000'000;
        std::int64_t nanos = total % 1'000'000'000;
        char out[48];
        int length = std::snprintf(out, sizeof out, "%lld.%09lld", static_cast<long long>(seconds),
                                   static_cast<long long>(nanos));
        return std::string(out, static_cast<std::size_t>(length));
    };
    auto dot = text.find('.');
    auto all_digits = [](std::string_view part) {
        for (char c : part)
            if (!digit(c)) return false;
        return !part.empty();
    };
    if (all_digits(text.substr(0, dot)) && (dot == std::string_view::npos || all_digits(text.substr(dot + 1))))
        return std::string(text);
    if (auto duration = parse_duration(text)) return format(now - Nanoseconds(*duration));
    std::string padded(text);
    if (padded.size() == 10)
        padded += "T00:00:00Z";  // a date
    else if (padded.size() == 16)
        padded += ":00Z";  // without seconds
    else if (padded.size() == 17 && padded.back() == 'Z')
        padded.insert(16, ":00");
    else if (padded.size() > 10 && padded.find_first_of("Zz+", 10) == std::string::npos &&
             padded.find('-', 11) == std::string::npos)
        padded += "Z";
    auto time = parse_rfc3339(padded);
    if (!time) return invalid("failed to parse value as time or duration: \"" + std::string(text) + "\"");
    return format(*time);
}

}  // namespace wherry::cli
