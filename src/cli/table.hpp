// Columns and listings: text aligned as Go's tabwriter aligns it, and --format for lists of things.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace wherry::cli {

struct TableShape {
    std::size_t minimum_width = 10;
    std::size_t padding = 3;
};

// Lines of tab-separated cells, aligned: a column is as wide as its widest cell in adjacent lines plus padding; the
// last cell of a line is as it is. Width is counted in code points.
std::string align(std::string_view text, TableShape shape = {});

// A list of things and how --format shows it.
class Listing {
  public:
    // {"ID", "CONTAINER ID"}: every field that templates may name, with its heading.
    using Column = std::pair<std::string_view, std::string_view>;

    Listing(std::span<const Column> columns, std::string default_table)
        : columns_(columns), default_table_(std::move(default_table)) {}

    // Rows are objects with a text for each column; more members (".Labels" of a row) are for `method`.
    void add(boost::json::object row) { rows_.push_back(std::move(row)); }
    // ".Label "x"": methods of a row (row, name, arguments).
    std::function<std::optional<boost::json::value>(const boost::json::object& row, std::string_view name,
                                                    std::span<const boost::json::value> arguments)>
        method;

    // format: empty or "table": the default table; "table <template>"; "json"; "raw" where given; a template a row.
    Result<std::string> render(std::string_view format) const;
    bool empty() const { return rows_.empty(); }

  private:
    std::span<const Column> columns_;
    std::string default_table_;
    std::vector<boost::json::object> rows_;
};

// At most `length` characters, the last one an ellipsis when something was cut.
std::string shorten(std::string_view text, std::size_t length);

}  // namespace wherry::cli
