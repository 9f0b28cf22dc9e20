// Pieces of request bodies.
#pragma once

#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace wherry::cli {

boost::json::array strings(const std::vector<std::string>& items);
// "key=value" as a member; without '=' the value is empty.
void add_pair(boost::json::object& map, std::string_view text);
boost::json::object pairs(const std::vector<std::string>& items);
// The member of that name, made where there is none of that type.
boost::json::object& child(boost::json::object& parent, std::string_view name);
boost::json::array& child_array(boost::json::object& parent, std::string_view name);

}  // namespace wherry::cli
