// How wherry-vmm ends: Firecracker's exit codes.
#pragma once

namespace wherry::vmm {

enum class ExitCode : int {
    ok = 0,
    generic_error = 1,
    unexpected_error = 2,
    bad_system_call = 148,
    sigbus = 149,
    sigsegv = 150,
    sigxfsz = 151,
    bad_configuration = 152,
    argument_parsing = 153,
    sigxcpu = 154,
    sigpipe = 155,
    sighup = 156,
    sigill = 157,
};

}  // namespace wherry::vmm
