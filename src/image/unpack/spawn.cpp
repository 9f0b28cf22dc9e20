#include "image/unpack/spawn.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>
#include <optional>
#include <vector>

#include "image/unpack/program.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t relay_bytes = 1U << 20U;
constexpr std::size_t max_line_bytes = 4096;
constexpr int first_high_fd = 16;  // descriptors to hand over are moved out of the way of their targets

// Writing to a child that ended must be an error of this write, not a signal to the daemon.
class BrokenPipeGuard {
  public:
    BrokenPipeGuard() {
        ::sigemptyset(&pipe_);
        ::sigaddset(&pipe_, SIGPIPE);
        ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
    }
    BrokenPipeGuard(const BrokenPipeGuard&) = delete;
    BrokenPipeGuard& operator=(const BrokenPipeGuard&) = delete;
    ~BrokenPipeGuard() {
        timespec now{};
        while (::sigtimedwait(&pipe_, nullptr, &now) < 0 && errno == EINTR) {
        }
        ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }

  private:
    sigset_t pipe_{};
    sigset_t before_{};
};

class Child {
  public:
    explicit Child(pid_t pid) : pid_(pid) {}
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    ~Child() {
        if (pid_ < 0) return;
        ::kill(pid_, SIGKILL);
        wait();
    }
    int wait() {
        int status = 0;
        while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
        }
        pid_ = -1;
        return status;
    }

  private:
    pid_t pid_;  // not reaped yet, so it can't be anyone else's
};

Result<Fd> high_copy(int fd) {
    Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, first_high_fd));
    if (!copy) return fail_errno("duplicate descriptor");
    return copy;
}

Result<pid_t> spawn(const std::string& program, int input, int report, int workspace, const UnpackLimits& limits) {
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, report, report_fd);
    ::posix_spawn_file_actions_adddup2(&actions, workspace, workspace_fd);
    posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    sigset_t none;
    sigset_t all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setsigdefault(&attributes, &all);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    std::string name = "wherry-unpack";
    std::string bytes = std::to_string(limits.max_bytes);
    std::string entries = std::to_string(limits.max_entries);
    std::array<char*, 4> arguments{name.data(), bytes.data(), entries.data(), nullptr};
    std::array<char*, 1> environment{nullptr};
    pid_t pid = -1;
    int error = ::posix_spawn(&pid, program.c_str(), &actions, &attributes, arguments.data(), environment.data());
    ::posix_spawnattr_destroy(&attributes);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) return fail_errno(error, "start " + program);
    return pid;
}

Result<> report_progress(const AddLayerOptions& options, std::uint64_t bytes) {
    if (!options.progress) return {};
    return options.progress(
        {.id = options.progress_id, .action = options.progress_action, .current_bytes = bytes, .total_bytes = 0});
}

// Feeds the child from a function. A child that stops listening has something to report: no error here.
Result<> relay(ByteSource& source, Fd pipe, const AddLayerOptions& options) {
    ::fcntl(pipe.get(), F_SETPIPE_SZ, static_cast<int>(relay_bytes));  // as large as allowed; smaller is only slower
    BrokenPipeGuard guard;
    std::vector<std::byte> buffer(relay_bytes);
    std::uint64_t total = 0;
    for (;;) {
        std::size_t count = TRY(source.read(buffer));
        if (count == 0) return {};
        auto written = write_all(pipe.get(), as_text(std::span(buffer).first(count)));
        if (!written && written.error().os_errno() == EPIPE) return {};
        if (!written) return written;
        std::uint64_t before = total;
        total += count;
        if (total / (4U << 20U) != before / (4U << 20U)) TRY(report_progress(options, total));
    }
}

// Lines of progress until the last line, which is returned; empty when the child ended without one.
Result<std::string> read_reports(int pipe, const AddLayerOptions& options) {
    std::string pending;
    std::array<char, 4096> buffer{};
    for (;;) {
        ssize_t count = ::read(pipe, buffer.data(), buffer.size());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return fail_errno("read report");
        if (count == 0) return std::string();
        pending.append(buffer.data(), static_cast<std::size_t>(count));
        for (std::size_t end = pending.find('\n'); end != std::string::npos; end = pending.find('\n')) {
            std::string line = pending.substr(0, end);
            pending.erase(0, end + 1);
            if (!line.starts_with("P ")) return line;
            std::uint64_t bytes = 0;
            std::from_chars(line.data() + 2, line.data() + line.size(), bytes);
            TRY(report_progress(options, bytes));
        }
        if (pending.size() > max_line_bytes) return fail(Code::internal, "wherry-unpack reported nonsense");
    }
}

}  // namespace

Result<std::string> default_unpack_program() {
    std::array<char, PATH_MAX> path{};
    ssize_t length = ::readlink("/proc/self/exe", path.data(), path.size());
    if (length <= 0) return fail_errno("find own executable");
    std::string self(path.data(), static_cast<std::size_t>(length));
    return self.substr(0, self.rfind('/')) + "/wherry-unpack";
}

Result<LayerInfo> run_unpack_program(const std::string& program, int workspace, ByteSource& source,
                                     const AddLayerOptions& options) {
    Pipe reports = TRY(make_pipe());
    Pipe input;
    bool direct = source.fd() >= 0;
    if (!direct) input = TRY(make_pipe());
    Fd child_input = TRY(high_copy(direct ? source.fd() : input.read.get()));
    Fd child_report = TRY(high_copy(reports.write.get()));
    Fd child_workspace = TRY(high_copy(workspace));
    Child child(TRY(spawn(program, child_input.get(), child_report.get(), child_workspace.get(), options.limits)));
    child_input.reset();
    child_report.reset();
    input.read.reset();
    reports.write.reset();
    if (!direct) TRY(relay(source, std::move(input.write), options));
    std::string line = TRY(read_reports(reports.read.get(), options));
    int status = child.wait();
    if (!line.empty()) return parse_report(line);
    if (WIFSIGNALED(status)) {
        return fail(Code::internal, std::string("wherry-unpack was killed by signal ") + ::strsignal(WTERMSIG(status)));
    }
    return fail(Code::internal,
                "wherry-unpack ended without a report (exit code " + std::to_string(WEXITSTATUS(status)) + ")");
}

}  // namespace wherry::image
