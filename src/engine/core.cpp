#include "engine/core.hpp"

#include "base/digest.hpp"
#include "base/json.hpp"
#include "image/reference.hpp"

namespace wherry::engine {

store::Record to_record(const Volume& volume) {
    json::object labels;
    for (const auto& [key, value] : volume.labels) labels[key] = value;
    json::object options;
    for (const auto& [key, value] : volume.options) options[key] = value;
    const json::object spec{{"created", volume.created.time_since_epoch().count()},
                            {"labels", std::move(labels)},
                            {"options", std::move(options)},
                            {"anonymous", volume.anonymous}};
    store::Record record;
    record.kind = volume_kind;
    record.key = volume.name;
    record.spec = to_json(spec);
    record.status = "{}";
    return record;
}

Result<Volume> volume_from_record(const store::Record& record) {
    const json::object object = TRY(parse_json_object(record.spec));
    const JsonReader reader(object, "spec");
    Volume volume;
    volume.name = record.key;
    volume.created = WallTime(Nanoseconds(TRY(reader.integer_or("created", 0))));
    volume.labels = TRY(reader.string_map("labels"));
    volume.options = TRY(reader.string_map("options"));
    volume.anonymous = TRY(reader.boolean_or("anonymous", false));
    volume.written = true;
    return volume;
}

std::set<std::string> Core::layers_in_use() const {
    std::set<std::string> layers;
    for (const ContainerPtr& container : containers.all())
        layers.insert(container->diff_ids.begin(), container->diff_ids.end());
    for (const auto& [name, one] : kept) layers.insert(one.diff_ids.begin(), one.diff_ids.end());
    return layers;
}

Result<std::string> Core::resolve_image(const std::string& reference) const {
    const auto missing = [&] {
        const auto parsed = image::parse_reference(reference);
        return fail(
            Code::not_found,
            "No such image: " + (parsed && !image::is_full_image_id(reference) ? parsed->familiar() : reference));
    };
    if (reference.empty()) return fail(Code::invalid_argument, "image name cannot be blank");
    if (image::is_full_image_id(reference)) {
        std::string full = image::normalize_image_id(reference);
        if (images->has(full)) return full;
        return missing();
    }
    auto parsed = image::parse_reference(reference);
    if (parsed) {
        if (!parsed->digest.empty()) parsed->tag.clear();  // the digest says it all
        const auto named = image_names.find(parsed->canonical());
        if (named != image_names.end()) return named->second;
    }
    if (image::may_be_image_id_prefix(reference)) {
        std::vector<std::string> ids = images->ids_with_prefix(reference);
        if (ids.size() == 1) return std::move(ids.front());
        if (ids.size() > 1) return fail(Code::invalid_argument, "ambiguous image reference: " + reference);
    }
    if (!parsed) return std::unexpected(std::move(parsed).error());
    return missing();
}

Strings Core::names_of_image(const std::string& image_id) const {
    Strings names;
    for (const auto& [name, image] : image_names) {
        if (image != image_id || name.contains('@')) continue;
        const auto parsed = image::parse_reference(name);
        names.push_back(parsed ? parsed->familiar() : name);
    }
    return names;
}

Strings Core::digests_of_image(const std::string& image_id) const {
    Strings digests;
    for (const auto& [name, image] : image_names) {
        if (image != image_id || !name.contains('@')) continue;
        const auto parsed = image::parse_reference(name);
        digests.push_back(parsed ? parsed->familiar() : name);
    }
    return digests;
}

void Core::publish(std::string_view type, std::string_view action, const std::string& subject, StringMap attributes) {
    ++revision;
    ++activity;
    events.publish({.type = std::string(type),
                    .action = std::string(action),
                    .id = subject,
                    .attributes = std::move(attributes),
                    .time = wall_now()});
}

void Core::publish(const Container& container, std::string_view action, StringMap more) {
    StringMap attributes = container.config().labels;
    attributes["image"] = container.config().image;
    attributes["name"] = container.name;
    for (auto& [key, value] : more) attributes[key] = std::move(value);
    publish("container", action, container.id, std::move(attributes));
}

std::string network_id(const Core& core, std::string_view name) {
    if (const auto known = core.network_ids.find(name); known != core.network_ids.end()) return known->second;
    std::string id = sha256_hex(core.id + "/" + std::string(name));
    // Networks' names alone: those of endpoints have a container's id in them and would be too many.
    if (!name.contains('/')) core.network_ids.emplace(name, id);
    return id;
}

}  // namespace wherry::engine
