#include "checkpoint/criu.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "confine/process_attributes.hpp"

namespace wherry::checkpoint {

namespace {

// A log of everything (-v4) is large; what went wrong stands at its end.
constexpr off_t log_tail_bytes = 256 << 10;

Result<std::string> tail_of(const std::string& path) {
    Fd file = TRY(open_file(path, O_RDONLY));
    struct stat info{};
    if (::fstat(file.get(), &info) < 0) return fail_errno(path);
    if (info.st_size > log_tail_bytes && ::lseek(file.get(), -log_tail_bytes, SEEK_END) < 0) return fail_errno(path);
    return read_to_end(file.get(), 2 * static_cast<std::size_t>(log_tail_bytes));
}

// The last lines of the log that name an error.
std::string errors_of(const std::string& log) {
    auto text = tail_of(log);
    if (!text) return {};
    std::vector<std::string> errors;
    std::size_t at = 0;
    while (at < text->size()) {
        std::size_t end = std::min(text->find('\n', at), text->size());
        std::string line = text->substr(at, end - at);
        if (line.find("Error") != std::string::npos) errors.push_back(std::move(line));
        at = end + 1;
    }
    std::string all;
    for (std::size_t i = errors.size() > 3 ? errors.size() - 3 : 0; i < errors.size(); ++i) all += ": " + errors[i];
    return all;
}

}  // namespace

Result<std::string> find_criu() {
    for (const char* path : {"/usr/sbin/criu", "/usr/local/sbin/criu", "/usr/bin/criu", "/usr/local/bin/criu"}) {
        if (::access(path, X_OK) == 0) return std::string(path);
    }
    return fail(Code::unavailable,
                "checkpoint and restore need CRIU, which is not installed (no criu in /usr/sbin or /usr/bin)");
}

Result<CriuProcess> CriuProcess::start(const CriuRun& run) {
    std::string program = TRY(find_criu());
    std::vector<std::string> words{"criu"};
    words.insert(words.end(), run.arguments.begin(), run.arguments.end());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    int highest = 2;
    for (const auto& [ours, number] : run.descriptors) highest = std::max(highest, number);
    Pipe problem = TRY(make_pipe());
    pid_t child = ::fork();
    if (child < 0) return fail_errno("fork");
    if (child == 0) {
        // SAFETY: after fork of a single-threaded process: system calls only, then execve.
        // Above the numbers that are given away.
        int teller = ::fcntl(problem.write.get(), F_DUPFD_CLOEXEC, highest + 1);
        auto give_up = [teller](int error) {
            [[maybe_unused]] ssize_t told = ::write(teller, &error, sizeof error);
            ::_exit(127);
        };
        if (run.resctrl) {
            if (auto entered = run.resctrl->enter(); !entered) give_up(entered.error().os_errno());
        }
        if (run.dies_with_parent) ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!run.root_mount.empty() &&
            (::unshare(CLONE_NEWNS) < 0 || ::mount(nullptr, "/", nullptr, MS_SLAVE | MS_REC, nullptr) < 0 ||
             ::mount(run.root_source.c_str(), run.root_mount.c_str(), nullptr, MS_BIND | MS_REC, nullptr) < 0 ||
             ::mount(nullptr, run.root_mount.c_str(), nullptr, MS_PRIVATE | MS_REC, nullptr) < 0))
            give_up(errno);
        std::vector<int> copies;
        for (const auto& [ours, number] : run.descriptors) {
            int copy = ::fcntl(ours, F_DUPFD_CLOEXEC, highest + 1);
            if (copy < 0) give_up(errno);
            copies.push_back(copy);
        }
        for (std::size_t i = 0; i < copies.size(); ++i) {
            if (::dup3(copies[i], run.descriptors[i].second, 0) < 0) give_up(errno);
        }
        confine::post_fork::close_on_exec_from(static_cast<unsigned>(highest) + 1);
        ::execve(program.c_str(), arguments.data(), ::environ);
        give_up(errno);
    }
    return CriuProcess(child, run.log, std::move(problem.read));
}

Result<> CriuProcess::ended(int wait_status) const {
    // It has ended, so the other end is closed: this does not block.
    int error = 0;
    ssize_t got = 0;
    while ((got = ::read(problem_.get(), &error, sizeof error)) < 0 && errno == EINTR) {
    }
    if (got == sizeof error) return fail_errno(error, "criu");
    if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0) return {};
    return fail(Code::conflict, "criu failed (its log: " + log_ + ")" + errors_of(log_));
}

Result<> run_criu(const CriuRun& run) {
    CriuProcess process = TRY(CriuProcess::start(run));
    int wait_status = 0;
    while (::waitpid(process.pid(), &wait_status, 0) < 0 && errno == EINTR) {
    }
    return process.ended(wait_status);
}

}  // namespace wherry::checkpoint
