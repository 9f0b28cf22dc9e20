#include "supervisor/container.hpp"

#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include "base/log.hpp"
#include "confine/cgroup_resources.hpp"
#include "confine/seccomp.hpp"
#include "oci/intel_rdt.hpp"
#include "oci/spec.hpp"

namespace wherry::supervisor {

namespace {

// Ended execs that nobody asked to forget; the oldest go first beyond this.
constexpr std::size_t max_ended_execs = 32;
constexpr std::size_t max_execs = 4096;

std::array<int, 3> numbers_of(const ChildStdio& stdio) {
    return {stdio.stdin_read ? stdio.stdin_read.get() : -1, stdio.stdout_write ? stdio.stdout_write.get() : -1,
            stdio.stderr_write ? stdio.stderr_write.get() : -1};
}

std::vector<BlockIo> block_io_of(std::vector<confine::BlockIoEntry>& entries) {
    std::vector<BlockIo> items;
    items.reserve(entries.size());
    for (confine::BlockIoEntry& entry : entries)
        items.push_back({entry.major, entry.minor, std::move(entry.operation), entry.value});
    return items;
}

// An empty one that is there already was left by a supervisor that died.
Result<confine::Cgroup> create_cgroup(const confine::CgroupSystem& system, const std::string& path) {
    auto created = confine::Cgroup::create(system, path);
    if (created || created.error().code() != Code::already_exists) return created;
    auto left = confine::Cgroup::open(system, path);
    if (!left || TRY(left->populated())) return created;
    TRY(left->remove());
    return confine::Cgroup::create(system, path);
}

Result<> send_signal(int pidfd, int signal) {
    if (::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) < 0) {
        if (errno == ESRCH) return fail(Code::conflict, "the process has ended", ESRCH);
        return fail_errno("send signal");
    }
    return {};
}

}  // namespace

SupervisedContainer::SupervisedContainer(Surroundings& surroundings, CreateRequest&& request)
    : surroundings_(surroundings),
      id_(std::move(request.container_id)),
      exit_record_path_(std::move(request.exit_record_path)),
      seccomp_path_(std::move(request.seccomp_path)),
      created_at_(wall_now()),
      begin_ns_(monotonic_ns()) {}

Result<std::unique_ptr<SupervisedContainer>> SupervisedContainer::create(Surroundings& surroundings,
                                                                         CreateRequest request,
                                                                         const SandboxNamespaces& namespaces) {
    std::unique_ptr<SupervisedContainer> container(new SupervisedContainer(surroundings, std::move(request)));
    TRY(container->set_up(request, namespaces));
    return container;
}

Result<std::unique_ptr<SupervisedContainer>> SupervisedContainer::create_empty(Surroundings& surroundings,
                                                                               CreateRequest request) {
    std::unique_ptr<SupervisedContainer> container(new SupervisedContainer(surroundings, std::move(request)));
    TRY(container->set_up_empty(request));
    return container;
}

SupervisedContainer::~SupervisedContainer() {
    if (container_ && !(first_ && first_->reaped)) {
        if (cgroup_ && paused_) static_cast<void>(cgroup_->thaw());
        static_cast<void>(container_->signal(SIGKILL));
        // The kill takes the pid namespace along; reaped here, because nobody is left who knows the pid.
        int wait_status = 0;
        while (::waitpid(container_->pid(), &wait_status, 0) < 0 && errno == EINTR) {
        }
    }
    remove_cgroup();
    if (container_) oci::drop_intel_rdt(container_->intel_rdt());
    for (auto& [id, exec] : execs_) {
        if (!exec.process->exit()) exec.process->output().close_sources();
    }
    if (first_) first_->output().close_sources();
}

Result<> SupervisedContainer::set_up(CreateRequest& request, const SandboxNamespaces& namespaces) {
    oci::CreateRequest create;
    create.spec = TRY(oci::spec_from_json(request.spec));
    request.spec = {};
    create.id = id_;
    create.bundle = std::move(request.bundle);
    create.init = request.init;
    create.no_pivot = request.no_pivot;
    create.new_session_keyring = !request.keep_session_keyring;
    if (!seccomp_path_.empty()) create.seccomp = TRY(confine::load_seccomp_program(seccomp_path_), "seccomp filter");
    if (!request.root.lower_directories.empty()) {
        oci::OverlayRoot overlay;
        overlay.lower = std::move(request.root.lower_directories);
        overlay.upper = std::move(request.root.upper_directory);
        overlay.work = std::move(request.root.work_directory);
        overlay.options = std::move(request.root.options);
        if (request.root.volatile_writes) overlay.options.emplace_back("volatile");
        create.overlay = std::move(overlay);
    }
    namespaces.give(create);
    has_poststop_hooks_ = !create.spec.hooks.poststop.empty();
    bool terminal = create.spec.process && create.spec.process->terminal;
    if (terminal && create.spec.process->console_size) {
        create.rows = create.spec.process->console_size->height;
        create.columns = create.spec.process->console_size->width;
    }
    auto mark = [this](std::string phase) { timings_.push_back({std::move(phase), monotonic_ns() - begin_ns_}); };
    mark("request");

    TRY(set_up_cgroup(create.spec));
    create.cgroup = &*cgroup_;
    mark("limits");

    TRY(set_up_streams(request, terminal));
    ChildStdio stdio;
    if (!terminal) stdio = TRY(first_->make_pipes());
    create.stdio = numbers_of(stdio);
    container_ = TRY(oci::Container::create(create));
    if (terminal) TRY(first_->adopt_terminal(container_->take_terminal()));
    process_made();
    return {};
}

Result<> SupervisedContainer::set_up_empty(CreateRequest& request) {
    oci::Spec spec = TRY(oci::spec_from_json(request.spec));
    request.spec = {};
    if (spec.process && spec.process->terminal)
        return fail(Code::unimplemented, "restore: a container with a terminal cannot be restored");
    has_poststop_hooks_ = !spec.hooks.poststop.empty();
    TRY(set_up_cgroup(spec));
    TRY(set_up_streams(request, false));
    waiting_stdio_ = TRY(first_->make_pipes());
    return {};
}

Result<> SupervisedContainer::set_up_cgroup(oci::Spec& spec) {
    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    const std::string& wanted_path = spec.linux_spec.cgroups_path;
    cgroup_path_ = wanted_path.empty() ? "/wherry/" + id_ : wanted_path;
    cgroup_ = TRY(create_cgroup(*system, cgroup_path_), "cgroup");
    confine::supply_default_devices(spec.linux_spec.resources.devices);
    TRY(cgroup_->apply(spec.linux_spec.resources), "cgroup");
    return {};
}

Result<> SupervisedContainer::set_up_streams(CreateRequest& request, bool terminal) {
    std::unique_ptr<LogWriter> log;
    if (request.log.driver != LogDriver::none) log = TRY(LogWriter::open(request.log));
    auto output = std::make_shared<OutputHub>(surroundings_.loop, surroundings_.scratch, std::move(log),
                                              OutputHub::WithoutClients::discard);
    first_ = std::make_unique<SupervisedProcess>(surroundings_.loop, std::move(output), request.stdin_open,
                                                 request.stdin_once, terminal);
    return {};
}

void SupervisedContainer::process_made() {
    first_->pid = container_->pid();
    if (auto ticks = oci::process_start_time(first_->pid)) first_->start_ticks = *ticks;
}

std::array<int, 3> SupervisedContainer::waiting_stdio() const {
    return numbers_of(waiting_stdio_);
}

Result<> SupervisedContainer::adopt(oci::Container container) {
    if (container_) return fail(Code::conflict, "the container has a process");
    container_ = std::move(container);
    waiting_stdio_ = {};
    process_made();
    first_->started_at = wall_now();
    started_ = true;
    surroundings_.loop.defer([this, alive = std::weak_ptr(alive_)] {
        if (alive.lock() && !first_->reaped) watch_oom();
    });
    return {};
}

void SupervisedContainer::kill_strays() {
    if (container_ || !cgroup_) return;
    if (auto killed = cgroup_->kill_all(); !killed)
        log_warn("container.kill_failed", {{"id", id_}, {"error", killed.error()}});
}

Result<> SupervisedContainer::start() {
    if (!container_) return fail(Code::conflict, "the container has no process yet");
    if (first_->reaped) return fail(Code::conflict, "the container has ended");
    if (started_) return fail(Code::conflict, "the container is running");
    first_->started_at = wall_now();
    if (auto started = container_->start(); !started) {
        // The process has ended, and the runtime has reaped it.
        first_->reaped = true;
        first_->started_at = {};
        first_->close_streams();
        first_->output().close_sources();
        ExitStatus status;
        status.code = oci::failure_exit_code(started.error());
        status.finished_at = wall_now();
        first_->announce_exit(status);
        remove_cgroup();
        return started;
    }
    started_ = true;
    for (const auto& phase : container_->timeline().phases())
        timings_.push_back({std::string(phase.name), phase.at_ns - begin_ns_});
    // Nothing that the start must wait for.
    surroundings_.loop.defer([this, alive = std::weak_ptr(alive_)] {
        if (alive.lock() && !first_->reaped) watch_oom();
    });
    return {};
}

void SupervisedContainer::watch_oom() {
    if (!cgroup_) return;
    auto oom = cgroup_->watch_oom();
    if (!oom) return;  // no memory controller here
    auto events = surroundings_.loop.watch(oom->fd(), oom->events(), [this](std::uint32_t) {
        auto kills = oom_watch_->read();
        if (kills && *kills > oom_kills_) {
            report_oom(*kills);
        } else {
            recheck_oom(std::chrono::milliseconds(5));
        }
    });
    if (!events) return;
    oom_watch_ = std::move(*oom);
    oom_events_ = std::move(*events);
    // What happened before the watch.
    if (auto kills = cgroup_->oom_kills()) report_oom(*kills);
}

// v1 tells of the shortage before the kill is counted: looks again, more and more rarely.
void SupervisedContainer::recheck_oom(std::chrono::milliseconds delay) {
    surroundings_.loop.schedule(oom_recheck_, delay, [this, delay] {
        if (!cgroup_) return;
        auto kills = cgroup_->oom_kills();
        if (kills && *kills > oom_kills_) {
            report_oom(*kills);
        } else if (delay < std::chrono::seconds(2)) {
            recheck_oom(delay * 3);
        }
    });
}

void SupervisedContainer::report_oom(std::uint64_t kills) {
    if (kills <= oom_kills_) return;
    oom_kills_ = kills;
    surroundings_.observer.on_oom({id_, oom_kills_});
}

Result<ExecState> SupervisedContainer::exec(ExecRequest request) {
    if (!started_ || first_->reaped) return fail(Code::conflict, "the container is not running");
    if (paused_) return fail(Code::conflict, "the container is paused");
    if (execs_.contains(request.exec_id)) return fail(Code::already_exists, "exec " + request.exec_id + " exists");
    forget_old_execs();
    if (execs_.size() >= max_execs) return fail(Code::resource_exhausted, "too many execs in the container");
    oci::ExecRequest exec;
    exec.process = TRY(oci::process_from_json(request.process));
    if (!request.privileged && !seccomp_path_.empty())
        exec.seccomp = TRY(confine::load_seccomp_program(seccomp_path_), "seccomp filter");
    exec.cgroup = &*cgroup_;
    bool terminal = exec.process.terminal;
    if (terminal && exec.process.console_size) {
        exec.rows = exec.process.console_size->height;
        exec.columns = exec.process.console_size->width;
    }
    auto policy = request.discard_output ? OutputHub::WithoutClients::discard : OutputHub::WithoutClients::hold;
    auto output = std::make_shared<OutputHub>(surroundings_.loop, surroundings_.scratch, nullptr, policy);
    auto process =
        std::make_unique<SupervisedProcess>(surroundings_.loop, std::move(output), request.stdin_open, true, terminal);
    ChildStdio stdio;
    if (!terminal) stdio = TRY(process->make_pipes());
    exec.stdio = numbers_of(stdio);
    process->started_at = wall_now();
    oci::ExecProcess running = TRY(container_->exec(std::move(exec)));
    Exec entry;
    entry.order = next_exec_order_++;
    process->pid = running.pid;
    if (auto ticks = oci::process_start_time(running.pid)) process->start_ticks = *ticks;
    Result<> adopted{};
    if (terminal) adopted = process->adopt_terminal(std::move(running.terminal));
    entry.process = std::move(process);
    entry.pidfd = std::move(running.pidfd);
    auto [place, inserted] = execs_.emplace(request.exec_id, std::move(entry));
    if (!adopted) {
        static_cast<void>(send_signal(place->second.pidfd.get(), SIGKILL));
        return std::unexpected(std::move(adopted).error());
    }
    return exec_state(place->first, place->second);
}

void SupervisedContainer::forget_old_execs() {
    std::vector<std::pair<std::uint64_t, std::string>> ended;
    for (const auto& [id, exec] : execs_) {
        if (exec.process->exit()) ended.emplace_back(exec.order, id);
    }
    if (ended.size() < max_ended_execs) return;
    std::ranges::sort(ended);
    for (std::size_t i = 0; i + max_ended_execs / 2 < ended.size(); ++i) execs_.erase(ended[i].second);
}

Result<> SupervisedContainer::kill(const KillRequest& request) {
    int signal = static_cast<int>(request.signal);
    if (!request.exec_id.empty()) {
        auto found = execs_.find(request.exec_id);
        if (found == execs_.end()) return fail(Code::not_found, "no such exec: " + request.exec_id);
        if (found->second.process->reaped) return fail(Code::conflict, "the process has ended", ESRCH);
        return send_signal(found->second.pidfd.get(), signal);
    }
    if (first_->reaped) return fail(Code::conflict, "the container has ended", ESRCH);
    if (!container_) return fail(Code::conflict, "the container has no process yet");
    if (request.all) {
        TRY(signal == SIGKILL ? cgroup_->kill_all() : cgroup_->signal_all(signal));
    } else {
        TRY(container_->signal(signal));
    }
    // A frozen process can't act on it; one that is to die should.
    if (paused_ && signal == SIGKILL) return resume();
    return {};
}

Result<> SupervisedContainer::pause() {
    if (!started_ || first_->reaped) return fail(Code::conflict, "the container is not running");
    if (paused_) return fail(Code::conflict, "the container is paused");
    TRY(cgroup_->freeze());
    paused_ = true;
    return {};
}

Result<> SupervisedContainer::resume() {
    if (!paused_) return fail(Code::conflict, "the container is not paused");
    TRY(cgroup_->thaw());
    paused_ = false;
    return {};
}

Result<confine::CgroupStatistics> SupervisedContainer::cgroup_statistics() const {
    if (!cgroup_) return fail(Code::conflict, "the container has ended");
    return cgroup_->statistics();
}

Result<std::vector<pid_t>> SupervisedContainer::pids() const {
    if (!cgroup_) return fail(Code::conflict, "the container has ended");
    return cgroup_->pids();
}

Result<Stats> SupervisedContainer::stats() {
    confine::CgroupStatistics raw = TRY(cgroup_statistics());
    Stats stats;
    stats.read_at = wall_now();
    stats.cpu_total_ns = raw.cpu.usage_ns;
    stats.cpu_user_ns = raw.cpu.user_ns;
    stats.cpu_system_ns = raw.cpu.system_ns;
    stats.cpu_periods = raw.cpu.periods;
    stats.cpu_throttled_periods = raw.cpu.throttled_periods;
    stats.cpu_throttled_ns = raw.cpu.throttled_ns;
    stats.memory_usage_bytes = raw.memory.usage;
    stats.memory_max_usage_bytes = raw.memory.max_usage;
    stats.memory_limit_bytes = raw.memory.limit;
    struct sysinfo host{};
    if (::sysinfo(&host) == 0)
        stats.memory_limit_bytes =
            std::min<std::uint64_t>(stats.memory_limit_bytes, std::uint64_t{host.totalram} * host.mem_unit);
    stats.memory_failures = raw.memory.fail_count;
    stats.memory_stat = std::move(raw.memory.raw);
    stats.pids_current = raw.pids_current;
    stats.pids_limit = raw.pids_limit;
    stats.oom_kills = raw.memory.oom_kills;
    stats.io_service_bytes = block_io_of(raw.io_bytes);
    stats.io_serviced = block_io_of(raw.io_operations);
    return stats;
}

Result<> SupervisedContainer::update(const UpdateRequest& request) {
    if (!cgroup_) return fail(Code::conflict, "the container has ended");
    return cgroup_->apply(TRY(confine::parse_cgroup_resources(JsonReader(request.resources, "resources"))));
}

Result<> SupervisedContainer::remove_exec(const std::string& exec_id) {
    auto found = execs_.find(exec_id);
    if (found == execs_.end()) return fail(Code::not_found, "no such exec: " + exec_id);
    if (!found->second.process->exit()) return fail(Code::conflict, "the exec is running");
    execs_.erase(found);
    return {};
}

Result<SupervisedProcess*> SupervisedContainer::process(const std::string& exec_id) {
    if (exec_id.empty()) return first_.get();
    auto found = execs_.find(exec_id);
    if (found == execs_.end()) return fail(Code::not_found, "no such exec: " + exec_id);
    return found->second.process.get();
}

Status SupervisedContainer::status() const {
    if (first_->exit()) return Status::stopped;
    if (!started_) return Status::created;
    return paused_ ? Status::paused : Status::running;
}

bool SupervisedContainer::has_running_execs() const {
    return std::ranges::any_of(execs_, [](const auto& entry) { return !entry.second.process->reaped; });
}

ExecState SupervisedContainer::exec_state(const std::string& exec_id, const Exec& exec) const {
    ExecState state;
    state.exec_id = exec_id;
    state.pid = exec.process->pid;
    state.start_ticks = exec.process->start_ticks;
    state.running = !exec.process->exit();
    state.terminal = exec.process->terminal();
    state.started_at = exec.process->started_at;
    state.exit = exec.process->exit();
    state.stdout_bytes = exec.process->output().totals()[0];
    state.stderr_bytes = exec.process->output().totals()[1];
    return state;
}

ContainerState SupervisedContainer::state() const {
    ContainerState state;
    state.container_id = id_;
    state.status = status();
    state.pid = first_->pid;
    state.start_ticks = first_->start_ticks;
    state.terminal = first_->terminal();
    state.stdin_open = first_->stdin_open();
    state.created_at = created_at_;
    state.started_at = first_->started_at;
    state.exit = first_->exit();
    state.stdout_bytes = first_->output().totals()[0];
    state.stderr_bytes = first_->output().totals()[1];
    state.oom_kills = oom_kills_;
    for (const auto& [id, exec] : execs_) state.execs.push_back(exec_state(id, exec));
    state.timings = timings_;
    return state;
}

bool SupervisedContainer::child_ended(pid_t pid, int wait_status) {
    if (pid == first_->pid && !first_->reaped) {
        first_process_ended(wait_status);
        return true;
    }
    for (auto& [id, exec] : execs_) {
        if (exec.process->pid == pid && !exec.process->reaped) {
            exec_ended(id, wait_status);
            return true;
        }
    }
    return first_->output().log() != nullptr && first_->output().log()->child_ended(pid, wait_status);
}

void SupervisedContainer::first_process_ended(int wait_status) {
    first_->reaped = true;
    ExitStatus status = exit_status_from_wait(wait_status, wall_now());
    if (cgroup_) {
        if (paused_) static_cast<void>(resume());
        if (auto kills = cgroup_->oom_kills()) {
            oom_kills_ = std::max(oom_kills_, *kills);
            status.oom_killed = oom_kills_ > 0;
        }
        // Without a pid namespace of its own the container's other processes are still there.
        if (auto killed = cgroup_->kill_all(); !killed)
            log_warn("container.kill_failed", {{"id", id_}, {"error", killed.error()}});
    }
    first_->close_streams();
    first_->output().drain([this, status, alive = std::weak_ptr(alive_)] {
        if (alive.lock()) finish_first(status);
    });
}

void SupervisedContainer::finish_first(ExitStatus status) {
    if (started_ && !exit_record_path_.empty()) {
        ExitRecord record{id_, first_->pid, first_->started_at, status};
        // Not synced to the disk: that takes as long as the whole start did (docs/decisions). It survives every
        // process.
        auto written = write_file_atomic(exit_record_path_, to_json(to_json_object(record)), 0600, Durability::none);
        if (!written) log_error("container.exit_record_failed", {{"id", id_}, {"error", written.error()}});
    }
    first_->announce_exit(status);
    surroundings_.observer.on_exit({id_, {}, status});
    remove_cgroup();
}

void SupervisedContainer::exec_ended(const std::string& exec_id, int wait_status) {
    Exec& exec = execs_.at(exec_id);
    SupervisedProcess& process = *exec.process;
    process.reaped = true;
    exec.pidfd.reset();
    ExitStatus status = exit_status_from_wait(wait_status, wall_now());
    process.close_streams();
    process.output().drain([this, exec_id, status, alive = std::weak_ptr(alive_)] {
        if (!alive.lock()) return;
        auto found = execs_.find(exec_id);
        if (found == execs_.end()) return;
        found->second.process->announce_exit(status);
        surroundings_.observer.on_exit({id_, exec_id, status});
    });
}

void SupervisedContainer::remove_cgroup() {
    oom_recheck_.reset();
    oom_events_.reset();
    oom_watch_.reset();
    if (!cgroup_) return;
    static_cast<void>(cgroup_->kill_all());
    if (auto removed = cgroup_->remove(); !removed)
        log_warn("cgroup.remove_failed", {{"id", id_}, {"error", removed.error()}});
    cgroup_.reset();
}

void SupervisedContainer::prepare_removal() {
    if (!container_ || !has_poststop_hooks_) return;
    if (auto hooks = oci::run_poststop_hooks(container_->state()); !hooks)
        log_warn("container.poststop_failed", {{"id", id_}, {"error", hooks.error()}});
}

}  // namespace wherry::supervisor
