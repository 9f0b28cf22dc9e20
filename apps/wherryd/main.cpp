// wherryd: options, the life of the process, and the wiring of engine, API and server.
#include <fcntl.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "api/docker/api.hpp"
#include "base/fd.hpp"
#include "base/log.hpp"
#include "base/log_spdlog.hpp"
#include "engine/engine.hpp"
#include "http/server.hpp"
#include "options.hpp"

namespace wherry::daemon {
namespace {

namespace asio = boost::asio;

void say(std::FILE* stream, const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stream);
    std::fputc('\n', stream);
}

// systemd's notification socket (sd_notify(3)); nothing without one.
void notify_systemd(std::string_view state) {
    const char* path = std::getenv("NOTIFY_SOCKET");
    if (path == nullptr || (*path != '/' && *path != '@')) return;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string_view name = path;
    if (name.size() >= sizeof address.sun_path) return;
    name.copy(address.sun_path, name.size());
    if (*path == '@') address.sun_path[0] = '\0';
    const Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    // SAFETY: sockaddr_un is passed as the sockaddr it begins with.
    ::sendto(socket.get(), state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address),
             length);
}

// The file holds our pid for as long as we live; a lock on it tells a stale one from a live one.
class PidFile {
  public:
    static Result<PidFile> write(const std::string& path) {
        const std::size_t slash = path.rfind('/');
        if (slash > 0) TRY(make_directories(path.substr(0, slash), 0755));
        if (const auto text = read_file(path)) {
            int pid = 0;
            std::from_chars(text->data(), text->data() + text->size(), pid);
            if (pid > 0 && pid != ::getpid() && ::kill(pid, 0) == 0) {
                const auto name = read_file("/proc/" + std::to_string(pid) + "/comm");
                if (name && name->starts_with("wherryd")) {
                    return fail(Code::unavailable,
                                "process with PID " + std::to_string(pid) + " is still running (" + path + ")");
                }
            }
        }
        TRY(write_file_atomic(path, std::to_string(::getpid()) + "\n", 0644, Durability::none), "pid file");
        return PidFile(path);
    }
    PidFile(PidFile&& other) noexcept : path_(std::exchange(other.path_, {})) {}
    PidFile& operator=(PidFile&&) = delete;
    PidFile(const PidFile&) = delete;
    PidFile& operator=(const PidFile&) = delete;
    ~PidFile() {
        if (!path_.empty()) ::unlink(path_.c_str());
    }

  private:
    explicit PidFile(std::string path) : path_(std::move(path)) {}
    std::string path_;
};

Result<> listen_everywhere(http::Server& server, const Options& options) {
    std::vector<std::string> hosts = options.hosts;
    if (hosts.empty()) hosts.emplace_back(default_host);
    for (const std::string& host : hosts) {
        http::Listen where = TRY(http::parse_listen(host), "--host " + host);
        if (where.kind == http::Listen::Kind::unix_socket) {
            const std::size_t slash = where.path.rfind('/');
            if (slash != std::string::npos && slash > 0) TRY(make_directories(where.path.substr(0, slash), 0711));
            where.group = options.group;
        }
        if (where.kind == http::Listen::Kind::tcp) {
            if (options.tls) {
                where.kind = http::Listen::Kind::tls;
                where.tls = {.certificate = options.tls_certificate,
                             .key = options.tls_key,
                             .certificate_authority = options.tls_ca,
                             .verify_client = options.tls_verify};
            } else {
                log_warn("api.insecure",
                         {{"host", host}, {"why", "whoever reaches this port without TLS is root on this host"}});
            }
        }
        TRY(server.listen(where), "--host " + host);
    }
    return {};
}

struct Daemon {
    asio::io_context io{1};
    std::vector<std::string> arguments;
    Options options;
    int exit_code = 0;
};

// SIGHUP: the configuration file is read again. What cannot change while the daemon runs stays as it is; a file that is
// wrong changes nothing.
void reload(Daemon& daemon, engine::Engine& engine) {
    notify_systemd("RELOADING=1");
    auto read = read_options(daemon.arguments);
    if (read) {
        set_log_level(read->log_level);
        daemon.options.log_level = read->log_level;
        daemon.options.shutdown_timeout = read->shutdown_timeout;
        engine.reload(std::move(read->engine));
        log_info("daemon.reloaded", {{"log_level", to_string(read->log_level)}});
    } else {
        log_error("daemon.reload_failed", {{"error", read.error()}});
    }
    notify_systemd("READY=1");
}

asio::awaitable<Result<>> run(Daemon& daemon) {
    const Options& options = daemon.options;
    CO_TRY(const PidFile pid_file, PidFile::write(options.pidfile));
    CO_TRY(const std::unique_ptr<engine::Engine> engine, co_await engine::Engine::create(options.engine));
    {
        std::unique_ptr<http::Server> server;
        api::docker::DockerApi api(
            *engine, {.server_metrics = [&server] { return server ? server->metrics() : http::ServerMetrics{}; }});
        auto made = http::Server::create(daemon.io.get_executor(), api.handler(), {});
        Result<> outcome;
        if (made) {
            server = std::move(*made);
            outcome = listen_everywhere(*server, options);
        } else {
            outcome = std::unexpected(std::move(made).error());
        }
        if (outcome) {
            for (const std::string& address : server->addresses()) log_info("api.listen", {{"address", address}});
            log_info("daemon.ready", {{"version", WHERRY_VERSION}, {"data_root", options.engine.data_root}});
            notify_systemd("READY=1\nMAINPID=" + std::to_string(::getpid()));
            asio::signal_set signals(daemon.io, SIGTERM, SIGINT, SIGHUP);
            int number = SIGHUP;
            while (number == SIGHUP) {
                const auto [error, caught] = co_await signals.async_wait(asio::as_tuple(asio::use_awaitable));
                number = caught;
                if (number == SIGHUP) reload(daemon, *engine);
            }
            log_info("daemon.stopping", {{"signal", number}});
            notify_systemd("STOPPING=1");
        }
        if (server) {
            // Streams that wait for containers would keep requests open: they end with the engine's.
            asio::co_spawn(daemon.io, engine->close(), asio::detached);
            co_await server->shutdown(options.shutdown_timeout);
        }
        if (!outcome) {
            co_await engine->close();
            co_return outcome;
        }
    }
    co_await engine->close();
    log_info("daemon.stopped");
    co_return Result<>{};
}

asio::awaitable<void> run_and_stop(Daemon& daemon) {
    if (Result<> result = co_await run(daemon); !result) {
        log_error("daemon.failed", {{"error", result.error()}});
        say(stderr, "failed to start daemon: " + result.error().describe());
        daemon.exit_code = 1;
    }
    daemon.io.stop();
}

int main_with(const std::vector<std::string>& arguments) {
    auto options = read_options(arguments);
    if (!options) {
        say(stderr, options.error().describe());
        return 1;
    }
    switch (options->action) {
        case Options::Action::help:
            say(stdout, help_text());
            return 0;
        case Options::Action::version:
            say(stdout, "wherryd version " WHERRY_VERSION);
            return 0;
        case Options::Action::validate:
            say(stdout, "configuration OK");
            return 0;
        case Options::Action::run:
            break;
    }
    if (::geteuid() != 0) {
        say(stderr, "wherryd needs to be started with root privileges");
        return 1;
    }
    set_log_level(options->log_level);
    if (auto sink = install_spdlog_sink(""); !sink) say(stderr, sink.error().describe());
    // Few arenas, given back early: the daemon idles most of its life.
    ::mallopt(M_ARENA_MAX, 2);
    ::mallopt(M_TRIM_THRESHOLD, 128 * 1024);
    ::umask(022);
    ::signal(SIGPIPE, SIG_IGN);
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &files);
    }
    Daemon daemon;
    daemon.arguments = arguments;
    daemon.options = std::move(*options);
    daemon.options.engine.executor = daemon.io.get_executor();
    asio::co_spawn(daemon.io, run_and_stop(daemon), asio::detached);
    daemon.io.run();
    return daemon.exit_code;
}

}  // namespace
}  // namespace wherry::daemon

int main(int argc, char** argv) {
    return wherry::daemon::main_with(std::vector<std::string>(argv + 1, argv + argc));
}
