// A container of Docker's as the body of a create request.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "adopt/docker_root.hpp"
#include "base/json.hpp"

namespace wherry::adopt {

struct ContainerBody {
    json::object body;
    std::vector<std::string> notices;  // what was changed, for people
};

// `adopted`: ids of Docker's containers -> names of ours, for namespaces that are shared. Its image is set by the
// caller. not_found when it shares namespaces with a container that was not adopted.
Result<ContainerBody> container_body(const DockerContainer& container,
                                     const std::map<std::string, std::string>& adopted);

}  // namespace wherry::adopt
