// -v, --mount and --tmpfs, by Docker's rules.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::cli {

struct VolumeArgument {
    std::string source;  // empty: an anonymous volume
    std::string destination;
    std::string bind;  // what goes into HostConfig.Binds; empty for an anonymous volume
};

// "[source:]destination[:options]"; a source that begins with ".", "~" or "/" is a path, made absolute.
Result<VolumeArgument> parse_volume(std::string_view text);
// "type=bind,source=…,target=…,readonly": one entry of HostConfig.Mounts.
Result<boost::json::object> parse_mount(std::string_view text);
Result<> check_mount(std::string_view value);

// Lexically absolute against the working directory; "." and ".." are taken out.
std::string absolute_path(std::string_view path);

}  // namespace wherry::cli
