// Values and functions of templates. Internal to template*.cpp.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "cli/template.hpp"

namespace wherry::cli::template_detail {

struct Value {
    boost::json::value json;
    std::string missing;  // not empty: the name of a member that is not there
    std::string where;    // with `missing`: ":1:2: executing "" at <.Name>"
    std::string field;    // the member it came from: says how a null is printed
    bool zero = false;    // a map's answer to a key it lacks: printed as nothing
};

bool truth(const Value& value);
std::unexpected<Error> missing_entry(const Value& value);
Result<std::string> printed(const Value& value);
std::string_view type_name(const boost::json::value& value);
Result<Value> call_function(const std::string& name, const std::vector<Value>& arguments,
                            const TemplateOptions& options);

}  // namespace wherry::cli::template_detail
