// For the fault tests: WHERRY_CRASH_AT=<point>[:<nth>][+<milliseconds>] makes the daemon kill itself (SIGKILL, as a
// power cut would) when it comes to the named point for the nth time. With milliseconds the thread that came there is
// held for so long first: what others were given before, the store's writer above all, is done when the daemon dies.
// Without the variable a point costs one test of a pointer.
#pragma once

#include <string_view>

namespace wherry::engine {

void crash_point(std::string_view name);

}  // namespace wherry::engine
