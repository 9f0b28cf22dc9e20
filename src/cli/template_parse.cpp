// Text into a tree.
#include <charconv>

#include "cli/template_tree.hpp"

namespace wherry::cli::template_detail {

namespace {

constexpr int depth_limit = 64;  // a template comes from a command line, but nesting must not eat the stack

struct Token {
    enum class Kind : unsigned char { end, field, variable, word, literal, pipe, comma, declare, assign, open, close };
    Kind kind = Kind::end;
    std::string text;
    boost::json::value literal = {};
    bool space_before = false;
    std::size_t column = 0;
};

bool name_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           static_cast<unsigned char>(c) >= 0x80;
}

class Parser {
  public:
    explicit Parser(std::string_view text) : text_(text), length_(text.size()) {}

    Result<Tree> parse() {
        Tree tree;
        std::string ending = TRY(parse_list(tree.nodes, 0));
        if (!ending.empty()) return error("unexpected {{" + ending + "}}");
        return tree;
    }

  private:
    std::unexpected<Error> error(const std::string& what) const {
        return fail(Code::invalid_argument,
                    "template parsing error: template: :" + std::to_string(line_) + ": " + what);
    }

    // Up to the end of text or a closing action ("end", "else", "else if", "else with"), which is returned.
    Result<std::string> parse_list(std::vector<Node>& nodes, int depth) {
        if (depth > depth_limit) return error("nested too deeply");
        while (true) {
            auto open = text_.find("{{");
            std::string_view plain = text_.substr(0, open);
            bool trim_before =
                open != std::string_view::npos && text_.substr(open + 2, 1) == "-" && is_space_at(open + 3);
            if (trim_next_) plain = trim_left(plain);
            if (trim_before) plain = trim_right(plain);
            trim_next_ = false;
            if (!plain.empty()) nodes.push_back({Node::Kind::text, std::string(plain), {}, {}, {}});
            for (char c : text_.substr(0, open)) line_ += c == '\n' ? 1 : 0;
            if (open == std::string_view::npos) {
                text_ = {};
                return std::string();
            }
            text_.remove_prefix(open + 2 + (trim_before ? 1U : 0U));
            std::string_view skipped = trim_left(text_);
            if (skipped.starts_with("/*")) {
                auto close = skipped.find("*/");
                if (close == std::string_view::npos) return error("unclosed comment");
                text_ = trim_left(skipped.substr(close + 2));
                TRY(close_action());
                continue;
            }
            tokens_.clear();
            position_ = 0;
            TRY(read_tokens());
            const Token& first = peek();
            if (first.kind == Token::Kind::end) return error("missing value for command");
            if (first.kind == Token::Kind::word) {
                std::string word = first.text;
                if (word == "end" || word == "else") {
                    ++position_;
                    if (word == "else" && peek().kind == Token::Kind::word) {
                        std::string kind = peek().text;
                        if (kind == "if" || kind == "with") {
                            ++position_;
                            return "else " + kind;
                        }
                    }
                    if (peek().kind != Token::Kind::end)
                        return error("unexpected " + quoted(peek().text) + " in " + word);
                    return word;
                }
                if (word == "if" || word == "with" || word == "range") {
                    ++position_;
                    nodes.push_back(TRY(parse_block(word, depth)));
                    continue;
                }
                if (word == "break" || word == "continue") {
                    nodes.push_back({word == "break" ? Node::Kind::stop : Node::Kind::next, "", {}, {}, {}});
                    continue;
                }
                if (word == "define" || word == "template" || word == "block")
                    return error("{{" + word + "}} is not supported");
            }
            Node node{Node::Kind::action, "", {}, {}, {}};
            node.pipeline = TRY(parse_pipeline(0));
            if (peek().kind != Token::Kind::end) return error("unexpected " + quoted(peek().text) + " in command");
            nodes.push_back(std::move(node));
        }
    }

    Result<Node> parse_block(const std::string& word, int depth) {
        Node node{word == "if"     ? Node::Kind::condition
                  : word == "with" ? Node::Kind::with
                                   : Node::Kind::range,
                  "",
                  {},
                  {},
                  {}};
        node.pipeline = TRY(parse_pipeline(0));
        if (peek().kind != Token::Kind::end) return error("unexpected " + quoted(peek().text) + " in " + word);
        std::string ending = TRY(parse_list(node.body, depth + 1));
        if (ending.starts_with("else ")) {
            if (depth > depth_limit) return error("nested too deeply");
            node.otherwise.push_back(TRY(parse_block(ending.substr(5), depth + 1)));
            return node;
        }
        if (ending == "else") ending = TRY(parse_list(node.otherwise, depth + 1));
        if (ending != "end") return error(ending.empty() ? "unexpected EOF" : "expected end; found {{" + ending + "}}");
        return node;
    }

    Result<Pipeline> parse_pipeline(int depth) {
        if (depth > depth_limit) return error("nested too deeply");
        Pipeline pipeline;
        std::size_t start = position_;
        while (peek().kind == Token::Kind::variable) {
            std::string name = peek().text;
            ++position_;
            if (peek().kind == Token::Kind::comma) {
                pipeline.variables.push_back(name);
                ++position_;
                continue;
            }
            if (peek().kind == Token::Kind::declare || peek().kind == Token::Kind::assign) {
                pipeline.variables.push_back(name);
                pipeline.assignment = peek().kind == Token::Kind::assign;
                ++position_;
            } else {
                pipeline.variables.clear();
                position_ = start;
            }
            break;
        }
        while (true) {
            Call call = TRY(parse_call(depth));
            if (call.empty()) return error("missing value for command");
            pipeline.calls.push_back(std::move(call));
            if (peek().kind != Token::Kind::pipe) break;
            ++position_;
        }
        return pipeline;
    }

    Result<Call> parse_call(int depth) {
        Call call;
        while (true) {
            const Token& token = peek();
            Operand operand;
            operand.column = token.column;
            switch (token.kind) {
                case Token::Kind::field:
                    operand.kind = Operand::Kind::dot;
                    if (!token.text.empty()) operand.fields.push_back(token.text);
                    break;
                case Token::Kind::variable:
                    operand.kind = Operand::Kind::variable;
                    operand.name = token.text;
                    break;
                case Token::Kind::literal:
                    operand.kind = Operand::Kind::literal;
                    operand.literal = token.literal;
                    break;
                case Token::Kind::word:
                    if (token.text == "nil") {
                        operand.kind = Operand::Kind::nil;
                    } else if (token.text == "true" || token.text == "false") {
                        operand.kind = Operand::Kind::literal;
                        operand.literal = token.text == "true";
                    } else {
                        operand.kind = Operand::Kind::function;
                        operand.name = token.text;
                    }
                    break;
                case Token::Kind::open:
                    ++position_;
                    operand.kind = Operand::Kind::parenthesis;
                    operand.inner = std::make_unique<Pipeline>(TRY(parse_pipeline(depth + 1)));
                    if (peek().kind != Token::Kind::close) return error("unclosed left paren");
                    break;
                default:
                    return call;
            }
            ++position_;
            while (peek().kind == Token::Kind::field && !peek().space_before && !peek().text.empty()) {
                operand.fields.push_back(peek().text);
                ++position_;
            }
            call.push_back(std::move(operand));
        }
    }

    const Token& peek() const {
        static const Token end;
        return position_ < tokens_.size() ? tokens_[position_] : end;
    }

    // The tokens of one action, with its closing braces taken.
    Result<> read_tokens() {
        while (true) {
            std::size_t before = text_.size();
            if (is_close()) return close_action();
            text_ = trim_left_counting(text_);
            bool space = text_.size() != before;
            if (is_close()) return close_action();
            if (text_.empty()) return error("unclosed action");
            Token token;
            token.space_before = space;
            token.column = length_ - text_.size();
            char c = text_.front();
            if (c == '.' && !(text_.size() > 1 && text_[1] >= '0' && text_[1] <= '9')) {
                token.kind = Token::Kind::field;
                token.text = take_name(1);
            } else if (c == '$') {
                token.kind = Token::Kind::variable;
                token.text = take_name(1);
            } else if (c == '|') {
                take(token, Token::Kind::pipe, 1);
            } else if (c == ',') {
                take(token, Token::Kind::comma, 1);
            } else if (text_.starts_with(":=")) {
                take(token, Token::Kind::declare, 2);
            } else if (c == '=') {
                take(token, Token::Kind::assign, 1);
            } else if (c == '(') {
                take(token, Token::Kind::open, 1);
            } else if (c == ')') {
                take(token, Token::Kind::close, 1);
            } else if (c == '"' || c == '`' || c == '\'') {
                token.kind = Token::Kind::literal;
                TRY(read_quoted(token, c));
            } else if ((c >= '0' && c <= '9') ||
                       ((c == '-' || c == '+' || c == '.') && text_.size() > 1 && text_[1] >= '0' && text_[1] <= '9')) {
                token.kind = Token::Kind::literal;
                TRY(read_number(token));
            } else if (name_character(c)) {
                token.kind = Token::Kind::word;
                token.text = take_name(0);
            } else {
                return error(std::string("unexpected ") + quoted(std::string(1, c)) + " in command");
            }
            tokens_.push_back(std::move(token));
        }
    }

    void take(Token& token, Token::Kind kind, std::size_t length) {
        token.kind = kind;
        token.text = std::string(text_.substr(0, length));
        text_.remove_prefix(length);
    }

    std::string take_name(std::size_t skip) {
        std::size_t length = skip;
        while (length < text_.size() && name_character(text_[length])) ++length;
        std::string name(text_.substr(skip, length - skip));
        text_.remove_prefix(length);
        return name;
    }

    Result<> read_quoted(Token& token, char quote) {
        std::string value;
        std::size_t i = 1;
        for (; i < text_.size() && text_[i] != quote; ++i) {
            char c = text_[i];
            if (quote == '`' || c != '\\') {
                if (c == '\n' && quote != '`') return error("unterminated quoted string");
                value += c;
                continue;
            }
            if (++i >= text_.size()) break;
            switch (text_[i]) {
                case 'n':
                    value += '\n';
                    break;
                case 't':
                    value += '\t';
                    break;
                case 'r':
                    value += '\r';
                    break;
                case '0':
                    value += '\0';
                    break;
                case '\\':
                case '"':
                case '\'':
                case '`':
                    value += text_[i];
                    break;
                default:
                    return error(std::string("invalid escape \\") + text_[i] + " in quoted string");
            }
        }
        if (i >= text_.size())
            return error(quote == '`' ? "unterminated raw quoted string" : "unterminated quoted string");
        text_.remove_prefix(i + 1);
        token.text = value;
        if (quote == '\'') {
            if (value.size() != 1) return error("malformed character constant: '" + value + "'");
            token.literal = static_cast<std::int64_t>(static_cast<unsigned char>(value[0]));
        } else {
            token.literal = value;
        }
        return {};
    }

    Result<> read_number(Token& token) {
        std::size_t length = 1;
        while (length < text_.size() && (name_character(text_[length]) || text_[length] == '.')) ++length;
        token.text = std::string(text_.substr(0, length));
        const std::string number = token.text.substr(token.text.front() == '+' ? 1 : 0);
        std::int64_t whole = 0;
        double fraction = 0;
        const char* end = number.data() + number.size();
        if (auto [at, problem] = std::from_chars(number.data(), end, whole); problem == std::errc() && at == end)
            token.literal = whole;
        else if (auto [at2, problem2] = std::from_chars(number.data(), end, fraction);
                 problem2 == std::errc() && at2 == end)
            token.literal = fraction;
        else
            return error("bad number syntax: " + quoted(token.text));
        text_.remove_prefix(length);
        return {};
    }

    static std::string quoted(const std::string& text) { return "\"" + text + "\""; }
    static bool space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
    bool is_space_at(std::size_t at) const { return at < text_.size() && space(text_[at]); }
    bool is_close() const {
        return text_.starts_with("}}") || (text_.size() > 3 && space(text_[0]) && text_.substr(1).starts_with("-}}"));
    }

    Result<> close_action() {
        if (text_.starts_with("}}")) {
            text_.remove_prefix(2);
            return {};
        }
        std::string_view rest = text_.starts_with("-}}") ? text_ : text_.empty() ? text_ : text_.substr(1);
        if (!rest.starts_with("-}}")) return error("unclosed action");
        text_ = rest.substr(3);
        trim_next_ = true;
        return {};
    }

    static std::string_view trim_left(std::string_view text) {
        while (!text.empty() && space(text.front())) text.remove_prefix(1);
        return text;
    }
    std::string_view trim_left_counting(std::string_view text) const {
        // One space stays when it belongs to a closing " -}}".
        while (!text.empty() && space(text.front()) && !text.substr(1).starts_with("-}}")) text.remove_prefix(1);
        return text;
    }
    static std::string_view trim_right(std::string_view text) {
        while (!text.empty() && space(text.back())) text.remove_suffix(1);
        return text;
    }

    std::string_view text_;
    std::size_t length_;
    std::vector<Token> tokens_;
    std::size_t position_ = 0;
    bool trim_next_ = false;
    int line_ = 1;
};

}  // namespace

Result<Tree> parse_tree(std::string_view text) {
    return Parser(text).parse();
}

}  // namespace wherry::cli::template_detail
