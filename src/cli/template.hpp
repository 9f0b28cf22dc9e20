// The part of Go's text/template that --format is used with: fields, json, index, range, if, with, variables, pipes,
// comparisons, printf and Docker's helpers (join, split, lower, upper, title, pad, truncate, println). What is not
// there (define, template, block) is refused by name.
//
//     Template shape = TRY(Template::parse("{{.Name}} {{json .State}}"));
//     std::string text = TRY(shape.execute(document));
//
// Values are JSON values. A field that an object lacks is false in conditions and an error when it is printed or
// followed further. Objects are walked in the order of their keys, as Go's maps are.
#pragma once

#include <boost/json/value.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::cli {

namespace template_detail {
struct Tree;
}

struct TemplateOptions {
    // ".Name argument…" on an object: nullopt when there is no such method (then fields are looked at).
    std::function<std::optional<boost::json::value>(const boost::json::value& object, std::string_view name,
                                                    std::span<const boost::json::value> arguments)>
        method = {};
    // Objects are rows of a listing, whose "json" escapes "<", ">" and "&" (as Go's Marshal does); inspect's does not.
    bool rows = false;
    // Values are column headings: helpers hand them through unchanged.
    bool header = false;
};

class Template {
  public:
    // Errors begin with "template parsing error: ".
    static Result<Template> parse(std::string_view text);
    Result<std::string> execute(const boost::json::value& data, const TemplateOptions& options = {}) const;

  private:
    explicit Template(std::shared_ptr<const template_detail::Tree> tree) : tree_(std::move(tree)) {}
    std::shared_ptr<const template_detail::Tree> tree_;
};

// As Go prints a value with %v.
std::string print_value(const boost::json::value& value);
// Compact JSON, members in their own order; escape_html: "<", ">" and "&" as Go's Marshal writes them.
enum class HtmlEscape : bool { no, yes };
std::string go_json(const boost::json::value& value, HtmlEscape escape = HtmlEscape::no);
// The same document indented by `indent` spaces a level; "[]" and "{}" stay on one line; nothing escaped beyond JSON.
std::string indented_json(const boost::json::value& value, int indent);

}  // namespace wherry::cli
