#include "engine/sandbox.hpp"

#include <algorithm>

#include "base/json.hpp"
#include "engine/endpoint_record.hpp"

namespace wherry::engine {

store::Record to_record(const Sandbox& sandbox) {
    json::object spec{{"name", sandbox.name},
                      {"created", sandbox.created.time_since_epoch().count()},
                      {"spec", encode_sandbox_spec(sandbox.spec)}};
    json::object status{{"up", sandbox.up}, {"started", sandbox.started_at.time_since_epoch().count()}};
    write_network_status(status, sandbox.endpoint, sandbox.ports);
    store::Record record;
    record.kind = sandbox_kind;
    record.key = sandbox.id;
    record.spec = to_json(spec);
    record.status = to_json(status);
    return record;
}

Result<SandboxPtr> sandbox_from_record(const store::Record& record) {
    auto sandbox = std::make_shared<Sandbox>();
    sandbox->id = record.key;
    const json::object spec_object = TRY(parse_json_object(record.spec));
    const JsonReader spec(spec_object, "spec");
    sandbox->name = TRY(spec.required_string("name"));
    sandbox->created = WallTime(Nanoseconds(TRY(spec.integer_or("created", 0))));
    if (const auto inner = TRY(spec.child("spec"))) sandbox->spec = TRY(decode_sandbox_spec(inner->object(), "spec"));
    const json::object status_object = TRY(parse_json_object(record.status));
    const JsonReader status(status_object, "status");
    sandbox->up = TRY(status.boolean_or("up", false));
    sandbox->started_at = WallTime(Nanoseconds(TRY(status.integer_or("started", 0))));
    TRY(read_network_status(status, sandbox->endpoint, sandbox->ports));
    return sandbox;
}

SandboxPaths sandbox_paths(const std::string& data_root, const std::string& exec_root, const std::string& id) {
    SandboxPaths paths;
    paths.directory = data_root + "/sandboxes/" + id;
    paths.hostname = paths.directory + "/hostname";
    paths.hosts = paths.directory + "/hosts";
    paths.resolv_conf = paths.directory + "/resolv.conf";
    paths.runtime = exec_root + "/sandboxes/" + id;
    paths.shared_memory = paths.runtime + "/shm";
    return paths;
}

Result<> SandboxTable::reserve_name(const std::string& name, const std::string& id) {
    const auto [place, added] = names_.emplace(name, id);
    if (added) return {};
    return fail(Code::already_exists,
                "Conflict. The sandbox name \"" + name + "\" is already in use by sandbox \"" + place->second + "\"");
}

void SandboxTable::add(SandboxPtr sandbox) {
    by_id_[sandbox->id] = std::move(sandbox);
}

void SandboxTable::remove(const SandboxPtr& sandbox) {
    names_.erase(sandbox->name);
    by_id_.erase(sandbox->id);
}

SandboxPtr SandboxTable::by_id(const std::string& id) const {
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : found->second;
}

Result<SandboxPtr> SandboxTable::find(std::string_view reference) const {
    const std::string text(reference);
    if (SandboxPtr exact = by_id(text)) return exact;
    if (const auto named = names_.find(text); named != names_.end()) {
        if (SandboxPtr found = by_id(named->second)) return found;
    }
    const auto first = by_id_.lower_bound(text);
    if (!text.empty() && first != by_id_.end() && first->first.starts_with(text)) {
        const auto second = std::next(first);
        if (second != by_id_.end() && second->first.starts_with(text))
            return fail(Code::invalid_argument, "Multiple IDs found with provided prefix: " + text);
        return first->second;
    }
    return fail(Code::not_found, "No such sandbox: " + text);
}

std::vector<SandboxPtr> SandboxTable::all() const {
    std::vector<SandboxPtr> sandboxes;
    sandboxes.reserve(by_id_.size());
    for (const auto& [id, sandbox] : by_id_) sandboxes.push_back(sandbox);
    std::ranges::sort(sandboxes, [](const SandboxPtr& a, const SandboxPtr& b) {
        return std::tie(a->created, a->id) < std::tie(b->created, b->id);
    });
    return sandboxes;
}

}  // namespace wherry::engine
