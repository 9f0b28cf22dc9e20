// What verbs with several arguments do for each of them.
#pragma once

#include "base/result.hpp"
#include "cli/command.hpp"
#include "cli/session.hpp"

namespace wherry::cli {

// One request for each argument; its name on success, its error otherwise. 1 when any failed.
template <class Action>
Result<int> for_each_argument(Session& session, const Invocation& invocation, Action action) {
    int code = 0;
    for (const std::string& name : invocation.arguments) {
        auto done = action(name);
        if (done) {
            session.out(name + "\n");
        } else {
            session.report(done.error());
            code = 1;
            if (done.error().code() == Code::unavailable) break;  // no daemon: once is enough
        }
    }
    return code;
}

}  // namespace wherry::cli
