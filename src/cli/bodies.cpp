#include "cli/bodies.hpp"

namespace wherry::cli {

namespace json = boost::json;

json::array strings(const std::vector<std::string>& items) {
    json::array out;
    for (const std::string& item : items) out.emplace_back(item);
    return out;
}

void add_pair(json::object& map, std::string_view text) {
    auto equals = text.find('=');
    map[text.substr(0, equals)] = equals == std::string_view::npos ? std::string_view() : text.substr(equals + 1);
}

json::object pairs(const std::vector<std::string>& items) {
    json::object map;
    for (const std::string& item : items) add_pair(map, item);
    return map;
}

json::object& child(json::object& parent, std::string_view name) {
    json::value& value = parent[name];
    if (!value.is_object()) value.emplace_object();
    return value.get_object();
}

json::array& child_array(json::object& parent, std::string_view name) {
    json::value& value = parent[name];
    if (!value.is_array()) value.emplace_array();
    return value.get_array();
}

}  // namespace wherry::cli
