#include "oci/hooks.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "confine/process_attributes.hpp"

namespace wherry::oci {

namespace {

constexpr std::size_t output_limit = 4096;

struct Child {
    pid_t pid = -1;
    Fd pidfd;
    Fd output;
};

Result<Child> spawn(const Hook& hook, int state) {
    std::vector<char*> arguments;
    std::vector<char*> environment;
    std::vector<std::string> words = hook.args.empty() ? std::vector<std::string>{hook.path} : hook.args;
    std::vector<std::string> variables = hook.env;
    arguments.reserve(words.size() + 1);
    environment.reserve(variables.size() + 1);
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    for (std::string& variable : variables) environment.push_back(variable.data());
    environment.push_back(nullptr);
    Pipe output = TRY(make_pipe());
    Fd null = TRY(open_file("/dev/null", O_RDWR));
    pid_t pid = ::fork();
    if (pid < 0) return fail_errno("fork");
    if (pid == 0) {
        // SAFETY: after fork: async-signal-safe calls only, then execve.
        sigset_t none;
        ::sigemptyset(&none);
        ::sigprocmask(SIG_SETMASK, &none, nullptr);
        ::signal(SIGPIPE, SIG_DFL);
        if (::dup2(state, 0) < 0 || ::dup2(null.get(), 1) < 0 || ::dup2(output.write.get(), 2) < 0) ::_exit(127);
        confine::post_fork::close_on_exec_from(3);
        ::execve(hook.path.c_str(), arguments.data(), environment.data());
        int error = errno;
        const char text[] = "cannot be executed";
        [[maybe_unused]] ssize_t ignored = ::write(2, text, sizeof text - 1);
        ::_exit(error == ENOENT ? 127 : 126);
    }
    Child child;
    child.pid = pid;
    child.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    child.output = std::move(output.read);
    if (!child.pidfd) {
        int error = errno;
        ::kill(pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
        return fail_errno(error, "pidfd_open");
    }
    return child;
}

// Collects stderr until the hook has ended or its time is over; true: it ended.
Result<bool> watch(Child& child, std::optional<int> timeout_s, std::string& output) {
    std::int64_t deadline = timeout_s ? monotonic_ns() + std::int64_t{*timeout_s} * 1'000'000'000 : 0;
    TRY(set_nonblocking(child.output.get()));
    bool reading = true;
    for (;;) {
        std::array<pollfd, 2> fds{pollfd{child.pidfd.get(), POLLIN, 0},
                                  pollfd{reading ? child.output.get() : -1, POLLIN, 0}};
        int wait_ms = -1;
        if (timeout_s) {
            std::int64_t left = deadline - monotonic_ns();
            if (left <= 0) return false;
            wait_ms = static_cast<int>(std::min<std::int64_t>(left / 1'000'000 + 1, 1'000'000));
        }
        int ready = ::poll(fds.data(), fds.size(), wait_ms);
        if (ready < 0 && errno != EINTR) return fail_errno("poll");
        if (ready <= 0) continue;
        if (fds[1].revents != 0) {
            std::array<char, 1024> buffer{};
            ssize_t got = ::read(child.output.get(), buffer.data(), buffer.size());
            if (got > 0) {
                std::size_t room = output_limit - std::min(output_limit, output.size());
                output.append(buffer.data(), std::min(room, static_cast<std::size_t>(got)));
                continue;
            }
            if (got == 0) reading = false;
        }
        if (fds[0].revents != 0) return true;
    }
}

Result<> run_hook(const Hook& hook, const HookState& state) {
    Fd file(::memfd_create("hook-state", MFD_CLOEXEC));
    if (!file) return fail_errno("memfd_create");
    TRY(write_all(file.get(), wherry::to_json(state.to_json())));
    if (::lseek(file.get(), 0, SEEK_SET) < 0) return fail_errno("lseek");
    Child child = TRY(spawn(hook, file.get()));
    std::string output;
    auto ended = watch(child, hook.timeout_s, output);
    if (!ended || !*ended) ::kill(child.pid, SIGKILL);
    int status = 0;
    while (::waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (!ended) return std::unexpected<Error>(std::move(ended).error());
    while (!output.empty() && (output.back() == '\n' || output.back() == ' ')) output.pop_back();
    std::string said = output.empty() ? std::string() : ": " + output;
    if (!*ended)
        return fail(Code::deadline_exceeded, "timed out after " + std::to_string(*hook.timeout_s) + " s" + said);
    if (WIFSIGNALED(status)) return fail(Code::conflict, "killed by signal " + std::to_string(WTERMSIG(status)) + said);
    if (WEXITSTATUS(status) != 0)
        return fail(Code::conflict, "exit status " + std::to_string(WEXITSTATUS(status)) + said);
    return {};
}

}  // namespace

json::object HookState::to_json() const {
    json::object object;
    object["ociVersion"] = "1.2.0";
    object["id"] = id;
    object["status"] = status;
    if (pid > 0) object["pid"] = pid;
    object["bundle"] = bundle;
    if (!annotations.empty()) {
        json::object map;
        for (const auto& [name, value] : annotations) map[name] = value;
        object["annotations"] = std::move(map);
    }
    return object;
}

Result<> run_hooks(std::span<const Hook> hooks, const char* kind, const HookState& state, HookFailure failure) {
    Result<> outcome;
    for (std::size_t i = 0; i < hooks.size(); ++i) {
        auto ran = run_hook(hooks[i], state);
        if (ran || !outcome) continue;
        outcome = std::unexpected<Error>(std::move(ran).error().context(
            std::string(kind) + " hook #" + std::to_string(i) + " (" + hooks[i].path + ")"));
        if (failure == HookFailure::stop) break;
    }
    return outcome;
}

}  // namespace wherry::oci
