// The steps of the jailer, in Firecracker's order.
#pragma once

#include "base/result.hpp"
#include "jailer/command_line.hpp"

namespace wherry::jailer {

// When the jailer began, for the monitor's start-up metrics. Microseconds.
struct StartTimes {
    std::int64_t monotonic_us = 0;
    std::int64_t cpu_us = 0;  // CPU time of the process

    static StartTimes now();
};

// First of all, before anything is opened: every descriptor from 3 on is closed, the environment is emptied. A daemon
// also needs descriptors 0 to 2 to be there: those that are not are opened on /dev/null.
Result<> clean_process();

// Becomes the monitor. Does not return on success; with daemonize or new_pid_namespace the process that called ends
// with 0 once the monitor has been executed. Single-threaded callers only.
Error run(const Options& options, const StartTimes& started);

}  // namespace wherry::jailer
