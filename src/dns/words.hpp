// Lines of text files as words.
#pragma once

#include <string_view>
#include <vector>

namespace wherry::dns {

// The words of a line between blanks (spaces, tabs, a carriage return at its end).
std::vector<std::string_view> words_of(std::string_view line);

}  // namespace wherry::dns
