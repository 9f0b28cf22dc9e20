// containerd-shim-wherry-v2: its flags and subcommands (containerd's "Runtime v2": runtime/v2/README.md).
//
//   -namespace NS -address SOCKET -publish-binary PATH -id ID [-bundle PATH] [-debug] [start | delete]
//
// `start`, in a bundle, prints the address of the shim that serves the container: that of its pod where one runs
// already, else of a new one, which stays when `start` returns. `delete` cleans up after a shim that died.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::api::containerd {

struct ShimFlags {
    std::string name_space, address, publish_binary, id, bundle, socket;
    std::string command;  // "start", "delete", or empty
    bool debug = false, version = false, info = false, help = false;
};
// Go's flag syntax: -name value, -name=value, --name. invalid_argument for anything unknown.
Result<ShimFlags> parse_flags(std::span<const std::string> arguments);

// main() after the binary has been protected. Returns the exit code.
int run_containerd_shim(std::span<char*> arguments, std::string_view software);

}  // namespace wherry::api::containerd
