// Single Dockerfile instructions applied to a configuration (`import --change`, `commit --change`).
#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "image/model.hpp"

namespace wherry::image {

namespace {

std::string_view trim(std::string_view text) {
    constexpr std::string_view blanks = " \t\r\n";
    std::size_t first = text.find_first_not_of(blanks);
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

std::string upper(std::string_view text) {
    std::string out(text);
    std::ranges::transform(out, out.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    return out;
}

std::string_view environment_value(const RunConfig& config, std::string_view name) {
    for (const auto& entry : config.env) {
        if (entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=') {
            return std::string_view(entry).substr(name.size() + 1);
        }
    }
    return {};
}

bool is_name_character(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

// $NAME or ${NAME} at text[i] == '$'; moves i behind it.
std::string expand_variable(std::string_view text, std::size_t& i, const RunConfig& config) {
    std::size_t start = i + 1;
    bool braces = start < text.size() && text[start] == '{';
    if (braces) ++start;
    std::size_t end = start;
    while (end < text.size() && is_name_character(text[end])) ++end;
    bool closed = !braces || (end < text.size() && text[end] == '}');
    if (end == start || !closed) {
        ++i;
        return "$";
    }
    i = end + (braces ? 1 : 0);
    return std::string(environment_value(config, text.substr(start, end - start)));
}

// Words as Dockerfiles have them: blanks separate, quotes keep together, backslash escapes, $NAME is replaced except
// between single quotes.
Result<std::vector<std::string>> split_words(std::string_view text, const RunConfig& config) {
    std::vector<std::string> words;
    std::string word;
    bool in_word = false;
    char quote = 0;
    for (std::size_t i = 0; i < text.size();) {
        char c = text[i];
        if (quote == 0 && (c == ' ' || c == '\t')) {
            if (in_word) words.push_back(std::move(word));
            word.clear();
            in_word = false;
            ++i;
            continue;
        }
        in_word = true;
        if (quote == 0 && (c == '"' || c == '\'')) {
            quote = c;
            ++i;
        } else if (quote != 0 && c == quote) {
            quote = 0;
            ++i;
        } else if (c == '\\' && quote != '\'' && i + 1 < text.size()) {
            word += text[i + 1];
            i += 2;
        } else if (c == '$' && quote != '\'') {
            word += expand_variable(text, i, config);
        } else {
            word += c;
            ++i;
        }
    }
    if (quote != 0) return invalid("unexpected end of statement while looking for matching quote");
    if (in_word) words.push_back(std::move(word));
    return words;
}

// The exec form, ["a", "b"]; nullopt when it is not one (then it is the shell form, as Docker reads it).
std::optional<std::vector<std::string>> exec_form(std::string_view text) {
    if (!text.starts_with('[')) return std::nullopt;
    auto value = parse_json(text);
    if (!value || !value->is_array()) return std::nullopt;
    std::vector<std::string> words;
    for (const auto& item : value->get_array()) {
        if (!item.is_string()) return std::nullopt;
        words.emplace_back(item.get_string());
    }
    return words;
}

std::vector<std::string> command(const RunConfig& config, std::string_view text) {
    if (auto words = exec_form(text)) return *words;
    std::vector<std::string> words = config.shell.empty() ? std::vector<std::string>{"/bin/sh", "-c"} : config.shell;
    words.emplace_back(text);
    return words;
}

void set_environment(RunConfig& config, const std::string& name, const std::string& value) {
    for (auto& entry : config.env) {
        if (entry.starts_with(name + "=")) {
            entry = name + "=" + value;
            return;
        }
    }
    config.env.push_back(name + "=" + value);
}

// NAME=value ... or the old form NAME value with blanks.
template <class Set>
Result<> name_values(std::string_view verb, std::string_view text, const RunConfig& config, Set set) {
    auto words = TRY(split_words(text, config));
    if (words.empty()) return invalid(std::string(verb) + " must have arguments");
    if (words.front().find('=') == std::string::npos) {
        if (words.size() < 2) return invalid(std::string(verb) + " must have two arguments");
        std::string value = words[1];
        for (std::size_t i = 2; i < words.size(); ++i) value += " " + words[i];
        set(words.front(), value);
        return {};
    }
    for (const auto& word : words) {
        std::size_t equals = word.find('=');
        if (equals == std::string::npos) {
            return invalid("Syntax error - can't find = in \"" + word + "\". Must be of the form: name=value");
        }
        if (equals == 0) return invalid(std::string(verb) + " names can not be blank");
        set(word.substr(0, equals), word.substr(equals + 1));
    }
    return {};
}

Result<unsigned> port_number(std::string_view text) {
    unsigned port = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    if (error != std::errc() || end != text.data() + text.size() || port == 0 || port > 65535) {
        return invalid("invalid containerPort: " + std::string(text));
    }
    return port;
}

Result<> expose(RunConfig& config, const std::vector<std::string>& words) {
    if (words.empty()) return invalid("EXPOSE requires at least one argument");
    for (const auto& word : words) {
        std::size_t slash = word.find('/');
        std::string protocol = slash == std::string::npos ? "tcp" : word.substr(slash + 1);
        std::ranges::transform(protocol, protocol.begin(),
                               [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
        if (protocol != "tcp" && protocol != "udp" && protocol != "sctp") return invalid("invalid proto: " + protocol);
        std::string ports = word.substr(0, slash);
        std::size_t dash = ports.find('-');
        unsigned first = TRY(port_number(std::string_view(ports).substr(0, dash)));
        unsigned last = dash == std::string::npos ? first : TRY(port_number(std::string_view(ports).substr(dash + 1)));
        if (last < first) return invalid("invalid port range: " + ports);
        for (unsigned port = first; port <= last; ++port)
            config.exposed_ports.insert(std::to_string(port) + "/" + protocol);
    }
    return {};
}

Result<std::int64_t> duration(std::string_view text) {  // Go's: 1h2m3.5s, ms, us
    double total = 0;
    if (text == "0") return 0;
    if (text.empty()) return invalid("invalid duration \"\"");
    std::string_view rest = text;
    struct Unit {
        std::string_view name;
        double nanoseconds;
    };
    static constexpr std::array<Unit, 6> units{
        {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}}};
    while (!rest.empty()) {
        double number = 0;
        auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number, std::chars_format::fixed);
        if (error != std::errc() || number < 0) return invalid("invalid duration \"" + std::string(text) + "\"");
        rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
        std::size_t length = std::min(rest.find_first_of("0123456789."), rest.size());
        const auto* unit = std::ranges::find(units, rest.substr(0, length), &Unit::name);
        if (unit == units.end()) return invalid("missing unit in duration \"" + std::string(text) + "\"");
        total += number * unit->nanoseconds;
        rest.remove_prefix(length);
    }
    if (total > 9e18) return invalid("invalid duration \"" + std::string(text) + "\"");
    return static_cast<std::int64_t>(total);
}

Result<> healthcheck(RunConfig& config, std::string_view text) {
    Healthcheck check;
    while (text.starts_with("--")) {
        std::size_t end = std::min(text.find_first_of(" \t"), text.size());
        std::string_view flag = text.substr(2, end - 2);
        std::size_t equals = flag.find('=');
        if (equals == std::string_view::npos) return invalid("Missing a value on flag: " + std::string(flag));
        std::string_view name = flag.substr(0, equals);
        std::string_view value = flag.substr(equals + 1);
        if (name == "interval") {
            check.interval_ns = TRY(duration(value));
        } else if (name == "timeout") {
            check.timeout_ns = TRY(duration(value));
        } else if (name == "start-period") {
            check.start_period_ns = TRY(duration(value));
        } else if (name == "start-interval") {
            check.start_interval_ns = TRY(duration(value));
        } else if (name == "retries") {
            auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), check.retries);
            if (error != std::errc() || stop != value.data() + value.size() || check.retries < 1) {
                return invalid("--retries must be at least 1 (not " + std::string(value) + ")");
            }
        } else {
            return invalid("Unknown flag: " + std::string(name));
        }
        text = trim(text.substr(end));
    }
    std::size_t end = std::min(text.find_first_of(" \t"), text.size());
    std::string kind = upper(text.substr(0, end));
    std::string_view rest = trim(text.substr(end));
    if (kind == "NONE") {
        if (!rest.empty()) return invalid("HEALTHCHECK NONE takes no arguments");
        check = {.test = {"NONE"}};
    } else if (kind == "CMD") {
        if (rest.empty()) return invalid("Missing command after HEALTHCHECK CMD");
        if (auto words = exec_form(rest)) {
            check.test = {"CMD"};
            check.test.insert(check.test.end(), words->begin(), words->end());
        } else {
            check.test = {"CMD-SHELL", std::string(rest)};
        }
    } else {
        return invalid("Unknown type \"" + kind + "\" in HEALTHCHECK (try CMD)");
    }
    config.healthcheck = std::move(check);
    return {};
}

Result<> work_dir(RunConfig& config, std::string_view text) {
    auto words = TRY(split_words(text, config));
    if (words.empty()) return invalid("WORKDIR requires exactly one argument");
    std::string path = words.front();
    for (std::size_t i = 1; i < words.size(); ++i) path += " " + words[i];
    if (!path.starts_with('/')) path = (config.working_dir.empty() ? "" : config.working_dir) + "/" + path;
    config.working_dir = path;
    return {};
}

}  // namespace

Result<> apply_change(RunConfig& config, std::string_view instruction) {
    std::string_view text = trim(instruction);
    std::size_t blank = std::min(text.find_first_of(" \t"), text.size());
    std::string verb = upper(text.substr(0, blank));
    std::string_view rest = trim(text.substr(blank));
    if (verb.empty()) return invalid("empty change instruction");
    static constexpr std::array<std::string_view, 12> known{"CMD",     "ENTRYPOINT", "ENV",        "EXPOSE",
                                                            "LABEL",   "ONBUILD",    "USER",       "VOLUME",
                                                            "WORKDIR", "SHELL",      "STOPSIGNAL", "HEALTHCHECK"};
    if (std::ranges::find(known, verb) == known.end()) return invalid(verb + " is not a valid change command");
    if (verb == "CMD") {
        config.cmd = command(config, rest);
        config.args_escaped = false;
        return {};
    }
    if (verb == "ENTRYPOINT") {
        if (rest.empty()) {
            config.entrypoint.reset();
        } else {
            config.entrypoint = command(config, rest);
        }
        return {};
    }
    if (rest.empty()) return invalid(verb + " requires at least one argument");
    if (verb == "ENV") {
        // All values see the environment as it was before the instruction.
        RunConfig before = config;
        return name_values(verb, rest, before, [&](const std::string& name, const std::string& value) {
            set_environment(config, name, value);
        });
    }
    if (verb == "LABEL") {
        return name_values(verb, rest, config,
                           [&](const std::string& name, const std::string& value) { config.labels[name] = value; });
    }
    if (verb == "EXPOSE") return expose(config, TRY(split_words(rest, config)));
    if (verb == "WORKDIR") return work_dir(config, rest);
    if (verb == "HEALTHCHECK") return healthcheck(config, rest);
    if (verb == "ONBUILD") {
        std::string trigger = upper(rest.substr(0, rest.find_first_of(" \t")));
        if (trigger == "ONBUILD") return invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed");
        if (trigger == "FROM" || trigger == "MAINTAINER")
            return invalid(trigger + " isn't allowed as an ONBUILD trigger");
        config.on_build.emplace_back(rest);
        return {};
    }
    if (verb == "SHELL") {
        auto words = exec_form(rest);
        if (!words || words->empty()) return invalid("SHELL requires the arguments to be in JSON form");
        config.shell = *words;
        return {};
    }
    if (verb == "VOLUME") {
        auto paths = exec_form(rest);
        if (!paths) paths = TRY(split_words(rest, config));
        for (const auto& path : *paths) {
            if (trim(path).empty()) return invalid("VOLUME specified can not be an empty string");
            config.volumes.insert(path);
        }
        return {};
    }
    auto words = TRY(split_words(rest, config));
    if (words.size() != 1) return invalid(verb + " requires exactly one argument");
    (verb == "USER" ? config.user : config.stop_signal) = words.front();
    return {};
}

}  // namespace wherry::image
