// What several listings show alike: labels and ports.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace wherry::cli {

// The member of a row that keeps the labels as they are, for label_method; no template can name it.
inline constexpr std::string_view label_source = " labels";

// {{.Label "name"}} of a row.
std::optional<boost::json::value> label_method(const boost::json::object& row, std::string_view name,
                                               std::span<const boost::json::value> arguments);
std::string joined_labels(const boost::json::value* labels);  // "a=b,c=d"
std::string print_text(const boost::json::value& value);      // of a string; empty for anything else
// "0.0.0.0:8080->80/tcp, 9000-9001/tcp" of a container of the list.
std::string show_ports(const boost::json::value& container);

}  // namespace wherry::cli
