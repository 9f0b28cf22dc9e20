// -p and --expose: "[[ip:][hostPort]:]containerPort[/proto]" with ranges, and --publish's long form.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace wherry::cli {

struct PortBinding {
    std::string port;       // "80/tcp"
    std::string host_ip;    // empty: every address
    std::string host_port;  // empty: chosen by the daemon; "8000-8010": one of these
};

// One --publish value; ranges become one binding for each port. Errors in Docker's words.
Result<std::vector<PortBinding>> parse_publish(std::string_view text);
// One --expose value ("80", "53/udp", "8000-8010/tcp"): "80/tcp", ….
Result<std::vector<std::string>> parse_expose(std::string_view text);

}  // namespace wherry::cli
