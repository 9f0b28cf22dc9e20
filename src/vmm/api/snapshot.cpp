#include "vmm/api/snapshot.hpp"

#include <fmt/format.h>

#include "vmm/api/fields.hpp"

namespace wherry::vmm::api {
namespace {

Result<> parse_backend(const json::object& body, LoadSnapshot& out) {
    Fields fields(body);
    const std::string type = TRY(fields.required_string("backend_type"));
    out.backend_path = TRY(fields.required_string("backend_path"));
    TRY(fields.finish());
    if (type != "File" && type != "Uffd")
        return invalid(fmt::format("unknown variant `{}`, expected `File` or `Uffd`", type));
    out.backend = type == "Uffd" ? MemoryBackend::uffd : MemoryBackend::file;
    return {};
}

// f(fields) for each object of a list that may be missing.
template <class F>
Result<> each_object(Fields& fields, std::string_view name, F f) {
    const json::array* list = TRY(fields.array(name));
    if (list == nullptr) return {};
    for (const json::value& item : *list) {
        if (!item.is_object()) return invalid(fmt::format("invalid type: expected an object in `{}`", name));
        Fields inner(item.get_object());
        TRY(f(inner));
        TRY(inner.finish());
    }
    return {};
}

}  // namespace

Result<CreateSnapshot> parse_create_snapshot(const json::object& body) {
    Fields fields(body);
    CreateSnapshot out;
    const std::string type = TRY(fields.string("snapshot_type")).value_or("Full");
    out.snapshot_path = TRY(fields.required_string("snapshot_path"));
    out.memory_path = TRY(fields.required_string("mem_file_path"));
    TRY(fields.finish());
    if (type != "Full" && type != "Diff")
        return invalid(fmt::format("unknown variant `{}`, expected `Full` or `Diff`", type));
    out.type = type == "Diff" ? SnapshotType::diff : SnapshotType::full;
    return out;
}

Result<LoadSnapshot> parse_load_snapshot(const json::object& body) {
    Fields fields(body);
    LoadSnapshot out;
    out.snapshot_path = TRY(fields.required_string("snapshot_path"));
    const json::object* backend = TRY(fields.object("mem_backend"));
    const auto memory_path = TRY(fields.string("mem_file_path"));
    const auto enable_diff = TRY(fields.boolean("enable_diff_snapshots"));
    out.track_dirty_pages = TRY(fields.boolean("track_dirty_pages")).value_or(false) || enable_diff.value_or(false);
    out.resume = TRY(fields.boolean("resume_vm")).value_or(false);
    out.clock_follows_host = TRY(fields.boolean("clock_realtime")).value_or(false);
    if (const auto pages = TRY(fields.string("huge_pages"))) {
        if (*pages == "None") {
            out.huge_pages = HugePages::none;
        } else if (*pages == "Transparent") {
            out.huge_pages = HugePages::transparent;
        } else if (*pages == "2M") {
            out.huge_pages = HugePages::two_megabytes;
        } else {
            return invalid(fmt::format("unknown variant `{}`, expected one of `None`, `Transparent`, `2M`", *pages));
        }
    }
    TRY(each_object(fields, "network_overrides", [&](Fields& inner) -> Result<> {
        NetworkOverride item;
        item.id = TRY(inner.required_string("iface_id"));
        item.host_dev_name = TRY(inner.required_string("host_dev_name"));
        out.networks.push_back(std::move(item));
        return {};
    }));
    TRY(each_object(fields, "drive_overrides", [&](Fields& inner) -> Result<> {
        DriveOverride item;
        item.id = TRY(inner.required_string("drive_id"));
        item.path = TRY(inner.required_string("path_on_host"));
        out.drives.push_back(std::move(item));
        return {};
    }));
    if (const json::object* vsock = TRY(fields.object("vsock_override"))) {
        Fields inner(*vsock);
        out.vsock_path = TRY(inner.required_string("uds_path"));
        TRY(inner.finish());
    }
    TRY(fields.finish());
    if (backend != nullptr && memory_path)
        return invalid("too many fields: either `mem_backend` or `mem_file_path` exclusively is required");
    if (backend == nullptr && !memory_path)
        return invalid("missing field: either `mem_backend` or `mem_file_path` is required");
    out.uses_deprecated = memory_path || enable_diff;
    if (memory_path) {
        out.backend_path = *memory_path;
        return out;
    }
    TRY(parse_backend(*backend, out));
    return out;
}

}  // namespace wherry::vmm::api
