// wherry-vmm: the microVM monitor (src/vmm).
#include <unistd.h>

#include <span>

#include "vmm/program.hpp"

int main(int argc, char** argv) {
    const std::span<const char* const> arguments{argv, static_cast<std::size_t>(argc)};
    // Without the destructors of static objects: a thread of the API may still use them.
    _exit(wherry::vmm::run(arguments.empty() ? arguments : arguments.subspan(1)));
}
