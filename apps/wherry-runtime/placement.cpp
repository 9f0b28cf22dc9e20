#include "placement.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/log.hpp"
#include "confine/systemd.hpp"
#include "context.hpp"

namespace wherry::runtime {

namespace {

std::string cgroup_path(const oci::Spec& spec, const std::string& id) {
    const std::string& path = spec.linux_spec.cgroups_path;
    if (path.empty()) return "/wherry-runtime/" + id;
    return path.front() == '/' ? path : "/" + path;
}

bool may_not(const Error& error) {
    return error.os_errno() == EACCES || error.os_errno() == EPERM || error.os_errno() == EROFS;
}

// Limits that somebody meant: device rules come with every configuration, and rootless containers reach no devices.
bool asks_for_limits(confine::CgroupResources resources) {
    resources.devices.clear();
    return resources != confine::CgroupResources{};
}

Result<> set_limits(confine::Cgroup& cgroup, confine::CgroupResources resources, bool rootless) {
    std::vector<std::string> warnings;
    if (rootless) resources.devices.clear();
    confine::supply_default_devices(resources.devices);
    TRY(cgroup.apply(resources, &warnings), "linux.resources");
    for (const std::string& warning : warnings) log_warn("cgroup.limit_without_effect", {{"detail", warning}});
    return {};
}

confine::ScopeLimits scope_limits(const confine::CgroupResources& resources) {
    confine::ScopeLimits limits;
    auto unlimited = [](std::int64_t value) {
        return value < 0 ? ~std::uint64_t{0} : static_cast<std::uint64_t>(value);
    };
    if (resources.memory.limit && *resources.memory.limit != 0) limits.memory_max = unlimited(*resources.memory.limit);
    if (resources.memory.reservation && *resources.memory.reservation > 0)
        limits.memory_low = static_cast<std::uint64_t>(*resources.memory.reservation);
    if (resources.pids_limit)
        limits.tasks_max = *resources.pids_limit <= 0 ? ~std::uint64_t{0} : unlimited(*resources.pids_limit);
    if (resources.cpu.shares && *resources.cpu.shares != 0) limits.cpu_shares = resources.cpu.shares;
    if (resources.cpu.quota_us && *resources.cpu.quota_us != 0) {
        std::uint64_t period = resources.cpu.period_us.value_or(100'000);
        constexpr std::uint64_t us_per_second = 1'000'000;
        limits.cpu_quota_us_per_s = *resources.cpu.quota_us < 0 || period == 0
                                        ? ~std::uint64_t{0}
                                        : static_cast<std::uint64_t>(*resources.cpu.quota_us) * us_per_second / period;
    }
    return limits;
}

}  // namespace

Placement::~Placement() {
    settle();
}

void Placement::settle() {
    if (!placeholder_) return;
    placeholder_.reset();
    while (::waitpid(placeholder_pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
}

Result<Placement> Placement::make(const CommandLine& line, const oci::Spec& spec, const std::string& id) {
    Placement placement;
    TRY(line.global.has("systemd-cgroup") ? placement.by_systemd(line, spec, id) : placement.by_hand(line, spec, id));
    return placement;
}

Result<Placement> Placement::begin(const CommandLine& line, const oci::Spec& spec, const std::string& id) {
    if (line.global.has("systemd-cgroup") || is_rootless(line) || spec.linux_spec.find_namespace("user") != nullptr)
        return make(line, spec, id);
    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    auto begun = confine::Cgroup::begin(*system, cgroup_path(spec, id));
    if (!begun) return make(line, spec, id);  // which knows what to do about it, or says what is wrong
    Placement placement;
    placement.cgroup_ = std::move(*begun);
    placement.own_ = placement.unfinished_ = true;
    return placement;
}

Result<> Placement::finish(const oci::Spec& spec) {
    unfinished_ = false;
    TRY(cgroup_->complete(), "cgroup");
    return set_limits(*cgroup_, spec.linux_spec.resources, false);
}

Result<> Placement::by_hand(const CommandLine& line, const oci::Spec& spec, const std::string& id) {
    bool rootless = is_rootless(line);
    std::string path = cgroup_path(spec, id);
    auto system = confine::CgroupSystem::of_this_host();
    if (!system) {
        if (rootless && !asks_for_limits(spec.linux_spec.resources)) return {};
        return std::unexpected<Error>(std::move(system).error());
    }
    auto created = confine::Cgroup::create(**system, path);
    own_ = created.has_value();
    if (!created && created.error().code() == Code::already_exists) {
        created = confine::Cgroup::open(**system, path);
        if (created) {
            // An empty one was made for us by whoever chose the name; one with processes is shared, and stays.
            auto used = created->populated();
            own_ = used && !*used;
        }
    }
    if (!created && rootless && may_not(created.error())) {
        if (!asks_for_limits(spec.linux_spec.resources)) return {};
        return std::unexpected<Error>(std::move(created).error().context(
            "no cgroup was delegated to this user, so linux.resources has no place"));
    }
    if (!created) return std::unexpected<Error>(std::move(created).error().context("cgroup"));
    cgroup_ = std::move(*created);
    if (auto limited = set_limits(*cgroup_, spec.linux_spec.resources, rootless); !limited) {
        remove();
        return limited;
    }
    return {};
}

Result<> Placement::by_systemd(const CommandLine& line, const oci::Spec& spec, const std::string& id) {
    bool rootless = is_rootless(line);
    user_manager_ = ::geteuid() != 0;
    confine::ScopeRequest request =
        TRY(confine::parse_systemd_cgroups_path(spec.linux_spec.cgroups_path, id, user_manager_));
    request.description = "wherry container " + id;
    request.limits = scope_limits(spec.linux_spec.resources);
    // systemd makes no empty scope: a process waits in it until the container's first one is there.
    Pipe pipe = TRY(make_pipe());
    pid_t child = ::fork();
    if (child < 0) return fail_errno("fork");
    if (child == 0) {
        // SAFETY: after fork: async-signal-safe calls only.
        ::close(pipe.write.get());
        char byte = 0;
        while (::read(pipe.read.get(), &byte, 1) < 0 && errno == EINTR) {
        }
        ::_exit(0);
    }
    placeholder_ = std::move(pipe.write);
    placeholder_pid_ = child;
    request.pid = child;
    confine::SystemdBus bus = TRY(confine::SystemdBus::connect(user_manager_), "systemd");
    TRY(bus.start_scope(request), "systemd scope " + request.unit);
    unit_ = request.unit;
    auto done = [&]() -> Result<> {
        // Where the scope is only systemd knows (its user managers live in cgroups of their own).
        std::string text = TRY(read_file("/proc/" + std::to_string(child) + "/cgroup"));
        std::string path = TRY(confine::systemd_cgroup_of(text));
        const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
        cgroup_ = TRY(confine::Cgroup::adopt(*system, path));
        own_ = true;
        return set_limits(*cgroup_, spec.linux_spec.resources, rootless);
    }();
    if (!done) remove();
    return done;
}

void Placement::save(json::object& state) const {
    state["cgroup"] = cgroup_ ? cgroup_->path() : std::string();
    state["ownCgroup"] = own_;
    state["systemdUnit"] = unit_;
    state["systemdUser"] = user_manager_;
}

void Placement::remove() {
    json::object state;
    save(state);
    settle();
    if (auto removed = remove_placement(state); !removed) log_warn("cgroup.not_removed", {{"error", removed.error()}});
}

Result<> remove_placement(const json::object& state) {
    JsonReader reader(state, "state");
    std::string path = TRY(reader.string_or("cgroup", ""));
    if (!path.empty() && TRY(reader.boolean_or("ownCgroup", false))) {
        const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
        TRY(confine::remove_cgroup_by_path(*system, path));
    }
    std::string unit = TRY(reader.string_or("systemdUnit", ""));
    if (unit.empty()) return {};
    confine::SystemdBus bus =
        TRY(confine::SystemdBus::connect(TRY(reader.boolean_or("systemdUser", false))), "systemd");
    return bus.stop_unit(unit);
}

Result<> update_placement(const json::object& state, const confine::CgroupResources& resources) {
    JsonReader reader(state, "state");
    std::string path = TRY(reader.string_or("cgroup", ""));
    if (path.empty()) return fail(Code::conflict, "the container has no cgroup");
    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    confine::Cgroup cgroup = TRY(confine::Cgroup::open(*system, path));
    std::vector<std::string> warnings;
    TRY(cgroup.apply(resources, &warnings));
    for (const std::string& warning : warnings) log_warn("cgroup.limit_without_effect", {{"detail", warning}});
    std::string unit = TRY(reader.string_or("systemdUnit", ""));
    if (unit.empty()) return {};
    confine::SystemdBus bus =
        TRY(confine::SystemdBus::connect(TRY(reader.boolean_or("systemdUser", false))), "systemd");
    return bus.set_limits(unit, scope_limits(resources));
}

}  // namespace wherry::runtime
