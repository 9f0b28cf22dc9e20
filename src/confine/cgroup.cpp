#include "confine/cgroup.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <thread>

#include "base/log.hpp"
#include "confine/cgroup_internal.hpp"

namespace wherry::confine {

using namespace cgroup_detail;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

milliseconds left_until(Clock::time_point deadline) {
    return std::max(milliseconds(0), std::chrono::duration_cast<milliseconds>(deadline - Clock::now()));
}

Fd open_directory(const std::string& path) {
    return Fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

std::string parent_of(std::string_view path) {
    return std::string(path.substr(0, path.rfind('/')));
}

// A cpuset of v1 starts without processors and memory nodes, and then takes no process: give it its parent's.
Result<> inherit_cpuset(const std::string& directory, const std::string& parent, bool fresh) {
    for (const char* name : {"cpuset.cpus", "cpuset.mems"}) {
        std::string own = directory + '/' + name;
        if (!trimmed(TRY(read_file(own), "cpuset")).empty()) {
            if (fresh) return {};  // the kernel has given it both (cgroup.clone_children)
            continue;
        }
        TRY(write_control_file(own, trimmed(TRY(read_file(parent + '/' + name), "cpuset of the parent"))), "cpuset");
    }
    return {};
}

bool is_v1_cpuset(const CgroupHierarchy& hierarchy) {
    return !hierarchy.unified && hierarchy.has("cpuset");
}

// mkdir of one cgroup whose parent is there. False: it was there already.
Result<bool> make_one(const CgroupHierarchy& hierarchy, const std::string& path) {
    std::string directory = full_path(hierarchy, path);
    bool made = ::mkdir(directory.c_str(), 0755) == 0;
    if (!made && errno != EEXIST) return fail_errno("making cgroup " + directory);
    if (is_v1_cpuset(hierarchy)) {
        auto inherited = inherit_cpuset(directory, full_path(hierarchy, parent_of(path)), made);
        if (!inherited) {
            if (made) ::rmdir(directory.c_str());
            return std::unexpected(std::move(inherited).error());
        }
    }
    return made;
}

Result<> make_parents(const CgroupHierarchy& hierarchy, const std::string& path) {
    for (std::size_t end = path.find('/', 1); end != std::string::npos; end = path.find('/', end + 1)) {
        std::string ancestor = path.substr(0, end);
        TRY(make_one(hierarchy, ancestor));
        // From here on the kernel fills the cpusets below by itself, which saves their reading and writing.
        if (is_v1_cpuset(hierarchy))
            (void)write_control_file(full_path(hierarchy, ancestor) + "/cgroup.clone_children", "1");
    }
    return {};
}

std::vector<std::string> child_directories(int directory) {
    std::vector<std::string> names;
    int copy = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (copy < 0) return names;
    DIR* stream = ::fdopendir(copy);
    if (stream == nullptr) {
        ::close(copy);
        return names;
    }
    while (const dirent* entry = ::readdir(stream)) {
        std::string_view name = entry->d_name;
        if (entry->d_type == DT_DIR && name != "." && name != "..") names.emplace_back(name);
    }
    ::closedir(stream);
    return names;
}

// Depth first, children too. 0, or the errno of what could not go.
int remove_directories(const std::string& directory) {
    if (::rmdir(directory.c_str()) == 0 || errno == ENOENT) return 0;
    int error = errno;
    if (error != EBUSY && error != ENOTEMPTY) return error;
    Fd opened = open_directory(directory);
    if (!opened) return errno == ENOENT ? 0 : errno;
    std::vector<std::string> children = child_directories(opened.get());
    if (children.empty()) return error;
    for (const std::string& child : children)
        if (int child_error = remove_directories(directory + '/' + child)) return child_error;
    if (::rmdir(directory.c_str()) == 0 || errno == ENOENT) return 0;
    return errno;
}

// Waits until a change of a v2 file that announces its changes (cgroup.events, memory.events), read through fd.
void wait_for_change(int fd, milliseconds timeout) {
    pollfd wait{.fd = fd, .events = POLLPRI, .revents = 0};
    (void)::poll(&wait, 1, static_cast<int>(timeout.count()));
}

Result<std::string> reread(int fd) {
    if (::lseek(fd, 0, SEEK_SET) < 0) return fail_errno("rewinding a cgroup file");
    return read_to_end(fd, 1U << 20U);
}

// Waits until cgroup.events says "key value".
Result<> wait_for_event(int directory, std::string_view key, std::uint64_t value, Clock::time_point deadline) {
    Fd events = TRY(open_at(directory, "cgroup.events", O_RDONLY));
    while (true) {
        std::string text = TRY(reread(events.get()));
        if (find_counter(text, key) == value) return {};
        milliseconds left = left_until(deadline);
        if (left.count() == 0)
            return fail(Code::deadline_exceeded,
                        "the cgroup did not become \"" + std::string(key) + ' ' + std::to_string(value) + '"');
        wait_for_change(events.get(), left);
    }
}

void collect_pids(int directory, std::vector<pid_t>& out) {
    if (auto text = read_file_at(directory, "cgroup.procs"))
        for (std::string_view line : split(*text, '\n'))
            if (auto pid = parse_counter(line); pid && *pid > 0 && *pid <= INT32_MAX)
                out.push_back(static_cast<pid_t>(*pid));
    for (const std::string& child : child_directories(directory)) {
        Fd below(::openat(directory, child.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
        if (below) collect_pids(below.get(), out);
    }
}

std::vector<pid_t> pids_in(int directory) {
    std::vector<pid_t> pids;
    collect_pids(directory, pids);
    std::ranges::sort(pids);
    auto repeated = std::ranges::unique(pids);
    pids.erase(repeated.begin(), repeated.end());
    return pids;
}

// Signals those that are in the cgroup for certain: a pid read from a file may have been given to a stranger meanwhile,
// so each is pinned by a pidfd and then looked for once more.
std::size_t signal_members(int directory, int signal) {
    constexpr std::size_t batch = 256;  // descriptors at a time
    std::vector<pid_t> pids = pids_in(directory);
    std::size_t sent = 0;
    for (std::size_t start = 0; start < pids.size(); start += batch) {
        std::vector<std::pair<pid_t, Fd>> pinned;
        for (std::size_t i = start; i < std::min(pids.size(), start + batch); ++i) {
            // SAFETY: pidfd_open(2) takes plain integers; the descriptor is close-on-exec by itself.
            Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pids[i], 0)));
            if (pidfd) pinned.emplace_back(pids[i], std::move(pidfd));
        }
        std::vector<pid_t> still = pids_in(directory);
        for (const auto& [pid, pidfd] : pinned) {
            if (!std::ranges::binary_search(still, pid)) continue;
            // SAFETY: pidfd_send_signal(2) without siginfo.
            if (::syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0) == 0) ++sent;
        }
    }
    return sent;
}

Result<std::string> freezer_state(int directory) {
    return std::string(trimmed(TRY(read_file_at(directory, "freezer.state", 64), "freezer.state")));
}

// The v1 freezer has no notification: ask until it is frozen. Writing again helps tasks that appeared meanwhile.
Result<> freeze_v1(int directory, Clock::time_point deadline) {
    milliseconds pause(1);
    while (true) {
        TRY(write_control_file_at(directory, "freezer.state", "FROZEN"), "freezing");
        if (TRY(freezer_state(directory)) == "FROZEN") return {};
        if (Clock::now() >= deadline) {
            (void)write_control_file_at(directory, "freezer.state", "THAWED");
            return fail(Code::deadline_exceeded, "the cgroup did not freeze in time");
        }
        std::this_thread::sleep_for(pause);
        pause = std::min(pause * 2, milliseconds(20));
    }
}

Result<> thaw_v1(int directory) {
    if (TRY(freezer_state(directory)) == "THAWED") return {};
    return write_control_file_at(directory, "freezer.state", "THAWED");
}

}  // namespace

namespace cgroup_detail {

std::string full_path(const CgroupHierarchy& hierarchy, std::string_view path) {
    std::string out = hierarchy.mount_point;
    out += path;
    return out;
}

bool exists_at(int directory, const char* name) {
    return ::faccessat(directory, name, F_OK, 0) == 0;
}

Result<std::optional<std::uint64_t>> read_counter(int directory, const std::string& name) {
    auto text = read_file_at(directory, name, 4096);
    if (!text) {
        if (text.error().code() == Code::not_found) return std::nullopt;
        return std::unexpected(std::move(text).error());
    }
    return parse_counter(*text);
}

Result<> enable_v2_controllers(const CgroupSystem& system, std::string_view path,
                               const std::vector<std::string>& wanted) {
    const CgroupHierarchy* unified = system.unified();
    if (unified == nullptr || wanted.empty()) return {};
    // Every ancestor from the root (the empty path) to `path` itself.
    for (std::size_t end = 0;; end = std::min(path.find('/', end + 1), path.size())) {
        std::string ancestor = full_path(*unified, path.substr(0, end));
        std::string control = ancestor + "/cgroup.subtree_control";
        std::string present = TRY(read_file(control, 4096), "cgroup controllers");
        std::vector<std::string_view> enabled = split(trimmed(present), ' ');
        for (const std::string& controller : wanted) {
            if (!system.on_v2(controller) || contains(enabled, controller)) continue;
            // One at a time: one that is refused (cpu, while realtime tasks run) must not take the others with it. What
            // is missing is reported when a limit asks for it.
            if (auto written = write_control_file(control, "+" + controller); !written)
                log_debug("cgroup.controller_refused",
                          {{"cgroup", ancestor}, {"controller", controller}, {"error", written.error()}});
        }
        if (end == path.size()) return {};
    }
}

}  // namespace cgroup_detail

int Cgroup::State::directory(std::size_t hierarchy) const {
    Fd& opened = directories[hierarchy];
    if (!opened && hierarchy < unopened.size() && unopened[hierarchy])
        opened = open_directory(full_path(system->hierarchies()[hierarchy], path));
    return opened.get();
}

int Cgroup::State::unified() const {
    for (std::size_t i = 0; i < directories.size(); ++i)
        if (system->hierarchies()[i].unified) return directory(i);
    return -1;
}

int Cgroup::State::v1_with(std::string_view controller) const {
    for (std::size_t i = 0; i < directories.size(); ++i)
        if (!system->hierarchies()[i].unified && system->hierarchies()[i].has(controller)) return directory(i);
    return -1;
}

int Cgroup::State::first_v1() const {
    for (std::size_t i = 0; i < directories.size(); ++i)
        if (!system->hierarchies()[i].unified && directory(i) >= 0) return directory(i);
    return -1;
}

Cgroup::Cgroup(std::unique_ptr<State> state) : state_(std::move(state)) {}
Cgroup::Cgroup(Cgroup&&) noexcept = default;
Cgroup& Cgroup::operator=(Cgroup&&) noexcept = default;
Cgroup::~Cgroup() = default;

const std::string& Cgroup::path() const {
    return state_->path;
}

Result<Cgroup> Cgroup::create(const CgroupSystem& system, const std::string& path) {
    TRY(validate_cgroup_path(path));
    std::vector<std::string> made;
    auto undo = [&made](Error error) {
        for (const std::string& directory : made) ::rmdir(directory.c_str());
        return std::unexpected(std::move(error));
    };
    if (system.mode() == CgroupMode::v2) {
        // Made first, with the controllers, for only then do the files of a leaf appear.
        TRY(make_parents(*system.unified(), path), "cgroup " + path);
        TRY(enable_v2_controllers(system, parent_of(path), {"cpu", "cpuset", "io", "memory", "pids", "hugetlb"}));
    }
    auto state = std::make_unique<State>();
    state->system = &system;
    state->path = path;
    for (const CgroupHierarchy& hierarchy : system.hierarchies()) {
        auto leaf = make_one(hierarchy, path);
        if (!leaf && leaf.error().os_errno() == ENOENT) {
            if (auto parents = make_parents(hierarchy, path); !parents) return undo(std::move(parents).error());
            leaf = make_one(hierarchy, path);
        }
        if (!leaf) return undo(std::move(leaf).error());
        std::string directory = full_path(hierarchy, path);
        if (!*leaf) return undo(Error(Code::already_exists, "cgroup " + directory + " exists already", EEXIST));
        made.push_back(directory);
        Fd opened = open_directory(directory);
        if (!opened) return undo(std::move(fail_errno("opening cgroup " + directory).error()));
        state->directories.push_back(std::move(opened));
    }
    return Cgroup(std::move(state));
}

Result<Cgroup> Cgroup::open(const CgroupSystem& system, const std::string& path) {
    TRY(validate_cgroup_path(path));
    auto state = std::make_unique<State>();
    state->system = &system;
    state->path = path;
    bool any = false;
    for (const CgroupHierarchy& hierarchy : system.hierarchies()) {
        std::string directory = full_path(hierarchy, path);
        Fd opened = open_directory(directory);
        if (!opened && errno != ENOENT) return fail_errno("opening cgroup " + directory);
        any = any || opened;
        state->directories.push_back(std::move(opened));
    }
    if (!any) return fail(Code::not_found, "no cgroup " + path);
    return Cgroup(std::move(state));
}

Result<Cgroup> Cgroup::begin(const CgroupSystem& system, const std::string& path) {
    TRY(validate_cgroup_path(path));
    if (system.mode() != CgroupMode::hybrid) return fail(Code::unimplemented, "not a hybrid host");
    auto state = std::make_unique<State>();
    state->system = &system;
    state->path = path;
    for (const CgroupHierarchy& hierarchy : system.hierarchies()) {
        state->directories.emplace_back();
        if (!hierarchy.unified) continue;
        auto leaf = make_one(hierarchy, path);
        if (!leaf && leaf.error().os_errno() == ENOENT) {
            TRY(make_parents(hierarchy, path));
            leaf = make_one(hierarchy, path);
        }
        if (!TRY(std::move(leaf))) return fail(Code::already_exists, "cgroup " + path + " exists already", EEXIST);
        state->directories.back() = open_directory(full_path(hierarchy, path));
        if (!state->directories.back()) return fail_errno("opening cgroup " + path);
    }
    return Cgroup(std::move(state));
}

Result<> Cgroup::complete() {
    const CgroupSystem& system = *state_->system;
    state_->unopened.resize(state_->directories.size());
    for (std::size_t i = 0; i < state_->directories.size(); ++i) {
        const CgroupHierarchy& hierarchy = system.hierarchies()[i];
        if (state_->directories[i]) continue;
        auto leaf = make_one(hierarchy, path());
        if (!leaf && leaf.error().os_errno() == ENOENT) {
            TRY(make_parents(hierarchy, path()));
            leaf = make_one(hierarchy, path());
        }
        TRY(std::move(leaf));
        state_->unopened[i] = true;
    }
    return {};
}

std::vector<std::string> Cgroup::task_paths() const {
    std::vector<std::string> paths;
    for (const CgroupHierarchy& hierarchy : state_->system->hierarchies())
        if (!hierarchy.unified) paths.push_back(full_path(hierarchy, path()) + "/tasks");
    return paths;
}

Result<Cgroup> Cgroup::adopt(const CgroupSystem& system, const std::string& path) {
    TRY(validate_cgroup_path(path));
    auto state = std::make_unique<State>();
    state->system = &system;
    state->path = path;
    for (const CgroupHierarchy& hierarchy : system.hierarchies()) {
        auto leaf = make_one(hierarchy, path);
        if (!leaf && leaf.error().os_errno() == ENOENT) {
            TRY(make_parents(hierarchy, path));
            leaf = make_one(hierarchy, path);
        }
        // A user has only what was delegated to him.
        if (!leaf && leaf.error().os_errno() != EACCES && leaf.error().os_errno() != EPERM)
            return std::unexpected(std::move(leaf).error());
        state->directories.push_back(open_directory(full_path(hierarchy, path)));
        if (!state->directories.back() && errno != ENOENT) return fail_errno("opening cgroup " + path);
    }
    return Cgroup(std::move(state));
}

Result<CgroupJoin> Cgroup::prepare_join() const {
    CgroupJoin join;
    for (std::size_t i = 0; i < state_->directories.size(); ++i) {
        if (state_->directory(i) < 0) continue;
        const Fd& directory = state_->directories[i];
        if (state_->system->hierarchies()[i].unified) {
            join.unified_directory_ = TRY(directory.duplicate(), "joining cgroup " + path());
            join.unified_procs_ = TRY(open_at(directory.get(), "cgroup.procs", O_WRONLY), "joining cgroup " + path());
        } else {
            join.owned_.push_back(TRY(open_at(directory.get(), "tasks", O_WRONLY), "joining cgroup " + path()));
            join.task_files_.push_back(join.owned_.back().get());
        }
    }
    return join;
}

Result<std::uint64_t> Cgroup::oom_kills() const {
    bool v1 = state_->v1_with("memory") >= 0;
    int directory = v1 ? state_->v1_with("memory") : state_->unified();
    if (directory < 0) return std::uint64_t{0};
    auto text = read_file_at(directory, v1 ? "memory.oom_control" : "memory.events", 4096);
    if (!text) {
        if (text.error().code() == Code::not_found) return std::uint64_t{0};
        return std::unexpected(std::move(text).error());
    }
    return find_counter(*text, "oom_kill").value_or(0);
}

Result<OomWatch> Cgroup::watch_oom() const {
    OomWatch watch;
    int memory = state_->v1_with("memory");
    if (memory < 0) {
        int unified = state_->unified();
        if (unified < 0) return fail(Code::unimplemented, "no memory controller to watch");
        watch.v2_ = true;
        watch.counters_ = TRY(open_at(unified, "memory.events", O_RDONLY), "watching for lack of memory");
        TRY(reread(watch.counters_.get()));
        return watch;
    }
    watch.counters_ = TRY(open_at(memory, "memory.oom_control", O_RDONLY), "watching for lack of memory");
    watch.event_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!watch.event_) return fail_errno("eventfd");
    TRY(write_control_file_at(memory, "cgroup.event_control",
                              std::to_string(watch.event_.get()) + ' ' + std::to_string(watch.counters_.get())),
        "watching for lack of memory");
    return watch;
}

int OomWatch::fd() const {
    return v2_ ? counters_.get() : event_.get();
}
std::uint32_t OomWatch::events() const {
    return v2_ ? EPOLLPRI : EPOLLIN;
}

Result<std::uint64_t> OomWatch::read() {
    if (!v2_) {
        std::uint64_t count = 0;
        if (::read(event_.get(), &count, sizeof count) < 0 && errno != EAGAIN) return fail_errno("reading an eventfd");
    }
    auto text = reread(counters_.get());
    // The cgroup may be gone by now: its last word was the end of it.
    if (!text)
        return text.error().os_errno() == ENODEV ? Result<std::uint64_t>(0) : std::unexpected(std::move(text).error());
    return find_counter(*text, "oom_kill").value_or(0);
}

Result<> Cgroup::freeze(milliseconds timeout) {
    Clock::time_point deadline = Clock::now() + timeout;
    if (int unified = state_->unified(); unified >= 0 && exists_at(unified, "cgroup.freeze")) {
        TRY(write_control_file_at(unified, "cgroup.freeze", "1"), "freezing " + path());
        auto frozen = wait_for_event(unified, "frozen", 1, deadline);
        if (!frozen) {
            (void)write_control_file_at(unified, "cgroup.freeze", "0");
            return std::unexpected(std::move(frozen).error().context("freezing " + path()));
        }
        return {};
    }
    if (int freezer = state_->v1_with("freezer"); freezer >= 0) {
        TRY(freeze_v1(freezer, deadline), "freezing " + path());
        return {};
    }
    return fail(Code::unimplemented, "no freezer on this host");
}

Result<> Cgroup::thaw() {
    if (int unified = state_->unified(); unified >= 0 && exists_at(unified, "cgroup.freeze"))
        TRY(write_control_file_at(unified, "cgroup.freeze", "0"), "thawing " + path());
    if (int freezer = state_->v1_with("freezer"); freezer >= 0) TRY(thaw_v1(freezer), "thawing " + path());
    return {};
}

Result<bool> Cgroup::frozen() const {
    if (int unified = state_->unified(); unified >= 0) {
        std::string text = TRY(read_file_at(unified, "cgroup.events", 4096));
        if (find_counter(text, "frozen") == 1U) return true;
    }
    if (int freezer = state_->v1_with("freezer"); freezer >= 0) return TRY(freezer_state(freezer)) != "THAWED";
    return false;
}

Result<std::vector<pid_t>> Cgroup::pids() const {
    std::vector<pid_t> all;
    // Where the hierarchies disagree (a process on its way in), everyone counts.
    if (int unified = state_->unified(); unified >= 0) collect_pids(unified, all);
    if (int v1 = state_->first_v1(); v1 >= 0) collect_pids(v1, all);
    std::ranges::sort(all);
    auto repeated = std::ranges::unique(all);
    all.erase(repeated.begin(), repeated.end());
    return all;
}

Result<bool> Cgroup::populated() const {
    if (int unified = state_->unified(); unified >= 0) {
        std::string text = TRY(read_file_at(unified, "cgroup.events", 4096));
        if (find_counter(text, "populated") == 1U) return true;
    }
    return !TRY(pids()).empty();
}

Result<> Cgroup::kill_all() {
    int unified = state_->unified();
    int v1 = state_->first_v1();
    int freezer = state_->v1_with("freezer");
    bool killed_at_once = unified >= 0 && write_control_file_at(unified, "cgroup.kill", "1").has_value();
    if (!killed_at_once && unified >= 0) signal_members(unified, SIGKILL);
    if (!killed_at_once && freezer >= 0) {
        // Stopped, they can make no new ones. One that does not stop in time is met in the rounds below.
        (void)freeze_v1(freezer, Clock::now() + milliseconds(500));
    }
    // Also for members that are on v1 only, and for kernels without cgroup.kill: until nobody new appears.
    std::vector<pid_t> known;
    for (int round = 0; round < 100; ++round) {
        std::vector<pid_t> now = v1 >= 0                           ? pids_in(v1)
                                 : unified >= 0 && !killed_at_once ? pids_in(unified)
                                                                   : std::vector<pid_t>{};
        if (std::ranges::includes(known, now)) break;
        signal_members(v1 >= 0 ? v1 : unified, SIGKILL);
        known = std::move(now);
    }
    // Frozen processes of a v1 freezer die only when thawed.
    if (freezer >= 0) TRY(thaw_v1(freezer), "thawing " + path());
    return {};
}

Result<> Cgroup::signal_all(int signal) {
    int directory = state_->first_v1() >= 0 ? state_->first_v1() : state_->unified();
    if (directory >= 0) signal_members(directory, signal);
    return {};
}

Result<> Cgroup::remove(milliseconds timeout) {
    const CgroupSystem& system = *state_->system;
    Clock::time_point deadline = Clock::now() + timeout;
    std::vector<std::string> directories;
    std::string events_path;
    for (const CgroupHierarchy& hierarchy : system.hierarchies()) {
        directories.push_back(full_path(hierarchy, path()));
        if (hierarchy.unified) events_path = directories.back() + "/cgroup.events";
    }
    milliseconds pause(1);
    while (true) {
        int error = 0;
        std::string stuck;
        for (std::size_t i = 0; i < directories.size();) {
            int one = remove_directories(directories[i]);
            if (one == 0) {
                directories.erase(directories.begin() + static_cast<std::ptrdiff_t>(i));
                continue;
            }
            if (one != EBUSY && one != ENOTEMPTY) return fail_errno(one, "removing cgroup " + directories[i]);
            error = one;
            stuck = directories[i];
            ++i;
        }
        if (directories.empty()) return {};
        milliseconds left = left_until(deadline);
        if (left.count() == 0) return fail(Code::deadline_exceeded, "cgroup " + stuck + " still has processes", error);
        // A process leaves all the hierarchies at once, and v2 tells when the last one has.
        Fd events(events_path.empty() ? -1 : ::open(events_path.c_str(), O_RDONLY | O_CLOEXEC));
        if (events) {
            auto text = reread(events.get());
            if (text && find_counter(*text, "populated") == 1U) {
                wait_for_change(events.get(), left);
                continue;
            }
        }
        std::this_thread::sleep_for(std::min(pause, left));
        pause = std::min(pause * 2, milliseconds(20));
    }
}

Result<> remove_cgroup_by_path(const CgroupSystem& system, const std::string& path, milliseconds timeout) {
    TRY(validate_cgroup_path(path));
    // Most often nobody is inside any more, and the directories go at once.
    bool all = true;
    for (const CgroupHierarchy& hierarchy : system.hierarchies())
        all = (::rmdir(full_path(hierarchy, path).c_str()) == 0 || errno == ENOENT) && all;
    if (all) return {};
    auto group = Cgroup::open(system, path);
    if (!group) {
        if (group.error().code() == Code::not_found) return {};
        return std::unexpected(std::move(group).error());
    }
    TRY(group->kill_all());
    return group->remove(timeout);
}

Result<std::vector<std::string>> list_child_cgroups(const CgroupSystem& system, const std::string& parent) {
    TRY(validate_cgroup_path(parent));
    std::set<std::string> names;
    for (const CgroupHierarchy& hierarchy : system.hierarchies()) {
        Fd directory = open_directory(full_path(hierarchy, parent));
        if (!directory) {
            if (errno == ENOENT) continue;
            return fail_errno("listing cgroups of " + parent);
        }
        names.merge([&] {
            auto children = child_directories(directory.get());
            return std::set<std::string>(children.begin(), children.end());
        }());
    }
    return std::vector<std::string>(names.begin(), names.end());
}

namespace post_fork {

int join_cgroups(std::span<const int> task_files) noexcept {
    for (int file : task_files) {
        while (::write(file, "0", 1) != 1)
            if (errno != EINTR) return errno;
    }
    return 0;
}

}  // namespace post_fork
}  // namespace wherry::confine
