// Checks a request to create a container and fills in Docker's defaults. Pure, but for a look at this host's
// processors, limits and devices.
#pragma once

#include "base/result.hpp"
#include "engine/container_spec.hpp"
#include "image/model.hpp"
#include "supervisor/protocol.hpp"

namespace wherry::engine {

struct Defaults {
    LogConfig log_config;
    std::vector<Ulimit> ulimits;
    bool unified_cgroups = false;
    std::string network = "bridge";  // for who does not say; "none" for a daemon without a bridge
};

// What the image brings for what the request leaves out. invalid_argument "no command specified" when neither says what
// to run.
Result<> merge_image_config(Config& config, const image::RunConfig& image);
// invalid_argument (or conflict) with Docker's words; the result are warnings.
Result<Strings> check_and_complete(ContainerSpec& spec, const Defaults& defaults);
// invalid_argument for a driver or an option that is not known.
Result<supervisor::LogOptions> log_options(const LogConfig& log, const Config& config, const std::string& path);
Result<> check_restart_policy(const RestartPolicy& policy, bool auto_remove);
Result<Strings> check_resources(Resources& resources);

}  // namespace wherry::engine
