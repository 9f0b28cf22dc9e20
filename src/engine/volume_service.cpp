#include "engine/volume_service.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "base/id.hpp"
#include "base/log.hpp"
#include "engine/crash_point.hpp"
#include "engine/names.hpp"
#include "engine/process_table.hpp"

namespace wherry::engine {

std::vector<ContainerPtr> VolumeService::users(const std::string& name) const {
    std::vector<ContainerPtr> users;
    for (const ContainerPtr& container : core_.containers.all()) {
        if (std::ranges::any_of(container->mounts, [&](const MountPoint& mount) { return mount.name == name; }))
            users.push_back(container);
    }
    return users;
}

VolumeView VolumeService::view(const Volume& volume) const {
    return {.name = volume.name,
            .driver = "local",
            .mountpoint = core_.volume_data(volume.name),
            .created = volume.created,
            .labels = volume.labels,
            .options = volume.options,
            .size_bytes = std::nullopt,
            .reference_count = static_cast<std::int64_t>(users(volume.name).size())};
}

asio::awaitable<Result<VolumeService::Made>> VolumeService::ensure(Volume volume) {
    if (core_.volumes.contains(volume.name)) co_return Made::before;
    if (!volume.options.empty()) {
        co_return fail(Code::invalid_argument,
                       "create " + volume.name + ": invalid option: \"" + volume.options.begin()->first + "\"");
    }
    const std::string name = volume.name;
    core_.volumes.emplace(name, volume);  // whoever comes meanwhile finds it
    Result<> made =
        co_await core_.pool.run([path = core_.volume_data(name), parent = core_.volume_directory(name)]() -> Result<> {
            TRY(make_directories(parent, 0701));
            return make_directories(path, 0755);
        });
    if (!made) {
        core_.volumes.erase(name);
        co_return std::unexpected(std::move(made).error().context("making the volume " + name));
    }
    core_.publish("volume", "create", name, {{"driver", "local"}});
    co_return Made::now;
}

void VolumeService::take_unwritten(const std::vector<std::string>& names, store::Transaction& transaction) {
    for (const std::string& name : names) {
        const auto found = core_.volumes.find(name);
        if (found == core_.volumes.end() || found->second.written) continue;
        found->second.written = true;
        transaction.push_back(store::Put{to_record(found->second)});
    }
}

asio::awaitable<void> VolumeService::forget(std::string name) {
    if (!users(name).empty() || !core_.volumes.contains(name)) co_return;  // somebody else has come to use it
    // Whether its record was written does not matter: it is not there afterwards.
    store::Transaction transaction{store::Put{to_record(core_.volumes.at(name))}};
    transaction.push_back(store::Remove{.kind = std::string(volume_kind), .key = name});
    core_.volumes.erase(name);
    core_.journal->post(std::move(transaction));
    std::ignore = co_await core_.pool.run([path = core_.volume_directory(name)] { return remove_tree(path); });
}

asio::awaitable<Result<VolumeView>> VolumeService::create(VolumeCreate request) {
    if (!request.driver.empty() && request.driver != "local") {
        co_return fail(Code::not_found, "error looking up volume plugin " + request.driver + ": plugin \"" +
                                            request.driver + "\" not found");
    }
    Volume volume;
    volume.anonymous = request.name.empty();
    volume.name = request.name.empty() ? make_id() : request.name;
    CO_CHECK(check_volume_name(volume.name));
    volume.created = wall_now();
    volume.labels = std::move(request.labels);
    volume.options = std::move(request.options);
    if (volume.anonymous) volume.labels.emplace("com.docker.volume.anonymous", "");
    const std::string name = volume.name;
    CO_CHECK(co_await ensure(std::move(volume)));
    store::Transaction transaction;
    take_unwritten({name}, transaction);
    crash_point("volume.made");
    if (!transaction.empty()) {
        if (auto written = co_await core_.journal->commit(std::move(transaction)); !written) {
            co_await forget(name);
            co_return std::unexpected(std::move(written).error());
        }
    }
    crash_point("volume.written");
    const auto found = core_.volumes.find(name);
    if (found == core_.volumes.end()) co_return fail(Code::not_found, "get " + name + ": no such volume");
    co_return view(found->second);
}

asio::awaitable<Result<std::vector<VolumeView>>> VolumeService::list(Filters filters) {
    CO_CHECK(check_filters(filters, {"dangling", "driver", "label", "name"}));
    std::vector<VolumeView> views;
    for (const auto& [name, volume] : core_.volumes) {
        const VolumeView one = view(volume);
        if (const auto wanted = filters.find("name");
            wanted != filters.end() && !wanted->second.empty() &&
            std::ranges::none_of(wanted->second, [&](const std::string& text) { return name_matches(name, text); })) {
            continue;
        }
        if (const auto wanted = filters.find("driver");
            wanted != filters.end() && std::ranges::find(wanted->second, "local") == wanted->second.end())
            continue;
        if (const auto wanted = filters.find("label");
            wanted != filters.end() && !labels_match(volume.labels, wanted->second))
            continue;
        if (const auto wanted = filters.find("dangling"); wanted != filters.end() && !wanted->second.empty()) {
            const std::string& value = wanted->second.front();
            if (value != "true" && value != "false" && value != "1" && value != "0")
                co_return fail(Code::invalid_argument, "invalid filter 'dangling=" + value + "'");
            const bool dangling = value == "true" || value == "1";
            if (dangling != (one.reference_count == 0)) continue;
        }
        views.push_back(one);
    }
    co_return views;
}

asio::awaitable<Result<VolumeView>> VolumeService::inspect(std::string name) {
    const auto found = core_.volumes.find(name);
    if (found == core_.volumes.end()) co_return fail(Code::not_found, "get " + name + ": no such volume");
    co_return view(found->second);
}

asio::awaitable<Result<>> VolumeService::remove(std::string name, bool force) {
    if (!core_.volumes.contains(name)) {
        if (force) co_return Result<>{};
        co_return fail(Code::not_found, "get " + name + ": no such volume");
    }
    if (const std::vector<ContainerPtr> by = users(name); !by.empty()) {
        std::string ids;
        for (const ContainerPtr& container : by) ids += (ids.empty() ? "" : ", ") + container->id;
        co_return fail(Code::conflict, "remove " + name + ": volume is in use - [" + ids + "]");
    }
    const Volume kept = core_.volumes.at(name);
    core_.volumes.erase(name);
    if (auto written = co_await core_.journal->commit({store::Remove{.kind = std::string(volume_kind), .key = name}});
        !written) {
        core_.volumes.emplace(name, kept);
        co_return std::unexpected(std::move(written).error());
    }
    crash_point("volume.removed");
    CO_CHECK(co_await core_.pool.run([path = core_.volume_directory(name)] { return remove_tree(path); }));
    core_.publish("volume", "destroy", name, {{"driver", "local"}});
    co_return Result<>{};
}

asio::awaitable<Result<PruneResult>> VolumeService::prune(Filters filters) {
    CO_CHECK(check_filters(filters, {"all", "label", "label!"}));
    bool all = false;
    if (const auto found = filters.find("all"); found != filters.end() && !found->second.empty()) {
        all = found->second.front() == "true" || found->second.front() == "1";
    }
    std::vector<std::string> names;
    for (const auto& [name, volume] : core_.volumes) {
        if (!all && !volume.anonymous) continue;
        if (filters.contains("label") && !labels_match(volume.labels, filters["label"])) continue;
        if (filters.contains("label!") && std::ranges::any_of(filters["label!"], [&](const std::string& one) {
                return labels_match(volume.labels, {one});
            }))
            continue;
        if (users(name).empty()) names.push_back(name);
    }
    PruneResult result;
    for (const std::string& name : names) {
        const auto size = co_await core_.pool.run([path = core_.volume_data(name)] { return tree_size(path); });
        if (!co_await remove(name, false)) continue;
        result.deleted.push_back(name);
        if (size) result.space_reclaimed_bytes += *size;
    }
    core_.publish("volume", "prune", "", {{"reclaimed", std::to_string(result.space_reclaimed_bytes)}});
    co_return result;
}

asio::awaitable<void> VolumeService::sweep() {
    std::set<std::string> known;
    std::vector<std::string> to_make;
    for (const auto& [name, volume] : core_.volumes) {
        known.insert(name);
        to_make.push_back(core_.volume_data(name));
    }
    std::ignore = co_await core_.pool.run([root = core_.options.data_root + "/volumes", known, to_make]() -> Result<> {
        for (const std::string& path : to_make) {
            if (path_exists(path)) continue;
            TRY(make_directories(path.substr(0, path.rfind('/')), 0701));
            TRY(make_directories(path, 0755));
        }
        std::error_code ignored;
        for (const auto& entry : std::filesystem::directory_iterator(root, ignored)) {
            if (!known.contains(entry.path().filename().string())) {
                log_info("volume.swept", {{"path", entry.path().string()}});
                std::ignore = remove_tree(entry.path().string());
            }
        }
        return {};
    });
}

}  // namespace wherry::engine
