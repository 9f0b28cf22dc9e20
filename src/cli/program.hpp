// The whole command: words in, exit code out.
#pragma once

#include <string>
#include <vector>

namespace wherry::cli {

// argv[0] and the words after it.
int run_program(const std::vector<std::string>& words);

}  // namespace wherry::cli
