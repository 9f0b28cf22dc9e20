// containerd-shim-wherry-v2: containerd's shim interface on the supervisor (src/api/containerd).
#include <span>

#include "api/containerd/shim.hpp"
#include "base/log.hpp"
#include "oci/container.hpp"

int main(int argc, char** argv) {
    if (auto is_protected = wherry::oci::protect_own_binary(argv); !is_protected) {
        wherry::log_error("shim.not_protected", {{"error", is_protected.error()}});
        return 1;
    }
    return wherry::api::containerd::run_containerd_shim({argv, static_cast<std::size_t>(argc)},
                                                        "containerd-shim-wherry-v2/" WHERRY_VERSION);
}
