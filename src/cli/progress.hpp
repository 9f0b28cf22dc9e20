// The JSON lines with which pull, load, import, push and prune tell how far they are.
#pragma once

#include <string>

#include "cli/session.hpp"

namespace wherry::cli {

struct ProgressOptions {
    bool quiet = false;      // only errors
    bool to_stderr = false;  // where run's own output must stay the container's
};

// Shows them until the end. An "errorDetail" line is the error (with its text, as Docker prints it).
// On a terminal each id has a line of its own that is redrawn; elsewhere every status is a line.
Result<> show_progress(Session& session, http::ClientResponse& response, const ProgressOptions& options);

}  // namespace wherry::cli
