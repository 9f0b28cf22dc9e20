// What the controller does about memory that devices bring: pmem, memory hotplug.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "vmm/api/bodies.hpp"
#include "vmm/api/controller.hpp"

namespace wherry::vmm::api {
namespace {

Result<> check_file(const std::string& path) {
    struct stat status = {};
    if (stat(path.c_str(), &status) != 0)
        return invalid(fmt::format("Unable to create the virtio-pmem device: {}: {}", path, strerror(errno)));
    if (!S_ISREG(status.st_mode) || status.st_size == 0)
        return invalid(fmt::format("Unable to create the virtio-pmem device: {}: not a file, or empty", path));
    return {};
}

Result<mem::MemDevice*> hotplug_of(Machine* machine) {
    if (machine->memory_hotplug() == nullptr) return invalid("No memory hotplug device found.");
    return machine->memory_hotplug();
}

}  // namespace

Result<> Controller::set_pmem(pmem::Config config) {
    TRY(before_start_or_pluggable());
    if (config.files.empty()) TRY(check_file(config.path));
    for (const std::string& path : config.files) TRY(check_file(path));
    if (started()) {
        if (config.is_root) return invalid("A root pmem device cannot be plugged while the microVM runs.");
        if (std::ranges::find(resources_.pmems, config.id, &pmem::Config::id) != resources_.pmems.end())
            return fail(Code::already_exists, "Unable to plug the pmem device: there is one with the id " + config.id);
        TRY(machine_->plug(loop_, config), "Unable to plug the pmem device");
        prepare_last_metrics();
        resources_.pmems.push_back(std::move(config));
        return {};
    }
    if (config.is_root) {
        const auto is_other_root = [&](const pmem::Config& other) { return other.is_root && other.id != config.id; };
        if (std::ranges::any_of(resources_.pmems, is_other_root)) return invalid("A root pmem device already exists!");
        if (std::ranges::any_of(resources_.drives, &block::Config::is_root))
            return invalid("A root block device already exists!");
    }
    const auto same = std::ranges::find(resources_.pmems, config.id, &pmem::Config::id);
    if (same != resources_.pmems.end()) {
        *same = std::move(config);
    } else {
        resources_.pmems.push_back(std::move(config));
    }
    return {};
}

Result<> Controller::patch_pmem(const PmemPatch& patch) {
    Machine* machine = TRY(running());
    for (const auto& device : machine->pmems()) {
        if (device->id() != patch.id) continue;
        device->change_limits(patch.limits);
        return {};
    }
    return invalid("There is no pmem device with the id " + patch.id);
}

Result<> Controller::delete_pmem(const std::string& id) {
    if (started()) {
        const auto window = std::ranges::find(resources_.pmems, id, &pmem::Config::id);
        if (window != resources_.pmems.end() && window->is_root)
            return invalid("Unable to unplug the pmem device: it is the root device.");
        return machine_->unplug(DeviceType::pmem, id);
    }
    if (std::erase_if(resources_.pmems, [&](const pmem::Config& config) { return config.id == id; }) == 0)
        return invalid("There is no pmem device with the id " + id);
    return {};
}

json::array Controller::pmem_configuration() const {
    json::array out;
    for (const pmem::Config& configured : resources_.pmems) {
        pmem::Config config = configured;
        if (machine_)
            for (const auto& device : machine_->pmems())
                if (device->id() == config.id) config = device->config();
        json::object object{{"id", config.id}};
        if (config.files.empty()) {
            object["path_on_host"] = config.path;
        } else {
            json::array files;
            for (const std::string& path : config.files) files.emplace_back(path);
            object["files"] = std::move(files);
        }
        object["root_device"] = config.is_root;
        object["read_only"] = config.is_read_only;
        object["rate_limiter"] = limits_to_json(config.limits);
        out.push_back(std::move(object));
    }
    return out;
}

Result<> Controller::set_memory_hotplug(const mem::Config& config) {
    TRY(before_start());
    resources_.memory_hotplug = config;
    return {};
}

Result<> Controller::patch_memory_hotplug(std::uint64_t requested_size_mib) {
    mem::MemDevice* device = TRY(hotplug_of(TRY(running())));
    return device->change_requested(requested_size_mib);
}

Result<json::value> Controller::memory_hotplug() {
    if (!resources_.memory_hotplug) return invalid("No memory hotplug device found.");
    const mem::Config& config = *resources_.memory_hotplug;
    const mem::Status status =
        machine_ && machine_->memory_hotplug() != nullptr ? machine_->memory_hotplug()->status() : mem::Status{};
    return json::object{{"total_size_mib", config.total_size_mib},
                        {"block_size_mib", config.block_size_mib},
                        {"slot_size_mib", config.slot_size_mib},
                        {"plugged_size_mib", status.plugged_size_mib},
                        {"requested_size_mib", status.requested_size_mib}};
}

}  // namespace wherry::vmm::api
