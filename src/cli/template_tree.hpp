// What a template is parsed into. Internal to template*.cpp.
#pragma once

#include <boost/json/value.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace wherry::cli::template_detail {

struct Pipeline;

struct Operand {
    enum class Kind : unsigned char { dot, variable, literal, nil, function, parenthesis };
    Kind kind = Kind::dot;
    std::string name;  // of a variable ("" is $) or function
    boost::json::value literal;
    std::unique_ptr<Pipeline> inner;  // of a parenthesis
    std::vector<std::string> fields;  // ".A.B" that follows
    std::size_t column = 0;           // of its beginning, for messages
};

using Call = std::vector<Operand>;  // first is the function or value, the rest its arguments

struct Pipeline {
    std::vector<std::string> variables;  // "$i, $x :="
    bool assignment = false;             // "=" instead of ":="
    std::vector<Call> calls;
};

struct Node {
    enum class Kind : unsigned char { text, action, condition, with, range, stop, next };
    Kind kind = Kind::text;
    std::string text;
    Pipeline pipeline;
    std::vector<Node> body;
    std::vector<Node> otherwise;
};

struct Tree {
    std::vector<Node> nodes;
};

Result<Tree> parse_tree(std::string_view text);

}  // namespace wherry::cli::template_detail
