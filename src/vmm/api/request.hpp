// From an HTTP request to an action on the controller. Parsing happens on the API's thread, without the controller:
// what is wrong with a request by itself never reaches the device thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/json.hpp"
#include "base/result.hpp"
#include "vmm/api/controller.hpp"

namespace wherry::vmm::api {

// What an action answers: nothing (204), or a body (200).
using Answer = std::optional<json::value>;
using Action = std::function<Result<Answer>(Controller& controller)>;

struct ParsedRequest {
    Action action;
    const char* section = "put_api_requests";  // of the metrics
    std::string name;                          // in that section
    std::string deprecated;                    // a warning for the log, when the request uses something old
};

// invalid_argument with Firecracker's words for a request that is none of its API.
Result<ParsedRequest> parse_request(std::string_view method, std::string_view path, std::string_view body);

// Applies a whole configuration file ("boot-source", "drives", ...), without starting the machine.
Result<> apply_configuration(Controller& controller, std::string_view text);

}  // namespace wherry::vmm::api
