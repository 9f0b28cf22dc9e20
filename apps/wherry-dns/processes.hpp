// The processes beside the server, started before it gives up its rights, and what each may do; and what the server
// itself runs as.
#pragma once

#include <memory>
#include <string>

#include "base/result.hpp"
#include "dns/config.hpp"
#include "dns/keeper.hpp"
#include "dns/steering/command_checks.hpp"

namespace wherry {

// Runs the commands among the health checks, as the server's user but outside of its chroot. Null where nothing is
// steered.
Result<std::shared_ptr<const dns::steering::CommandChecks>> start_checks(const dns::Config& config,
                                                                         const std::string& config_path);

// Holds the keys. Null where no zone is signed here. `checks` is closed in it.
Result<std::shared_ptr<dns::SignerClient>> start_signing(const dns::Config& config,
                                                         const dns::steering::CommandChecks* checks);

// The server, once its sockets are bound: chroot, user, no_new_privs.
Result<> confine_server(const dns::Config& config, dns::Keeper& keeper);

}  // namespace wherry
