#include "engine/names.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <optional>
#include <span>
#include <tuple>
#include <utility>

#include "base/id.hpp"

namespace wherry::engine {
namespace {

constexpr std::array<std::string_view, 64> adjectives{
    "able",     "amber",   "ample",  "azure",  "bold",   "brave", "bright", "brisk", "calm",   "candid", "clear",
    "clever",   "coastal", "copper", "coral",  "cosy",   "crisp", "deep",   "dry",   "eager",  "early",  "even",
    "fair",     "fast",    "fine",   "fresh",  "gentle", "glad",  "golden", "grand", "happy",  "hardy",  "honest",
    "keen",     "kind",    "light",  "lively", "lucky",  "merry", "mild",   "misty", "narrow", "neat",   "noble",
    "northern", "patient", "placid", "plain",  "proud",  "quick", "quiet",  "ready", "river",  "rosy",   "silver",
    "smooth",   "snug",    "steady", "stout",  "sunny",  "swift", "tidal",  "trim",  "upbeat"};
constexpr std::array<std::string_view, 96> nouns{
    "anchor",  "anemone",    "barge",   "barnacle", "bay",     "beacon",  "beaver",  "bittern",    "boathook",
    "bollard", "bowsprit",   "breeze",  "bridge",   "brook",   "buoy",    "canal",   "canoe",      "cape",
    "capstan", "channel",    "cleat",   "cliff",    "clipper", "cod",     "compass", "coot",       "cormorant",
    "cove",    "crab",       "creek",   "current",  "cutter",  "delta",   "dinghy",  "dock",       "dolphin",
    "dory",    "dune",       "eddy",    "eel",      "estuary", "fathom",  "ferry",   "fjord",      "float",
    "ford",    "galley",     "gannet",  "grebe",    "gull",    "halyard", "harbour", "heron",      "herring",
    "hull",    "inlet",      "island",  "jetty",    "kayak",   "keel",    "ketch",   "kingfisher", "lagoon",
    "lantern", "lighthouse", "lock",    "mackerel", "mallard", "marina",  "marsh",   "mast",       "mooring",
    "mussel",  "oar",        "osprey",  "otter",    "oyster",  "paddle",  "pebble",  "pelican",    "pier",
    "pike",    "pilot",      "plover",  "punt",     "quay",    "raft",    "reed",    "reef",       "rudder",
    "sail",    "salmon",     "sandbar", "schooner", "skiff",   "tern"};

struct SignalName {
    std::string_view name;
    int number;
};
constexpr std::array<SignalName, 31> signals{
    {{"HUP", SIGHUP},       {"INT", SIGINT},   {"QUIT", SIGQUIT},   {"ILL", SIGILL},   {"TRAP", SIGTRAP},
     {"ABRT", SIGABRT},     {"BUS", SIGBUS},   {"FPE", SIGFPE},     {"KILL", SIGKILL}, {"USR1", SIGUSR1},
     {"SEGV", SIGSEGV},     {"USR2", SIGUSR2}, {"PIPE", SIGPIPE},   {"ALRM", SIGALRM}, {"TERM", SIGTERM},
     {"STKFLT", SIGSTKFLT}, {"CHLD", SIGCHLD}, {"CONT", SIGCONT},   {"STOP", SIGSTOP}, {"TSTP", SIGTSTP},
     {"TTIN", SIGTTIN},     {"TTOU", SIGTTOU}, {"URG", SIGURG},     {"XCPU", SIGXCPU}, {"XFSZ", SIGXFSZ},
     {"VTALRM", SIGVTALRM}, {"PROF", SIGPROF}, {"WINCH", SIGWINCH}, {"IO", SIGIO},     {"PWR", SIGPWR},
     {"SYS", SIGSYS}}};
constexpr int first_realtime = 34;
constexpr int last_realtime = 64;

std::uint32_t random_number() {
    std::uint32_t value = 0;
    fill_random(std::as_writable_bytes(std::span(&value, 1)));
    return value;
}

bool is_alphanumeric(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool is_name(std::string_view name) {
    return name.size() >= 2 && is_alphanumeric(name.front()) &&
           std::ranges::all_of(name, [](char c) { return is_alphanumeric(c) || c == '_' || c == '.' || c == '-'; });
}

std::optional<int> to_number(std::string_view text) {
    int number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return number;
}

}  // namespace

std::string make_name(unsigned attempt) {
    const std::uint32_t random = random_number();
    std::string name(adjectives[random % adjectives.size()]);
    name += '_';
    name += nouns[(random / adjectives.size()) % nouns.size()];
    if (attempt > 0) name += std::to_string(attempt > 4 ? random_number() % 1000000 : random_number() % 100);
    return name;
}

Result<> check_container_name(std::string_view name) {
    if (is_name(name)) return {};
    return fail(Code::invalid_argument,
                "Invalid container name (" + std::string(name) + "), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
}

Result<> check_volume_name(std::string_view name) {
    if (is_name(name) && name.size() <= 255) return {};
    if (name.size() == 1)
        return fail(Code::invalid_argument,
                    "volume name is too short, names should be at least two alphanumeric characters");
    return fail(Code::invalid_argument,
                "\"" + std::string(name) +
                    "\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are "
                    "allowed. If you intended to pass a host directory, use absolute path");
}

Result<int> parse_signal(std::string_view text) {
    const auto invalid = [&] { return fail(Code::invalid_argument, "Invalid signal: " + std::string(text)); };
    if (const std::optional<int> number = to_number(text)) {
        if (*number < 1 || *number > last_realtime) return invalid();
        return *number;
    }
    std::string name(text);
    std::ranges::transform(name, name.begin(),
                           [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
    std::string_view rest = name;
    if (rest.starts_with("SIG")) rest.remove_prefix(3);
    for (const SignalName& one : signals) {
        if (one.name == rest) return one.number;
    }
    if (rest == "POLL") return SIGIO;
    if (rest == "CLD") return SIGCHLD;
    if (rest == "IOT") return SIGABRT;
    for (const auto& [base, start, sign] :
         {std::tuple{"RTMIN", first_realtime, '+'}, std::tuple{"RTMAX", last_realtime, '-'}}) {
        if (!rest.starts_with(base)) continue;
        rest.remove_prefix(5);
        if (rest.empty()) return start;
        if (rest.front() != sign) return invalid();
        const std::optional<int> offset = to_number(rest.substr(1));
        if (!offset || *offset < 0 || *offset > last_realtime - first_realtime) return invalid();
        return sign == '+' ? start + *offset : start - *offset;
    }
    return invalid();
}

std::string signal_name(int signal) {
    for (const SignalName& one : signals) {
        if (one.number == signal) return "SIG" + std::string(one.name);
    }
    return "signal " + std::to_string(signal);
}

std::string human_duration(std::int64_t seconds) {
    const auto plural = [](std::int64_t count, const char* unit) { return std::to_string(count) + " " + unit; };
    if (seconds < 1) return "Less than a second";
    if (seconds == 1) return "1 second";
    if (seconds < 60) return plural(seconds, "seconds");
    const std::int64_t minutes = seconds / 60;
    if (minutes == 1) return "About a minute";
    if (minutes < 60) return plural(minutes, "minutes");
    const std::int64_t hours = (seconds + 1800) / 3600;
    if (hours == 1) return "About an hour";
    if (hours < 48) return plural(hours, "hours");
    if (hours < 24 * 7 * 2) return plural(hours / 24, "days");
    if (hours < 24 * 30 * 2) return plural(hours / 24 / 7, "weeks");
    if (hours < 24 * 365 * 2) return plural(hours / 24 / 30, "months");
    return plural(hours / 24 / 365, "years");
}

std::string human_bytes(std::int64_t bytes) {
    constexpr std::array<std::string_view, 5> units{"B", "KiB", "MiB", "GiB", "TiB"};
    std::size_t unit = 0;
    std::int64_t rest = 0;
    while (bytes >= 1024 && unit + 1 < units.size()) {
        rest = bytes % 1024;
        bytes /= 1024;
        ++unit;
    }
    std::string text = std::to_string(bytes);
    if (rest * 10 / 1024 > 0) text += "." + std::to_string(rest * 10 / 1024);
    return text + " " + std::string(units[unit]);
}

}  // namespace wherry::engine
