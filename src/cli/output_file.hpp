// -o/--output of export and save.
#pragma once

#include <string>

#include "cli/session.hpp"

namespace wherry::cli {

// Empty path: stdout, which must not be a terminal. The folder of another path must be there.
Result<> check_output_file(Session& session, const std::string& path);
// The response's body into the file (replaced as a whole) or stdout.
Result<> write_output_file(http::ClientResponse& response, const std::string& path);

}  // namespace wherry::cli
