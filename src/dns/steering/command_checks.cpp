#include "dns/steering/command_checks.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/clock.hpp"
#include "base/log.hpp"

namespace wherry::dns::steering {

namespace {

// A request: 'r', the timeout (ms, 32 bits) and the words, each behind it a zero byte; or 'l'. With it comes the socket
// that the answer goes to: a zero byte, or a one and what is wrong.
constexpr char request_run = 'r';
constexpr char request_reload = 'l';
constexpr std::size_t most_request_bytes = 64U << 10U;
constexpr std::size_t most_running = 256;
constexpr auto patience = std::chrono::seconds(5);  // for the process itself, beyond the command's time

void answer(const Fd& to, const Result<>& result) {
    std::string text(1, result ? '\0' : '\1');
    if (!result) text += result.error().describe();
    (void)::send(to.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

Result<pid_t> spawn(const Command& command) {
    std::vector<std::string> copies = command;
    std::vector<char*> words;
    for (std::string& word : copies) words.push_back(word.data());
    words.push_back(nullptr);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    // A group of its own: what the command starts is ended with it. Signals as a program expects them.
    sigset_t none;
    sigset_t all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    for (int fd = 0; fd < 3; ++fd) posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_RDWR, 0);
    pid_t child = 0;
    const int problem = ::posix_spawn(&child, words[0], &files, &attributes, words.data(), environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    if (problem != 0) return fail_errno(problem, command[0]);
    return child;
}

// The process's loop: requests, and the ends of what runs.
class Runner {
  public:
    Runner(Fd socket, const std::function<Result<std::vector<Command>>()>& read)
        : socket_(std::move(socket)), read_(read) {}

    void run() {
        if (auto commands = read_()) commands_ = std::move(*commands);
        while (true) {
            std::vector<pollfd> polled{{socket_.get(), POLLIN, 0}};
            std::int64_t next = -1;
            for (const Running& one : running_) {
                polled.push_back({one.process.get(), POLLIN, 0});
                if (next < 0 || one.until < next) next = one.until;
            }
            const std::int64_t left =
                next < 0 ? -1 : std::max<std::int64_t>(0, (next - monotonic_ns()) / 1'000'000 + 1);
            if (::poll(polled.data(), polled.size(), static_cast<int>(left)) < 0) continue;
            for (std::size_t i = running_.size(); i-- > 0;)
                if (polled[i + 1].revents != 0 || running_[i].until <= monotonic_ns()) {
                    end(running_[i], polled[i + 1].revents != 0);
                    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
                }
            if (polled[0].revents != 0 && !take()) break;
        }
        for (Running& one : running_) end(one, false);
    }

  private:
    struct Running {
        pid_t pid = 0;
        Fd process;
        Fd reply;
        std::int64_t until = 0;
        std::chrono::milliseconds timeout{};
    };

    // False when the server has gone.
    bool take() {
        std::vector<std::byte> buffer(most_request_bytes);
        auto received = receive_with_fds(socket_.get(), buffer);
        if (!received) return received.error().os_errno() == EINTR;
        if (received->bytes == 0) return false;
        if (received->fds.size() != 1) return true;
        // SAFETY: bytes as text.
        std::string_view request(reinterpret_cast<const char*>(buffer.data()), received->bytes);
        if (auto done = handle(request, received->fds[0]); !done) answer(received->fds[0], done);
        return true;
    }

    // An error is the answer; what was started answers later.
    Result<> handle(std::string_view request, Fd& reply) {
        if (request[0] == request_reload) {
            commands_ = TRY(read_());
            answer(reply, {});
            return {};
        }
        if (request[0] != request_run || request.size() < 6) return fail(Code::invalid_argument, "unknown request");
        std::uint32_t timeout_ms = 0;
        std::memcpy(&timeout_ms, request.data() + 1, 4);
        request.remove_prefix(5);
        Command command;
        while (!request.empty()) {
            const std::size_t end = std::min(request.find('\0'), request.size());
            command.emplace_back(request.substr(0, end));
            request.remove_prefix(std::min(end + 1, request.size()));
        }
        if (std::ranges::find(commands_, command) == commands_.end())
            return fail(Code::permission_denied, "the command is not in the configuration");
        if (running_.size() >= most_running) return fail(Code::resource_exhausted, "too many commands run already");
        Running one{.pid = TRY(spawn(command)), .process = {}, .reply = std::move(reply)};
        one.process = Fd(static_cast<int>(::syscall(SYS_pidfd_open, one.pid, 0)));
        one.timeout = std::chrono::milliseconds(timeout_ms);
        one.until = monotonic_ns() + std::chrono::nanoseconds(one.timeout).count();
        running_.push_back(std::move(one));
        return {};
    }

    static void end(const Running& one, bool ended) {
        if (!ended) (void)::kill(-one.pid, SIGKILL);
        int status = 0;
        while (::waitpid(one.pid, &status, 0) < 0 && errno == EINTR) {
        }
        if (!ended)
            answer(one.reply,
                   fail(Code::deadline_exceeded, "not done within " + std::to_string(one.timeout.count()) + " ms"));
        else if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            answer(one.reply, {});
        else
            answer(one.reply,
                   fail(Code::unavailable, WIFEXITED(status) ? "exit code " + std::to_string(WEXITSTATUS(status))
                                                             : "ended by signal " + std::to_string(WTERMSIG(status))));
    }

    Fd socket_;
    const std::function<Result<std::vector<Command>>()>& read_;
    std::vector<Command> commands_;
    std::vector<Running> running_;
};

}  // namespace

Result<std::shared_ptr<CommandChecks>> CommandChecks::start(const std::function<Result<>()>& prepare,
                                                            const std::function<Result<std::vector<Command>>()>& read) {
    auto [ours, theirs] = TRY(make_socket_pair(SOCK_SEQPACKET));
    const pid_t pid = ::fork();
    if (pid < 0) return fail_errno("fork");
    if (pid > 0) return std::shared_ptr<CommandChecks>(new CommandChecks(std::move(ours)));
    // One thread was running: everything may be called here. The server's end is seen at the socket, so that what runs
    // is ended too.
    ours.reset();
    (void)::prctl(PR_SET_NAME, "dns-checks");
    (void)::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    for (int signal : {SIGTERM, SIGINT, SIGHUP}) (void)::signal(signal, SIG_IGN);
    if (auto prepared = prepare(); !prepared) {
        log_error("checks.not_confined", {{"error", prepared.error()}});
        ::_exit(1);
    }
    Runner(std::move(theirs), read).run();
    ::_exit(0);
}

Result<> CommandChecks::ask(std::string_view request, std::chrono::milliseconds timeout) const {
    auto [ours, theirs] = TRY(make_socket_pair(SOCK_SEQPACKET));
    const int reply = theirs.get();
    TRY(send_with_fds(socket_.get(), request, std::span(&reply, 1)), "the process that runs commands");
    theirs.reset();
    pollfd ready{.fd = ours.get(), .events = POLLIN, .revents = 0};
    const std::int64_t until = monotonic_ns() + std::chrono::nanoseconds(timeout + patience).count();
    while (true) {
        const std::int64_t left = (until - monotonic_ns()) / 1'000'000;
        if (left <= 0) return fail(Code::deadline_exceeded, "the process that runs commands does not answer");
        const int count = ::poll(&ready, 1, static_cast<int>(left));
        if (count > 0) break;
    }
    std::array<char, 4096> text{};
    const ssize_t got = ::recv(ours.get(), text.data(), text.size(), 0);
    if (got <= 0) return fail(Code::unavailable, "the process that runs commands is gone");
    if (text[0] == '\0') return {};
    return fail(Code::unavailable, std::string(text.data() + 1, static_cast<std::size_t>(got) - 1));
}

Result<> CommandChecks::run(const Command& command, std::chrono::milliseconds timeout) const {
    std::string request(1, request_run);
    const auto timeout_ms = static_cast<std::uint32_t>(timeout.count());
    // SAFETY: a number as bytes.
    request.append(reinterpret_cast<const char*>(&timeout_ms), 4);
    for (const std::string& word : command) request.append(word).push_back('\0');
    if (request.size() > most_request_bytes) return fail(Code::invalid_argument, "the command is too long");
    return ask(request, timeout);
}

Result<> CommandChecks::reload() const {
    return ask(std::string(1, request_reload), std::chrono::seconds(30));
}

}  // namespace wherry::dns::steering
