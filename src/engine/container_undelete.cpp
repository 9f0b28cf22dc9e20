// Removed containers that can still be had back: record and files are kept for a while. And prune, which empties that.
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "base/json.hpp"
#include "base/log.hpp"
#include "engine/container_service.hpp"
#include "engine/crash_point.hpp"
#include "engine/names.hpp"
#include "engine/times.hpp"

namespace wherry::engine {
namespace {

// More than these are not kept, however young they are: the oldest go first.
constexpr std::size_t most_kept = 100;

Result<> rename_path(const std::string& from, const std::string& to) {
    if (::rename(from.c_str(), to.c_str()) < 0) return fail_errno("rename " + from);
    return {};
}

}  // namespace

store::Record ContainerService::kept_record(const Container& container, WallTime removed_at) const {
    store::Record record = to_record(container);
    record.kind = removed_kind;
    json::object status;
    if (auto before = parse_json_object(record.status)) status = std::move(*before);
    status["removed"] = removed_at.time_since_epoch().count();
    record.status = to_json(status);
    return record;
}

Result<Kept> kept_from_record(const store::Record& record) {
    const ContainerPtr container = TRY(container_from_record(record));
    const json::object status = TRY(parse_json_object(record.status));
    const std::int64_t removed = TRY(JsonReader(status, "status").integer_or("removed", 0));
    return Kept{.name = container->name,
                .image_id = container->image_id,
                .image = container->config().image,
                .labels = container->config().labels,
                .diff_ids = container->diff_ids,
                .created = container->created,
                .removed_at = WallTime(Nanoseconds(removed))};
}

void ContainerService::note_kept(const Container& container) {
    core_.kept[container.id] = {.name = container.name,
                                .image_id = container.image_id,
                                .image = container.config().image,
                                .labels = container.config().labels,
                                .diff_ids = container.diff_ids,
                                .created = container.created,
                                .removed_at = wall_now(),
                                .moved = false};
    core_.kept_changed.notify_all();
}

asio::awaitable<void> ContainerService::keep_files(ContainerPtr container) {
    while (container->exit_pending && !closing_) co_await container->changed.wait();
    crash_point("remove.keep");
    const std::string id = container->id;
    std::ignore = co_await core_.pool.run([this, id]() -> Result<> {
        Result<> moved = rename_path(core_.options.data_root + "/containers/" + id, core_.kept_directory(id));
        if (!moved) log_warn("removed_container.not_kept", {{"id", id}, {"error", moved.error()}});
        return moved;
    });
    if (const auto found = core_.kept.find(id); found != core_.kept.end()) found->second.moved = true;
    core_.kept_changed.notify_all();
}

asio::awaitable<std::int64_t> ContainerService::expire(std::string id) {
    while (core_.kept.contains(id) && !core_.kept.at(id).moved && !closing_) co_await core_.kept_changed.wait();
    const auto found = core_.kept.find(id);
    if (found == core_.kept.end() || closing_) co_return 0;
    const Kept one = std::move(found->second);
    core_.kept.erase(found);
    core_.journal->post({store::Remove{.kind = std::string(removed_kind), .key = id}});
    const bool image_is_gone = !core_.images->has(one.image_id);
    auto freed =
        co_await core_.pool.run([this, id, image_is_gone, in_use = core_.layers_in_use()]() -> Result<std::int64_t> {
            // The layers' store deletes trees in its own background.
            TRY(rename_path(core_.kept_directory(id), core_.options.data_root + "/containers/" + id));
            const auto size = core_.images->layers().upper_size(id);
            TRY(core_.images->layers().remove_container(id));
            std::int64_t bytes = size ? static_cast<std::int64_t>(*size) : 0;
            if (image_is_gone) bytes += static_cast<std::int64_t>(TRY(core_.images->collect_garbage(in_use)));
            return bytes;
        });
    if (!freed) log_warn("removed_container.left", {{"id", id}, {"error", freed.error()}});
    co_return freed ? *freed : 0;
}

asio::awaitable<void> ContainerService::expire_kept() {
    while (!closing_) {
        auto oldest = core_.kept.end();
        for (auto one = core_.kept.begin(); one != core_.kept.end(); ++one) {
            if (oldest == core_.kept.end() || one->second.removed_at < oldest->second.removed_at) oldest = one;
        }
        if (oldest == core_.kept.end()) {
            co_await core_.kept_changed.wait();
            continue;
        }
        const Nanoseconds left = oldest->second.removed_at + core_.options.undelete_period - wall_now();
        if (left > Nanoseconds::zero() && core_.kept.size() <= most_kept) {
            co_await core_.kept_changed.wait(Signal::Clock::now() + left);
            continue;
        }
        co_await expire(oldest->first);
    }
}

Result<std::string> ContainerService::find_kept(const std::string& reference) const {
    std::string text = reference.starts_with('/') ? reference.substr(1) : reference;
    if (core_.kept.contains(text)) return text;
    const std::string* named = nullptr;
    for (const auto& [id, one] : core_.kept) {
        if (one.name == text && (named == nullptr || core_.kept.at(*named).removed_at < one.removed_at)) named = &id;
    }
    if (named != nullptr) return *named;
    const auto first = core_.kept.lower_bound(text);
    if (!text.empty() && first != core_.kept.end() && first->first.starts_with(text)) {
        const auto second = std::next(first);
        if (second != core_.kept.end() && second->first.starts_with(text))
            return fail(Code::invalid_argument, "Multiple IDs found with provided prefix: " + text);
        return first->first;
    }
    return fail(Code::not_found, "No such removed container: " + reference);
}

asio::awaitable<Result<std::vector<RemovedContainer>>> ContainerService::list_removed(bool with_size) {
    std::vector<RemovedContainer> result;
    for (const auto& [id, one] : core_.kept) {
        result.push_back({.id = id,
                          .name = one.name,
                          .image = one.image,
                          .created = one.created,
                          .removed_at = one.removed_at,
                          .expires_at = one.removed_at + core_.options.undelete_period,
                          .size_rw_bytes = std::nullopt});
    }
    std::ranges::sort(result, [](const RemovedContainer& a, const RemovedContainer& b) {
        return std::tie(b.removed_at, b.id) < std::tie(a.removed_at, a.id);
    });
    if (with_size) {
        for (RemovedContainer& one : result) {
            auto size =
                co_await core_.pool.run([path = core_.kept_directory(one.id) + "/upper"] { return tree_size(path); });
            one.size_rw_bytes = size ? *size : 0;
        }
    }
    co_return result;
}

asio::awaitable<Result<std::string>> ContainerService::restore(std::string reference, std::string name) {
    if (core_.gate.closing()) co_return fail(Code::unavailable, "the daemon is shutting down");
    CO_TRY(const std::string id, find_kept(reference));
    if (name.starts_with('/')) name.erase(0, 1);
    if (name.empty())
        name = core_.kept.at(id).name;
    else
        CO_CHECK(check_container_name(name));
    CO_CHECK(core_.containers.reserve_name(name, id));
    struct Reservation {
        ContainerTable* table;
        const std::string& name;
        ~Reservation() {
            if (table != nullptr) table->release_name(name);
        }
    } reservation{.table = &core_.containers, .name = name};
    while (core_.kept.contains(id) && !core_.kept.at(id).moved && !closing_) co_await core_.kept_changed.wait();
    if (!core_.kept.contains(id)) co_return fail(Code::not_found, "No such removed container: " + reference);
    Kept one = core_.kept.at(id);
    core_.kept.erase(id);  // from here on ours: it does not expire under us
    const auto give_up = [&](Error error) -> std::unexpected<Error> {
        core_.kept.emplace(id, std::move(one));
        core_.kept_changed.notify_all();
        return std::unexpected(std::move(error));
    };
    auto record = co_await core_.pool.run([this, id] { return core_.store->get(removed_kind, id); });
    if (!record) co_return give_up(std::move(record).error());
    auto parsed = container_from_record(*record);
    if (!parsed) co_return give_up(std::move(parsed).error());
    const ContainerPtr container = std::move(*parsed);
    container->name = name;
    container->wanted = false;
    container->manually_stopped = true;
    container->pid = 0;
    if (container->phase != Phase::created) container->phase = Phase::exited;
    container->endpoint.reset();
    container->ports.clear();
    if (container->sandbox_id != container->id && !sandbox_of(*container))
        co_return give_up(Error(Code::conflict, "the sandbox that the container belonged to is gone"));

    store::Transaction transaction{store::Remove{.kind = std::string(removed_kind), .key = id}};
    transaction.push_back(store::Create{to_record(*container)});
    std::vector<std::string> volumes;
    for (const MountPoint& mount : container->mounts) {
        if (mount.type != "volume") continue;
        Volume volume;
        volume.name = mount.name;
        volume.created = wall_now();
        volume.anonymous =
            std::ranges::find(container->anonymous_volumes, mount.name) != container->anonymous_volumes.end();
        if (auto made = co_await volumes_.ensure(volume); !made) co_return give_up(std::move(made).error());
        volumes.push_back(mount.name);
    }
    volumes_.take_unwritten(volumes, transaction);
    const std::string home = paths(*container).directory;
    const std::string away = core_.kept_directory(id);
    Result<> done = co_await core_.pool.run([away, home] { return rename_path(away, home); });
    crash_point("undelete.moved");
    if (done) {
        if (auto written = co_await core_.journal->commit(std::move(transaction)); !written) {
            done = std::unexpected(std::move(written).error());
            std::ignore = co_await core_.pool.run([away, home] { return rename_path(home, away); });
        }
    }
    crash_point("undelete.written");
    if (!done) co_return give_up(std::move(done).error());
    core_.containers.add(container);
    reservation.table = nullptr;
    core_.publish(*container, "undelete");
    co_return id;
}

asio::awaitable<Result<>> ContainerService::reconcile_kept() {
    std::set<std::string> known;
    for (const auto& [id, one] : core_.kept) known.insert(id);
    std::set<std::string> containers;
    for (const ContainerPtr& container : core_.containers.all()) containers.insert(container->id);
    CO_TRY(const std::set<std::string> lost, co_await core_.pool.run([this, known,
                                                                      containers]() -> Result<std::set<std::string>> {
        const std::string homes = core_.options.data_root + "/containers/";
        std::set<std::string> missing;
        for (const std::string& id : known) {
            // Killed between the record and the move.
            if (!path_exists(core_.kept_directory(id)) &&
                (!path_exists(homes + id) || !rename_path(homes + id, core_.kept_directory(id))))
                missing.insert(id);
        }
        std::error_code ignored;
        for (const auto& entry : std::filesystem::directory_iterator(core_.options.data_root + "/removed", ignored)) {
            const std::string id = entry.path().filename().string();
            if (known.contains(id)) continue;
            // It came back, or its time was over, and the daemon was killed before its files followed.
            std::ignore = rename_path(entry.path().string(), homes + id);
            if (!containers.contains(id)) std::ignore = core_.images->layers().remove_container(id);
        }
        return missing;
    }));
    for (const std::string& id : lost) {
        core_.kept.erase(id);
        core_.journal->post({store::Remove{.kind = std::string(removed_kind), .key = id}});
    }
    co_return Result<>{};
}

asio::awaitable<PruneResult> ContainerService::prune_kept(const Filters& filters, std::optional<WallTime> until) {
    PruneResult result;
    std::vector<std::string> ids;
    for (const auto& [id, one] : core_.kept) {
        if (until && one.created > *until) continue;
        if (matches_label_filters(one.labels, filters)) ids.push_back(id);
    }
    for (const std::string& id : ids) {
        result.space_reclaimed_bytes += co_await expire(id);
        result.deleted.push_back(id);
    }
    co_return result;
}

asio::awaitable<Result<PruneResult>> ContainerService::prune(Filters filters) {
    CO_CHECK(check_filters(filters, {"label", "label!", "until"}));
    std::optional<WallTime> until;
    if (const auto found = filters.find("until"); found != filters.end() && !found->second.empty()) {
        CO_TRY(until, parse_until(found->second.front()));
    }
    PruneResult result;
    for (const ContainerPtr& container : core_.containers.all()) {
        if (container->is_alive() || (until && container->created > *until)) continue;
        if (!matches_label_filters(container->config().labels, filters)) continue;
        auto size =
            co_await core_.pool.run([this, id = container->id] { return core_.images->layers().upper_size(id); });
        if (!co_await remove(container->id, {.discard = true})) continue;
        result.deleted.push_back(container->id);
        if (size) result.space_reclaimed_bytes += static_cast<std::int64_t>(*size);
    }
    const PruneResult emptied = co_await prune_kept(filters, until);
    result.space_reclaimed_bytes += emptied.space_reclaimed_bytes;
    core_.publish("container", "prune", "", {{"reclaimed", std::to_string(result.space_reclaimed_bytes)}});
    co_return result;
}

}  // namespace wherry::engine
