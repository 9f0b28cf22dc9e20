// linux.intelRdt of a container (config-linux.md "IntelRdt"): its group in resctrl, from its making to its removal.
// Container::create() makes the group and exec() enters it; whoever deletes a container
// removes it, by drop_intel_rdt() or remove_intel_rdt().
#pragma once

#include <optional>
#include <string>

#include "base/json.hpp"
#include "base/result.hpp"
#include "confine/resctrl.hpp"
#include "oci/spec.hpp"

namespace wherry::oci {

// nullopt when the specification asks for none: then no resctrl is looked for. `mount` where the caller knows better
// than /proc/self/mountinfo.
Result<std::optional<confine::ResctrlGroup>> make_intel_rdt(const Spec& spec, const std::string& id,
                                                            const std::optional<confine::ResctrlMount>& mount);

// Removes the group of a container that comes to nothing or goes; a failure is logged.
void drop_intel_rdt(const std::optional<confine::ResctrlGroup>& group);

// For who did not make the container; these take Container::state(). Nothing happens for a container without
// linux.intelRdt, but update: conflict.
Result<> remove_intel_rdt(const json::object& state);
Result<> update_intel_rdt(const json::object& state, const confine::ResctrlSchemata& schemata);

}  // namespace wherry::oci
