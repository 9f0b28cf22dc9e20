// Options of one verb as a table, and their parsing by the rules of Docker's own parser (pflag): "--name value",
// "--name=value", "-n value", "-nvalue", clusters of letters ("-itp80:80"), booleans with an optional "=false", "--".
// The same table is what --help, the completions and the man pages are made from.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.hpp"

namespace wherry::cli {

// Says why a value is no good, in the words that follow `invalid argument "x" for "--flag" flag: `.
using ValueCheck = Result<> (*)(std::string_view value);

struct Option {
    std::string_view name;   // without the dashes
    char letter = 0;         // 0: none
    std::string_view value;  // what the value is ("string", "list", …); empty: a boolean
    std::string_view help;
    ValueCheck check = nullptr;  // booleans are always checked
    std::string_view fallback;   // the default as help shows it
    bool hidden = false;
    std::string_view refusal;  // not empty: the option is known and refused with this reason
};

class ParsedOptions {
  public:
    bool given(std::string_view name) const { return values_.contains(name); }
    // The last value; the fallback (not the table's) when the option was not given.
    std::string text(std::string_view name, std::string_view fallback = {}) const;
    bool flag(std::string_view name, bool fallback = false) const;
    // Only for options whose check is check_integer.
    std::int64_t integer(std::string_view name, std::int64_t fallback = 0) const;
    const std::vector<std::string>& list(std::string_view name) const;
    // Every value split at commas (pflag's "strings").
    std::vector<std::string> split_list(std::string_view name) const;
    void add(std::string_view name, std::string value) { values_[name].push_back(std::move(value)); }

  private:
    std::unordered_map<std::string_view, std::vector<std::string>> values_;  // keys are the tables' literals
};

struct ParsedArguments {
    ParsedOptions options;
    std::vector<std::string> arguments;
    bool help = false;
};

// stop_at_argument: everything after the first argument is an argument (run, exec).
// Errors have Docker's words ("unknown flag: --x", "flag needs an argument: 'p' in -p", …).
Result<ParsedArguments> parse_options(std::span<const Option> table, std::span<const std::string> words,
                                      bool stop_at_argument);

// Go's strconv.ParseBool: 1 t T TRUE true True and their opposites.
std::optional<bool> parse_bool(std::string_view text);

Result<> check_integer(std::string_view value);
Result<> check_uint16(std::string_view value);

// The closest of `candidates` when it is close enough to be what was meant; empty otherwise.
std::string closest(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace wherry::cli
