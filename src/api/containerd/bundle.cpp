#include "api/containerd/bundle.hpp"

#include <poll.h>

#include <algorithm>
#include <csignal>

#include "api/containerd/rootfs.hpp"
#include "base/fd.hpp"
#include "base/log.hpp"
#include "confine/cgroup.hpp"
#include "oci/container.hpp"
#include "oci/intel_rdt.hpp"

namespace wherry::api::containerd {

namespace {

constexpr std::size_t state_limit = 4U << 20U;
constexpr int kill_timeout_ms = 5'000;

std::string path_in(const std::string& bundle, std::string_view name) {
    return bundle + "/" + std::string(name);
}

void end_container(const BundleState& state) {
    auto container = oci::Container::restore(state.container);
    if (!container) return;  // it has ended
    if (auto killed = container->signal(SIGKILL); !killed) log_warn("delete.kill_failed", {{"error", killed.error()}});
    // Frozen processes die when they are thawed; removing the cgroup sees to that.
    if (auto system = confine::CgroupSystem::of_this_host(); system && !state.cgroup_path.empty()) {
        if (auto cgroup = confine::Cgroup::open(**system, state.cgroup_path)) {
            static_cast<void>(cgroup->kill_all());
            static_cast<void>(cgroup->thaw());
        }
    }
    // Not our child: its end shows in the pidfd.
    pollfd watched{container->pidfd(), POLLIN, 0};
    ::poll(&watched, 1, kill_timeout_ms);
}

}  // namespace

Result<> check_id(const std::string& id) {
    constexpr std::size_t longest = 128;
    auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
    bool good = !id.empty() && id.size() <= longest && plain(id.front()) &&
                std::ranges::all_of(id, [&](char c) { return plain(c) || c == '_' || c == '.' || c == '-'; });
    if (!good) return fail(Code::invalid_argument, "not an identifier");
    return {};
}

Result<> check_absolute(const std::string& path, std::string_view what) {
    if (path.empty() || path.front() != '/' || path.find('\0') != std::string::npos)
        return fail(Code::invalid_argument, std::string(what) + ": expected an absolute path");
    return {};
}

Result<> save_bundle_state(const std::string& bundle, const BundleState& state) {
    json::object object;
    object["container"] = state.container;
    object["cgroup"] = state.cgroup_path;
    object["rootfsMounted"] = state.rootfs_mounted;
    return write_file_atomic(path_in(bundle, bundle_state_name), to_json(object), 0600, Durability::none);
}

Result<BundleState> load_bundle_state(const std::string& bundle) {
    std::string text = TRY(read_file(path_in(bundle, bundle_state_name), state_limit));
    json::object object = TRY(parse_json_object(text), "state of the bundle");
    JsonReader reader(object, "state");
    BundleState state;
    if (auto container = TRY(reader.child("container"))) state.container = container->object();
    state.cgroup_path = TRY(reader.string_or("cgroup", ""));
    state.rootfs_mounted = TRY(reader.boolean_or("rootfsMounted", false));
    return state;
}

Result<CleanedUp> clean_up_bundle(const std::string& bundle) {
    CleanedUp result;
    result.status.signal = SIGKILL;
    result.status.code = 128 + SIGKILL;
    auto state = load_bundle_state(bundle);
    if (state) {
        end_container(*state);
        JsonReader reader(state->container, "container");
        result.pid = static_cast<pid_t>(TRY(reader.integer_or("pid", 0)));
        if (!state->cgroup_path.empty()) {
            const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
            if (auto removed = confine::remove_cgroup_by_path(*system, state->cgroup_path); !removed)
                log_warn("delete.cgroup_left", {{"error", removed.error()}});
        }
        if (auto removed = oci::remove_intel_rdt(state->container); !removed)
            log_warn("delete.resctrl_left", {{"error", removed.error()}});
        if (auto hooks = oci::run_poststop_hooks(state->container); !hooks)
            log_warn("delete.poststop_failed", {{"error", hooks.error()}});
    } else if (state.error().code() != Code::not_found) {
        log_warn("delete.state_unreadable", {{"error", state.error()}});
    }
    if (auto record = supervisor::read_exit_record(path_in(bundle, exit_record_name))) {
        result.pid = record->pid;
        result.status = record->status;
    } else {
        result.status.finished_at = wall_now();
    }
    // Also without a state: the shim may have died between the mount and its note.
    TRY(unmount_all(bundle + "/rootfs"));
    return result;
}

}  // namespace wherry::api::containerd
