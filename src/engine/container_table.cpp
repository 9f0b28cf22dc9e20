#include "engine/container_table.hpp"

#include <algorithm>

namespace wherry::engine {

Result<> ContainerTable::reserve_name(const std::string& name, const std::string& id) {
    const auto [place, added] = names_.emplace(name, id);
    if (added) return {};
    return fail(Code::already_exists,
                "Conflict. The container name \"/" + name + "\" is already in use by container \"" + place->second +
                    "\". You have to remove (or rename) that container to be able to reuse that name.");
}

void ContainerTable::release_name(const std::string& name) {
    names_.erase(name);
}

void ContainerTable::add(ContainerPtr container) {
    by_id_[container->id] = std::move(container);
}

void ContainerTable::remove(const ContainerPtr& container) {
    for (const auto& [id, exec] : container->execs) execs.erase(id);
    names_.erase(container->name);
    by_id_.erase(container->id);
}

ContainerPtr ContainerTable::by_id(const std::string& id) const {
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : found->second;
}

Result<ContainerPtr> ContainerTable::find(std::string_view reference) const {
    const std::string text(reference);
    if (ContainerPtr exact = by_id(text)) return exact;
    const auto named = names_.find(text.starts_with('/') ? text.substr(1) : text);
    if (named != names_.end()) {
        if (ContainerPtr found = by_id(named->second)) return found;
    }
    if (!text.empty()) {
        const auto first = by_id_.lower_bound(text);
        if (first != by_id_.end() && first->first.starts_with(text)) {
            const auto second = std::next(first);
            if (second != by_id_.end() && second->first.starts_with(text)) {
                return fail(Code::invalid_argument, "Multiple IDs found with provided prefix: " + text);
            }
            return first->second;
        }
    }
    return fail(Code::not_found, "No such container: " + text);
}

std::vector<ContainerPtr> ContainerTable::all() const {
    std::vector<ContainerPtr> containers;
    containers.reserve(by_id_.size());
    for (const auto& [id, container] : by_id_) containers.push_back(container);
    std::ranges::sort(containers, [](const ContainerPtr& a, const ContainerPtr& b) {
        return std::tie(a->created, a->id) < std::tie(b->created, b->id);
    });
    return containers;
}

}  // namespace wherry::engine
