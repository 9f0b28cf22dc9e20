#include "context.hpp"

#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/log.hpp"
#include "oci/intel_rdt.hpp"
#include "placement.hpp"

namespace wherry::runtime {

namespace {

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? std::string() : std::string(value);
}

std::optional<int> number_of(std::string_view text) {
    int value = 0;
    auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (problem != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

}  // namespace

bool is_rootless(const CommandLine& line) {
    std::string wish = line.global.value("rootless", "auto");
    if (wish == "true" || wish == "1") return true;
    return ::geteuid() != 0;
}

std::string root_of(const CommandLine& line) {
    std::string root = line.global.value("root");
    if (!root.empty()) return root;
    std::string own = environment("XDG_RUNTIME_DIR");
    if (::geteuid() != 0 && !own.empty()) return own + "/wherry-runtime";
    if (::geteuid() != 0) return "/tmp/wherry-runtime-" + std::to_string(::geteuid());
    return "/run/wherry-runtime";
}

Result<std::string> only_id(const CommandLine& line) {
    if (line.local.arguments.size() != 1)
        return fail(Code::invalid_argument, line.command + ": expected one container id");
    return line.local.arguments.front();
}

Result<std::string> absolute(const std::string& path) {
    if (!path.empty() && path.front() == '/') return path;
    std::array<char, 4096> buffer{};
    if (::getcwd(buffer.data(), buffer.size()) == nullptr) return fail_errno("getcwd");
    if (path.empty() || path == ".") return std::string(buffer.data());
    return std::string(buffer.data()) + "/" + path;
}

int listen_fds() {
    // Meant for another process (sd_listen_fds(3)).
    if (number_of(environment("LISTEN_PID")) != ::getpid()) return 0;
    auto count = number_of(environment("LISTEN_FDS"));
    return count && *count > 0 && *count <= 1024 ? *count : 0;
}

Result<std::vector<oci::ExtraFd>> preserved_fds(const Options& options) {
    std::vector<oci::ExtraFd> fds;
    auto count = number_of(options.value("preserve-fds", "0"));
    if (!count || *count < 0 || *count > 1024)
        return fail(Code::invalid_argument, "--preserve-fds: expected a small number");
    for (int number = 3; number < 3 + *count + listen_fds(); ++number) fds.push_back({number, number});
    return fds;
}

Result<> write_pid_file(const Options& options, pid_t pid) {
    std::string path = options.value("pid-file");
    if (path.empty()) return {};
    return write_file_atomic(path, std::to_string(pid), 0644, Durability::none);
}

Result<> send_terminal(const Options& options, const Fd& terminal) {
    std::string path = options.value("console-socket");
    if (path.empty() || !terminal) return {};
    Fd socket = TRY(connect_unix(path), "console socket");
    const int fds[] = {terminal.get()};
    return send_with_fds(socket.get(), "/dev/ptmx", fds);
}

Result<> send_pidfd(const Options& options, int pidfd, const char* kind) {
    std::string path = options.value("pidfd-socket");
    if (path.empty()) return {};
    Fd socket = TRY(connect_unix(path), "pidfd socket");
    const int fds[] = {pidfd};
    return send_with_fds(socket.get(), kind, fds);
}

void print_timings(const oci::Timeline& timeline) {
    std::int64_t before = timeline.begin;
    for (const auto& phase : timeline.phases()) {
        std::fprintf(stderr, "%-12.*s %8.1f us  %8.1f us\n", static_cast<int>(phase.name.size()), phase.name.data(),
                     static_cast<double>(phase.at_ns - before) / 1000.0,
                     static_cast<double>(phase.at_ns - timeline.begin) / 1000.0);
        before = phase.at_ns;
    }
}

Result<int> parse_signal(std::string name) {
    if (auto number = number_of(name)) {
        if (*number >= 0 && *number <= 64) return *number;
        return fail(Code::invalid_argument, "unknown signal " + name);
    }
    for (char& letter : name) letter = static_cast<char>(letter >= 'a' && letter <= 'z' ? letter - 32 : letter);
    if (name.starts_with("SIG")) name.erase(0, 3);
    for (int number = 1; number < NSIG; ++number) {
        const char* known = ::sigabbrev_np(number);
        if (known != nullptr && name == known) return number;
    }
    // RTMIN+3, RTMAX-1, as kill(1) spells the real-time signals.
    int base = name.starts_with("RTMIN") ? SIGRTMIN : name.starts_with("RTMAX") ? SIGRTMAX : 0;
    if (base != 0) {
        std::string_view rest = std::string_view(name).substr(5);
        if (rest.starts_with('+')) rest.remove_prefix(1);
        auto offset = rest.empty() ? std::optional<int>(0) : number_of(rest);
        if (offset && base + *offset >= SIGRTMIN && base + *offset <= SIGRTMAX) return base + *offset;
    }
    return fail(Code::invalid_argument, "unknown signal " + name);
}

Result<std::optional<confine::Cgroup>> Known::cgroup() const {
    std::string path = TRY(JsonReader(state, "state").string_or("cgroup", ""));
    if (path.empty()) return std::nullopt;
    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    auto opened = confine::Cgroup::open(*system, path);
    if (!opened) {
        if (opened.error().code() == Code::not_found) return std::nullopt;
        return std::unexpected<Error>(std::move(opened).error());
    }
    return std::move(*opened);
}

Result<Known> find(const CommandLine& line, const std::string& id) {
    StateDirectory directory = TRY(StateDirectory::open(root_of(line), id));
    json::object state = TRY(directory.load(), "state of " + id);
    JsonReader reader(state, "state");
    auto described = TRY(reader.child("container"));
    if (!described) return fail(Code::data_loss, "state of " + id + " is damaged");
    Known known{std::move(directory), state, std::nullopt};
    auto container = oci::Container::restore(described->object());
    if (container) {
        known.container = std::move(*container);
    } else if (container.error().code() != Code::not_found) {
        return std::unexpected<Error>(std::move(container).error());
    }
    return known;
}

std::string_view status_of(const Known& known) {
    if (!known.container) return "stopped";
    if (!known.container->started()) return "created";
    auto cgroup = known.cgroup();
    if (cgroup && *cgroup) {
        auto frozen = (*cgroup)->frozen();
        if (frozen && *frozen) return "paused";
    }
    return "running";
}

json::object describe(const Known& known, const std::string& id) {
    JsonReader state(known.state, "state");
    auto text = [](Result<std::string> value) { return value ? std::move(*value) : std::string(); };
    json::object out;
    out["ociVersion"] = "1.2.0";
    out["id"] = id;
    out["pid"] = known.container ? known.container->pid() : 0;
    out["status"] = status_of(known);
    json::value annotations = json::object{};
    if (auto container = state.child("container"); container && *container) {
        out["bundle"] = text((*container)->string_or("bundle", ""));
        if (const json::value* found = (*container)->find("annotations")) annotations = *found;
    }
    out["rootfs"] = text(state.string_or("rootfs", ""));
    out["created"] = text(state.string_or("created", ""));
    out["annotations"] = std::move(annotations);
    out["owner"] = text(state.string_or("owner", ""));
    return out;
}

Result<> remove_container(Known& known) {
    if (known.container) {
        // A frozen container on v1 does not die before it is thawed.
        if (auto cgroup = known.cgroup(); cgroup && *cgroup) {
            auto frozen = (*cgroup)->frozen();
            if (frozen && *frozen) TRY((*cgroup)->kill_all());
        }
        [[maybe_unused]] auto killed = known.container->signal(SIGKILL);
        // Not our child: its end shows in the pidfd.
        pollfd watched{known.container->pidfd(), POLLIN, 0};
        ::poll(&watched, 1, 10'000);
    }
    TRY(remove_placement(known.state), "cgroup");
    JsonReader reader(known.state, "state");
    if (auto described = TRY(reader.child("container"))) {
        TRY(oci::remove_intel_rdt(described->object()), "linux.intelRdt");
        // The container is gone either way: a failing hook is told, and that is all.
        if (auto ran = oci::run_poststop_hooks(described->object()); !ran)
            log_warn("container.poststop", {{"error", ran.error()}});
    }
    return known.directory.remove();
}

}  // namespace wherry::runtime
