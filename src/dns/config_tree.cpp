#include "dns/config_tree.hpp"

namespace wherry::dns {

namespace {

constexpr int max_depth = 8;

class TreeParser {
  public:
    TreeParser(std::string_view text, std::string_view name) : text_(text), name_(name) {}

    Result<std::vector<ConfigStatement>> block(int depth) {
        std::vector<ConfigStatement> statements;
        ConfigStatement statement;
        auto end_statement = [&] {
            if (!statement.words.empty()) statements.push_back(std::move(statement));
            statement = {};
        };
        while (at_ < text_.size()) {
            const char c = text_[at_];
            if (c == '\n') {
                ++at_;
                end_statement();
                ++line_;
            } else if (c == ' ' || c == '\t' || c == '\r') {
                ++at_;
            } else if (c == ';') {
                ++at_;
                end_statement();
            } else if (c == '#') {
                at_ = std::min(text_.find('\n', at_), text_.size());
            } else if (c == '{') {
                ++at_;
                if (statement.words.empty()) return wrong("a block without a statement");
                if (depth == max_depth) return wrong("blocks nest too deep");
                statement.block = TRY(block(depth + 1));
                statement.has_block = true;
                end_statement();
            } else if (c == '}') {
                if (depth == 0) return wrong("\"}\" without \"{\"");
                ++at_;
                end_statement();
                return statements;
            } else {
                if (statement.words.empty()) statement.line = line_;
                statement.words.push_back(TRY(word()));
            }
        }
        if (depth > 0) return wrong("a block is not closed");
        end_statement();
        return statements;
    }

  private:
    std::unexpected<Error> wrong(std::string_view what) const {
        return fail(Code::invalid_argument,
                    std::string(name_) + ":" + std::to_string(line_) + ": " + std::string(what));
    }

    Result<std::string> word() {
        std::string made;
        if (text_[at_] == '"') {
            for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_) {
                if (text_[at_] == '\n') return wrong("a quoted word does not end on its line");
                if (text_[at_] == '\\' && at_ + 1 < text_.size() && text_[at_ + 1] != '\n') ++at_;
                made += text_[at_];
            }
            if (at_ >= text_.size()) return wrong("a quoted word does not end");
            ++at_;
            return made;
        }
        constexpr std::string_view ends = " \t\r\n;{}#\"";
        while (at_ < text_.size() && ends.find(text_[at_]) == std::string_view::npos) made += text_[at_++];
        return made;
    }

    std::string_view text_;
    std::string_view name_;
    std::size_t at_ = 0;
    std::size_t line_ = 1;
};

}  // namespace

Result<std::vector<ConfigStatement>> parse_config_tree(std::string_view text, std::string_view name) {
    return TreeParser(text, name).block(0);
}

}  // namespace wherry::dns
