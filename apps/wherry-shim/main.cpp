// wherry-shim: parent and monitor of one sandbox (src/supervisor).
#include <span>

#include "base/log.hpp"
#include "oci/container.hpp"
#include "supervisor/shim.hpp"

int main(int argc, char** argv) {
    if (auto is_protected = wherry::oci::protect_own_binary(argv); !is_protected) {
        wherry::log_error("shim.not_protected", {{"error", is_protected.error()}});
        return 1;
    }
    return wherry::supervisor::run_shim({argv, static_cast<std::size_t>(argc)}, "wherry-shim/" WHERRY_VERSION);
}
