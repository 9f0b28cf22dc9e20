// The shape of configuration files: statements of words, ended by a line's end or ";", some with a block of further
// statements in braces. "#" begins a comment, quotes hold a word together. What the words mean is config.hpp's.
//
//     zone example.org {
//         file "example.org.zone"
//         notify 192.0.2.1 key transfer
//     }
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace wherry::dns {

struct ConfigStatement {
    std::vector<std::string> words;  // never empty
    std::vector<ConfigStatement> block;
    bool has_block = false;
    std::size_t line = 0;  // from 1
};

// Errors name `name` and the line. Blocks nest eight deep at most.
Result<std::vector<ConfigStatement>> parse_config_tree(std::string_view text, std::string_view name);

}  // namespace wherry::dns
