#include "base/clock.hpp"

#include <charconv>
#include <cstdio>
#include <ctime>

namespace wherry {

WallTime wall_now() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return WallTime(std::chrono::seconds(now.tv_sec) + Nanoseconds(now.tv_nsec));
}

std::int64_t monotonic_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

std::string format_rfc3339(WallTime time) {
    auto day = std::chrono::floor<std::chrono::days>(time);
    std::chrono::year_month_day date(day);
    std::chrono::hh_mm_ss clock(time - day);
    char text[40];
    int length =
        std::snprintf(text, sizeof text, "%04d-%02u-%02uT%02d:%02d:%02d.%09lldZ", static_cast<int>(date.year()),
                      static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                      static_cast<int>(clock.hours().count()), static_cast<int>(clock.minutes().count()),
                      static_cast<int>(clock.seconds().count()), static_cast<long long>(clock.subseconds().count()));
    return {text, static_cast<std::size_t>(length)};
}

std::string format_rfc3339_short(WallTime time) {
    if (time == WallTime{}) return "0001-01-01T00:00:00Z";
    std::string text = format_rfc3339(time);
    text.pop_back();
    while (text.back() == '0') text.pop_back();
    if (text.back() == '.') text.pop_back();
    return text + "Z";
}

namespace {

// Takes exactly `digits` decimal digits off the front.
bool take_number(std::string_view& text, std::size_t digits, int& value) {
    if (text.size() < digits) return false;
    for (char c : text.substr(0, digits))
        if (c < '0' || c > '9') return false;
    std::from_chars(text.data(), text.data() + digits, value);
    text.remove_prefix(digits);
    return true;
}

bool take(std::string_view& text, char expected) {
    if (text.empty() || text.front() != expected) return false;
    text.remove_prefix(1);
    return true;
}

}  // namespace

Result<WallTime> parse_rfc3339(std::string_view text) {
    const std::string original(text);
    auto bad = [&] { return fail(Code::invalid_argument, "not an RFC 3339 time: " + original.substr(0, 64)); };
    int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
    if (!take_number(text, 4, year) || !take(text, '-') || !take_number(text, 2, month) || !take(text, '-') ||
        !take_number(text, 2, day))
        return bad();
    if (!take(text, 'T') && !take(text, 't') && !take(text, ' ')) return bad();
    if (!take_number(text, 2, hour) || !take(text, ':') || !take_number(text, 2, minute) || !take(text, ':') ||
        !take_number(text, 2, second))
        return bad();
    std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(static_cast<unsigned>(month)),
                                     std::chrono::day(static_cast<unsigned>(day))};
    if (!date.ok() || hour > 23 || minute > 59 || second > 60) return bad();
    long long nanos = 0;
    if (take(text, '.')) {
        long long scale = 100'000'000;
        std::size_t digits = 0;
        while (!text.empty() && text.front() >= '0' && text.front() <= '9') {
            nanos += (text.front() - '0') * scale;
            scale /= 10;
            text.remove_prefix(1);
            ++digits;
        }
        if (digits == 0) return bad();
    }
    int offset_minutes = 0;
    if (!take(text, 'Z') && !take(text, 'z')) {
        bool negative = take(text, '-');
        if (!negative && !take(text, '+')) return bad();
        int hours = 0, minutes = 0;
        if (!take_number(text, 2, hours) || !take(text, ':') || !take_number(text, 2, minutes)) return bad();
        offset_minutes = (hours * 60 + minutes) * (negative ? -1 : 1);
    }
    if (!text.empty()) return bad();
    const std::chrono::sys_seconds whole = std::chrono::sys_days(date) + std::chrono::hours(hour) +
                                           std::chrono::minutes(minute - offset_minutes) + std::chrono::seconds(second);
    // What format_rfc3339_short() makes of no time at all.
    if (whole == std::chrono::sys_days(std::chrono::year(1) / 1 / 1) && nanos == 0) return WallTime{};
    // Nanoseconds in 64 bits reach from 1677 to 2262: what is beyond is their end.
    if (whole >= std::chrono::floor<std::chrono::seconds>(WallTime::max())) return WallTime::max();
    if (whole <= std::chrono::ceil<std::chrono::seconds>(WallTime::min())) return WallTime::min();
    return WallTime(whole) + Nanoseconds(nanos);
}

}  // namespace wherry
