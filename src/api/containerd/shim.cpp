#include "api/containerd/shim.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

#include "api/containerd/bundle.hpp"
#include "api/containerd/event_publisher.hpp"
#include "api/containerd/rpc_server.hpp"
#include "api/containerd/sandbox_service.hpp"
#include "api/containerd/task_service.hpp"
#include "api/containerd/task_spec.hpp"
#include "base/fd.hpp"
#include "base/log.hpp"
#include "confine/cgroup.hpp"
#include "confine/digest.hpp"
#include "supervisor/surroundings.hpp"

namespace wherry::api::containerd {

namespace {

constexpr const char* runtime_directory = "/run/wherry-containerd";
constexpr const char* runtime_name = "io.containerd.wherry.v2";
// A shim without containers that nobody is connected to ends after this.
constexpr std::chrono::milliseconds unused_timeout{60'000};
// At its end it waits this long for containerd to take the last events.
constexpr std::chrono::milliseconds farewell_timeout{5'000};
constexpr std::size_t max_options_bytes = 1U << 20U;

// A directory of ours alone: sockets in it can be reached by nobody else, whatever their mode (CVE-2020-15257).
Result<Fd> open_runtime_directory() {
    TRY(make_directories(runtime_directory, 0700));
    Fd directory = TRY(open_file(runtime_directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    struct stat info{};
    if (::fstat(directory.get(), &info) < 0) return fail_errno(runtime_directory);
    if (info.st_uid != ::geteuid() || (info.st_mode & 077U) != 0)
        return fail(Code::permission_denied,
                    std::string(runtime_directory) + " belongs to somebody else, or is open to others");
    return directory;
}

// The same for every container of a group under one containerd and namespace.
std::string socket_path_of(const ShimFlags& flags, const std::string& group) {
    std::string name = confine::small_sha256_hex(flags.address + "\n" + flags.name_space + "\n" + group);
    return std::string(runtime_directory) + "/" + name.substr(0, 40) + ".sock";
}

Result<std::string> current_directory() {
    std::array<char, 4096> buffer{};
    if (::getcwd(buffer.data(), buffer.size()) == nullptr) return fail_errno("getcwd");
    return std::string(buffer.data());
}

std::string environment(const char* name) {
    // One thread, and nobody changes the environment.
    const char* value = ::getenv(name);  // NOLINT(concurrency-mt-unsafe)
    return value != nullptr ? value : "";
}

// ---- the shim itself

class Shim {
  public:
    Shim(const ShimFlags& flags, std::string socket_path, supervisor::EventLoop& loop, std::span<char> scratch)
        : socket_path_(std::move(socket_path)),
          loop_(loop),
          server_(loop, scratch,
                  [this](const TtrpcRequest& request, CallReference call) { return handle(request, call); }),
          events_(loop, scratch, {flags.name_space, environment("TTRPC_ADDRESS"), flags.address, flags.publish_binary}),
          service_(loop, scratch, server_, events_, {flags.name_space, runtime_directory},
                   [this] {
                       if (!sandbox_.exists()) begin_end();  // a sandbox outlives its containers
                   }),
          sandbox_(loop, server_, service_, runtime_directory, [this] { begin_end(); }) {}

    Result<> begin(Fd listener) {
        TRY(server_.listen(std::move(listener)));
        TRY(children_.begin(loop_, [this] { reap_children(); }));
        watch_use();
        return {};
    }

  private:
    RpcServer::Reply handle(const TtrpcRequest& request, CallReference call) {
        if (ending_) return fail(Code::unavailable, "the shim is ending");
        if (request.service == sandbox_service_name) return sandbox_.handle(request, call);
        return service_.handle(request, call);
    }

    void reap_children() {
        while (true) {
            int wait_status = 0;
            pid_t pid = ::waitpid(-1, &wait_status, WNOHANG);
            if (pid < 0 && errno == EINTR) continue;
            if (pid <= 0) return;
            if (!service_.child_ended(pid, wait_status) && !sandbox_.child_ended(pid, wait_status))
                events_.child_ended(pid, wait_status);
        }
    }

    void watch_use() {
        loop_.schedule(unused_, unused_timeout, [this] {
            if (service_.empty() && !sandbox_.exists() && server_.connections() == 0) {
                begin_end();
            } else {
                watch_use();
            }
        });
    }

    void begin_end() {
        if (ending_) return;
        ending_ = true;
        server_.stop_listening();
        ::unlink(socket_path_.c_str());
        loop_.schedule(farewell_, farewell_timeout, [this] { loop_.stop(); });
        end_when_told();
    }

    // The last events and answers go out first.
    void end_when_told() {
        if (events_.idle() && server_.everything_sent()) {
            loop_.stop();
            return;
        }
        loop_.schedule(recheck_, std::chrono::milliseconds(5), [this] { end_when_told(); });
    }

    std::string socket_path_;
    supervisor::EventLoop& loop_;
    RpcServer server_;
    EventPublisher events_;
    TaskService service_;
    SandboxService sandbox_;
    supervisor::ChildWatch children_;
    supervisor::Timer unused_, farewell_, recheck_;
    bool ending_ = false;
};

Result<> serve(const ShimFlags& flags, const std::string& socket_path, Fd listener) {
    TRY(supervisor::become_supervisor("containerd-shim"));
    std::span<char> scratch = TRY(supervisor::map_scratch());
    std::unique_ptr<supervisor::EventLoop> loop = TRY(supervisor::EventLoop::create());
    auto shim = std::make_unique<Shim>(flags, socket_path, *loop, scratch);
    TRY(shim->begin(std::move(listener)));
    supervisor::MemoryReturner memory(scratch);
    loop->set_idle_callback(supervisor::idle_delay, [&memory] { memory.run(); });
    loop->run();
    return {};
}

// ---- start

// containerd gives the runtime's options on stdin, when there are any.
Result<RuntimeOptions> options_on_stdin() {
    struct stat info{};
    if (::fstat(0, &info) < 0 || !S_ISFIFO(info.st_mode)) return RuntimeOptions{};
    std::string bytes = TRY(read_to_end(0, max_options_bytes), "options on stdin");
    if (bytes.empty()) return RuntimeOptions{};
    Any any = TRY(decode<Any>(bytes), "options on stdin");
    if (any.type_url != runc_options_type) return RuntimeOptions{};
    return decode<RuntimeOptions>(any.value);
}

// Moves this process, and what it will start outside of containers, into the cgroup the options name.
Result<> join_shim_cgroup(const std::string& path) {
    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    auto cgroup = confine::Cgroup::open(*system, path);
    if (!cgroup && cgroup.error().code() == Code::not_found) cgroup = confine::Cgroup::create(*system, path);
    if (!cgroup) return std::unexpected(std::move(cgroup).error());
    confine::CgroupJoin join = TRY(cgroup->prepare_join());
    if (int error = confine::post_fork::join_cgroups(join.task_files()); error != 0)
        return fail_errno(error, "shim cgroup");
    if (join.unified_procs() >= 0) TRY(write_all(join.unified_procs(), "0"), "shim cgroup");
    return {};
}

// Standard streams of the shim that stays: nothing of the caller's, and as stderr the log containerd reads.
Result<> redirect_streams() {
    Fd null = TRY(open_file("/dev/null", O_RDWR));
    // Both directions: containerd may go and come again.
    auto log = open_file("log", O_RDWR | O_NONBLOCK);
    struct stat info{};
    bool is_fifo = log && ::fstat(log->get(), &info) == 0 && S_ISFIFO(info.st_mode);
    if (::dup2(null.get(), 0) < 0 || ::dup2(null.get(), 1) < 0 || ::dup2(is_fifo ? log->get() : null.get(), 2) < 0)
        return fail_errno("standard streams");
    return {};
}

void share_a_core_with_nobody() {
    constexpr unsigned long process_group = 2;  // PIDTYPE_PGID
    if (::prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, process_group, 0) < 0)
        log_warn("shim.sched_core_failed", {{"errno", errno}});
}

// In the child: never returns.
[[noreturn]] void stay(const ShimFlags& flags, const std::string& socket_path, const RuntimeOptions& options,
                       Fd listener) {
    Result<> served = [&]() -> Result<> {
        TRY(redirect_streams());
        if (!options.shim_cgroup.empty()) TRY(join_shim_cgroup(options.shim_cgroup));
        if (!environment("SCHED_CORE").empty()) share_a_core_with_nobody();
        return serve(flags, socket_path, std::move(listener));
    }();
    if (!served) {
        log_error("shim.failed", {{"error", served.error()}});
        ::unlink(socket_path.c_str());
    }
    ::_exit(served ? 0 : 1);
}

Result<> start(const ShimFlags& flags) {
    RuntimeOptions options = TRY(options_on_stdin());
    std::string bundle = TRY(current_directory());
    // The bundle of a sandbox may have no configuration: what it needs to know comes with CreateSandbox.
    json::object config;
    if (path_exists(bundle + "/config.json")) config = TRY(read_config(bundle));
    std::string socket_path = socket_path_of(flags, group_of(config, flags.id));
    std::string address = "unix://" + socket_path;
    // Two containers of a pod may be started at once: one makes the socket, the other finds it.
    Fd directory = TRY(open_runtime_directory());
    if (::flock(directory.get(), LOCK_EX) < 0) return fail_errno("lock");
    if (!connect_unix(socket_path)) {
        Fd listener = TRY(listen_unix(socket_path, 0600));
        pid_t pid = ::fork();
        if (pid < 0) {
            Error error = std::move(fail_errno("fork")).error();
            ::unlink(socket_path.c_str());
            return std::unexpected(std::move(error));
        }
        if (pid == 0) {
            // One thread: the child goes on as ordinary C++.
            directory.reset();
            stay(flags, socket_path, options, std::move(listener));
        }
    }
    TRY(write_file_atomic(bundle + "/address", address, 0600, Durability::none));
    return write_all(1, address);
}

// ---- delete

Result<> remove(const ShimFlags& flags) {
    std::string bundle = flags.bundle.empty() ? TRY(current_directory()) : flags.bundle;
    if (bundle.front() != '/') bundle = TRY(current_directory()) + "/" + bundle;
    CleanedUp cleaned = TRY(clean_up_bundle(bundle));
    // The socket of a shim that is gone.
    auto config = path_exists(bundle + "/config.json") ? read_config(bundle) : Result<json::object>(json::object());
    if (config) {
        std::string socket_path = socket_path_of(flags, group_of(*config, flags.id));
        auto directory = open_runtime_directory();
        if (directory && ::flock(directory->get(), LOCK_EX) == 0 && !connect_unix(socket_path))
            ::unlink(socket_path.c_str());
    }
    DeleteResponse response{static_cast<std::uint32_t>(cleaned.pid), static_cast<std::uint32_t>(cleaned.status.code),
                            timestamp_of(cleaned.status.finished_at)};
    return write_all(1, encode(response));
}

// containerd.runtime.types RuntimeInfo, for containerd 2: name and version.
std::string runtime_info(std::string_view software) {
    WireWriter version;
    version.bytes(1, software);
    WireWriter info;
    info.bytes(1, runtime_name);
    info.bytes(2, version.take());
    return info.take();
}

constexpr const char* usage =
    "containerd-shim-wherry-v2 [flags] [start | delete]\n"
    "  -namespace NS          containerd's namespace\n"
    "  -id ID                 the container\n"
    "  -address PATH          containerd's socket\n"
    "  -publish-binary PATH   containerd's binary, for events where TTRPC_ADDRESS is not set\n"
    "  -bundle PATH           the bundle, for delete\n"
    "  -debug                 log more\n"
    "  -v, -version           the version\n"
    "  -info                  name and version as containerd 2 reads them\n";

}  // namespace

Result<ShimFlags> parse_flags(std::span<const std::string> arguments) {
    ShimFlags flags;
    struct Text {
        std::string_view name;
        std::string* target;
    };
    struct Switch {
        std::string_view name;
        bool* target;
    };
    const Text texts[]{{"namespace", &flags.name_space},
                       {"address", &flags.address},
                       {"publish-binary", &flags.publish_binary},
                       {"id", &flags.id},
                       {"bundle", &flags.bundle},
                       {"socket", &flags.socket}};
    const Switch switches[]{{"debug", &flags.debug}, {"v", &flags.version}, {"version", &flags.version},
                            {"info", &flags.info},   {"h", &flags.help},    {"help", &flags.help}};
    std::size_t at = 0;
    for (; at < arguments.size(); ++at) {
        std::string_view word = arguments[at];
        if (word.size() < 2 || word.front() != '-') break;
        word.remove_prefix(word.starts_with("--") ? 2 : 1);
        auto equals = word.find('=');
        std::string_view name = word.substr(0, equals);
        bool known = false;
        for (const Switch& item : switches) {
            if (item.name != name) continue;
            known = true;
            *item.target = equals == std::string_view::npos || word.substr(equals + 1) == "true";
        }
        for (const Text& item : texts) {
            if (item.name != name) continue;
            known = true;
            if (equals != std::string_view::npos) {
                *item.target = word.substr(equals + 1);
            } else {
                if (++at == arguments.size())
                    return fail(Code::invalid_argument, "value missing after -" + std::string(name));
                *item.target = arguments[at];
            }
        }
        if (!known) return fail(Code::invalid_argument, "unknown flag -" + std::string(name));
    }
    if (at < arguments.size()) flags.command = arguments[at++];
    if (at < arguments.size()) return fail(Code::invalid_argument, "unexpected " + arguments[at]);
    return flags;
}

int run_containerd_shim(std::span<char*> arguments, std::string_view software) {
    std::vector<std::string> words;
    for (std::size_t i = 1; i < arguments.size(); ++i) words.emplace_back(arguments[i]);
    auto done = [&]() -> Result<> {
        ShimFlags flags = TRY(parse_flags(words));
        if (flags.help) return write_all(1, usage);
        if (flags.version) return write_all(1, std::string(software) + "\n");
        if (flags.info) return write_all(1, runtime_info(software));
        set_log_level(flags.debug ? LogLevel::debug : LogLevel::warn);
        if (flags.name_space.empty()) return fail(Code::invalid_argument, "-namespace is needed");
        if (flags.id.empty()) return fail(Code::invalid_argument, "-id is needed");
        if (flags.command == "start") return start(flags);
        if (flags.command == "delete") return remove(flags);
        return fail(Code::invalid_argument, "expected start or delete");
    }();
    if (done) return 0;
    std::string line = "containerd-shim-wherry-v2: " + done.error().describe() + "\n";
    static_cast<void>(write_all(2, line));
    return 1;
}

}  // namespace wherry::api::containerd
