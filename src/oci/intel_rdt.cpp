#include "oci/intel_rdt.hpp"

#include <utility>

#include "base/log.hpp"

namespace wherry::oci {

namespace {

Result<std::optional<confine::ResctrlGroup>> group_of(const json::object& state) {
    auto described = TRY(JsonReader(state, "state").child("intelRdt"));
    if (!described) return std::nullopt;
    return TRY(confine::ResctrlGroup::restore(described->object()));
}

}  // namespace

Result<std::optional<confine::ResctrlGroup>> make_intel_rdt(const Spec& spec, const std::string& id,
                                                            const std::optional<confine::ResctrlMount>& mount) {
    if (!spec.linux_spec.intel_rdt) return std::nullopt;
    const IntelRdt& wish = *spec.linux_spec.intel_rdt;
    confine::ResctrlRequest request;
    request.clos_id = wish.clos_id;
    request.container_id = id;
    request.schemata = {.l3_cache = wish.l3_cache_schema, .memory_bandwidth = wish.mem_bw_schema};
    request.monitors_cache = wish.enable_cmt;
    request.monitors_bandwidth = wish.enable_mbm;
    confine::ResctrlMount where = mount ? *mount : TRY(confine::resctrl_of_this_host(), "linux.intelRdt");
    return TRY(confine::ResctrlGroup::make(where, request), "linux.intelRdt");
}

void drop_intel_rdt(const std::optional<confine::ResctrlGroup>& group) {
    if (!group) return;
    if (auto removed = group->remove(); !removed)
        log_warn("resctrl.not_removed", {{"group", group->path()}, {"error", removed.error()}});
}

Result<> remove_intel_rdt(const json::object& state) {
    auto group = TRY(group_of(state));
    if (!group) return {};
    return group->remove();
}

Result<> update_intel_rdt(const json::object& state, const confine::ResctrlSchemata& schemata) {
    auto group = TRY(group_of(state));
    if (!group)
        return fail(Code::conflict, "the container was made without linux.intelRdt: there is no group to be updated");
    return group->update(schemata);
}

}  // namespace wherry::oci
