#include "cli/options.hpp"

#include <algorithm>
#include <charconv>

namespace wherry::cli {

namespace {

constexpr std::string_view help_name = "help";

const Option* find_name(std::span<const Option> table, std::string_view name) {
    for (const Option& option : table)
        if (option.name == name) return &option;
    return nullptr;
}

const Option* find_letter(std::span<const Option> table, char letter) {
    for (const Option& option : table)
        if (option.letter != 0 && option.letter == letter) return &option;
    return nullptr;
}

std::string display_name(const Option& option) {
    std::string text = "--" + std::string(option.name);
    if (option.letter != 0) text = std::string("-") + option.letter + ", " + text;
    return text;
}

Result<> store(ParsedArguments& parsed, const Option& option, std::string value) {
    if (!option.refusal.empty()) {
        if (option.value.empty() && parse_bool(value) == false) return {};
        return fail(Code::unimplemented, "--" + std::string(option.name) + ": " + std::string(option.refusal));
    }
    auto invalid = [&](const std::string& why) {
        return fail(Code::invalid_argument,
                    "invalid argument \"" + value + "\" for \"" + display_name(option) + "\" flag: " + why);
    };
    if (option.value.empty()) {
        if (!parse_bool(value)) return invalid("strconv.ParseBool: parsing \"" + value + "\": invalid syntax");
    } else if (option.check != nullptr) {
        auto checked = option.check(value);
        if (!checked) return invalid(checked.error().describe());
    }
    parsed.options.add(option.name, std::move(value));
    return {};
}

std::string unknown_flag(std::span<const Option> table, std::string_view name) {
    std::string text = "unknown flag: --" + std::string(name);
    std::vector<std::string_view> names;
    for (const Option& option : table)
        if (!option.hidden) names.push_back(option.name);
    std::string near = closest(name, names);
    if (!near.empty()) text += " (did you mean --" + near + "?)";
    return text;
}

}  // namespace

std::optional<bool> parse_bool(std::string_view text) {
    for (std::string_view word : {"1", "t", "T", "true", "TRUE", "True"})
        if (text == word) return true;
    for (std::string_view word : {"0", "f", "F", "false", "FALSE", "False"})
        if (text == word) return false;
    return std::nullopt;
}

Result<> check_integer(std::string_view value) {
    std::string_view digits = value.starts_with('+') ? value.substr(1) : value;
    std::int64_t number = 0;
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    std::string prefix = "strconv.ParseInt: parsing \"" + std::string(value) + "\": ";
    if (error == std::errc::result_out_of_range) return fail(Code::invalid_argument, prefix + "value out of range");
    if (error != std::errc() || end != digits.data() + digits.size())
        return fail(Code::invalid_argument, prefix + "invalid syntax");
    return {};
}

Result<> check_uint16(std::string_view value) {
    std::uint16_t number = 0;
    auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    std::string prefix = "strconv.ParseUint: parsing \"" + std::string(value) + "\": ";
    if (error == std::errc::result_out_of_range) return fail(Code::invalid_argument, prefix + "value out of range");
    if (error != std::errc() || end != value.data() + value.size())
        return fail(Code::invalid_argument, prefix + "invalid syntax");
    return {};
}

std::string ParsedOptions::text(std::string_view name, std::string_view fallback) const {
    auto found = values_.find(name);
    return found == values_.end() ? std::string(fallback) : found->second.back();
}

bool ParsedOptions::flag(std::string_view name, bool fallback) const {
    auto found = values_.find(name);
    return found == values_.end() ? fallback : parse_bool(found->second.back()).value_or(fallback);
}

std::int64_t ParsedOptions::integer(std::string_view name, std::int64_t fallback) const {
    auto found = values_.find(name);
    if (found == values_.end()) return fallback;
    std::string_view digits = found->second.back();
    if (digits.starts_with('+')) digits.remove_prefix(1);
    std::int64_t number = fallback;
    std::from_chars(digits.data(), digits.data() + digits.size(), number);
    return number;
}

const std::vector<std::string>& ParsedOptions::list(std::string_view name) const {
    static const std::vector<std::string> none;
    auto found = values_.find(name);
    return found == values_.end() ? none : found->second;
}

std::vector<std::string> ParsedOptions::split_list(std::string_view name) const {
    std::vector<std::string> items;
    for (std::string_view rest : list(name)) {
        while (true) {
            auto comma = rest.find(',');
            items.emplace_back(rest.substr(0, comma));
            if (comma == std::string_view::npos) break;
            rest.remove_prefix(comma + 1);
        }
    }
    return items;
}

Result<ParsedArguments> parse_options(std::span<const Option> table, std::span<const std::string> words,
                                      bool stop_at_argument) {
    ParsedArguments parsed;
    for (std::size_t i = 0; i < words.size(); ++i) {
        std::string_view word = words[i];
        if (word.size() < 2 || word.front() != '-') {
            if (stop_at_argument) {
                parsed.arguments.insert(parsed.arguments.end(), words.begin() + static_cast<std::ptrdiff_t>(i),
                                        words.end());
                return parsed;
            }
            parsed.arguments.emplace_back(word);
            continue;
        }
        if (word == "--") {
            parsed.arguments.insert(parsed.arguments.end(), words.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                                    words.end());
            return parsed;
        }
        if (word.starts_with("--")) {
            std::string_view name = word.substr(2);
            auto equals = name.find('=');
            std::optional<std::string> value;
            if (equals != std::string_view::npos) {
                value = std::string(name.substr(equals + 1));
                name = name.substr(0, equals);
            }
            if (name.empty() || name.front() == '-')
                return fail(Code::invalid_argument, "bad flag syntax: " + std::string(word));
            const Option* option = find_name(table, name);
            if (option == nullptr) {
                if (name == help_name) {
                    parsed.help = true;
                    return parsed;
                }
                return fail(Code::invalid_argument, unknown_flag(table, name));
            }
            if (!value) {
                if (option->value.empty()) {
                    value = "true";
                } else if (i + 1 < words.size()) {
                    value = words[++i];
                } else {
                    return fail(Code::invalid_argument, "flag needs an argument: --" + std::string(name));
                }
            }
            TRY(store(parsed, *option, std::move(*value)));
            continue;
        }
        std::string_view letters = word.substr(1);
        while (!letters.empty()) {
            const Option* option = find_letter(table, letters.front());
            if (option == nullptr) {
                if (letters.front() == 'h') {  // only where the verb has no -h of its own
                    parsed.help = true;
                    return parsed;
                }
                return fail(Code::invalid_argument, std::string("unknown shorthand flag: '") + letters.front() +
                                                        "' in -" + std::string(letters));
            }
            std::string_view rest = letters.substr(1);
            if (rest.starts_with('=')) {
                TRY(store(parsed, *option, std::string(rest.substr(1))));
                break;
            }
            if (option->value.empty()) {
                TRY(store(parsed, *option, "true"));
                letters = rest;
                continue;
            }
            if (!rest.empty()) {
                TRY(store(parsed, *option, std::string(rest)));
            } else if (i + 1 < words.size()) {
                TRY(store(parsed, *option, words[++i]));
            } else {
                return fail(Code::invalid_argument, std::string("flag needs an argument: '") + letters.front() +
                                                        "' in -" + std::string(letters));
            }
            break;
        }
    }
    return parsed;
}

std::string closest(std::string_view word, std::span<const std::string_view> candidates) {
    std::string_view best;
    std::size_t best_distance = word.size() <= 3 ? 2 : 3;  // exclusive: what is farther is another word
    // Edits, with a swap of neighbours as one ("rnu" is "run").
    std::vector<std::size_t> above;
    std::vector<std::size_t> row;
    std::vector<std::size_t> next;
    for (std::string_view candidate : candidates) {
        above.assign(candidate.size() + 1, 0);
        row.assign(candidate.size() + 1, 0);
        next.assign(candidate.size() + 1, 0);
        for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
        for (std::size_t i = 0; i < word.size(); ++i) {
            next[0] = i + 1;
            for (std::size_t j = 0; j < candidate.size(); ++j) {
                next[j + 1] = std::min({next[j] + 1, row[j + 1] + 1, row[j] + (word[i] == candidate[j] ? 0U : 1U)});
                if (i > 0 && j > 0 && word[i] == candidate[j - 1] && word[i - 1] == candidate[j])
                    next[j + 1] = std::min(next[j + 1], above[j - 1] + 1);
            }
            above.swap(row);
            row.swap(next);
        }
        if (row.back() < best_distance) {
            best_distance = row.back();
            best = candidate;
        }
    }
    return std::string(best);
}

}  // namespace wherry::cli
