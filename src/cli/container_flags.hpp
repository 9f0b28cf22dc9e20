// The options that run and create share, and the request they become (Config, HostConfig and NetworkingConfig of
// Docker's POST /containers/create).
#pragma once

#include <boost/json/object.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "cli/options.hpp"

namespace wherry::cli {

// The options of create; run has these and its own.
std::span<const Option> container_options();

struct ContainerRequest {
    boost::json::object body;
    std::string name;
    std::string image;     // as it was written
    std::string platform;  // empty: none was asked for
    bool attach_stdin = false;
    bool attach_stdout = false;
    bool attach_stderr = false;
    bool terminal = false;
    bool interactive = false;
    bool auto_remove = false;
};

// arguments: image, then the command. Only what was given is in the body; the daemon knows the defaults.
// Errors in Docker's words where scripts look at them.
Result<ContainerRequest> make_container_request(const ParsedOptions& options, const std::vector<std::string>& arguments,
                                                bool detached);

// "always", "on-failure:3": HostConfig.RestartPolicy.
Result<boost::json::object> parse_restart_policy(std::string_view text);
// Resources that run and update share, into HostConfig or the body of update.
Result<> add_resources(const ParsedOptions& options, boost::json::object& host);
// Lines of an environment file: "NAME=value", "NAME" (taken from this process when it is set), "#" comments.
Result<std::vector<std::string>> read_environment_file(const std::string& path);
// -e values with bare names resolved: what becomes Config.Env.
Result<std::vector<std::string>> collect_environment(const ParsedOptions& options);
Result<> check_environment(std::string_view value);

}  // namespace wherry::cli
