#include "supervisor/client/spawn.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <csignal>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/log.hpp"
#include "oci/container.hpp"

namespace wherry::supervisor {

namespace {

constexpr int control_fd_number = 3;

// Descriptors of protected shim binaries by path: made once, and again when the file on disk has been replaced.
class BinaryCache {
  public:
    // A duplicate, to be executed as /proc/self/fd/<n>.
    Result<Fd> get(const std::string& path) {
        struct stat info{};
        if (::stat(path.c_str(), &info) < 0) return fail_errno("shim " + path);
        std::scoped_lock lock(mutex_);
        Entry& entry = entries_[path];
        bool same = entry.fd && entry.device == info.st_dev && entry.inode == info.st_ino &&
                    entry.changed.tv_sec == info.st_ctim.tv_sec && entry.changed.tv_nsec == info.st_ctim.tv_nsec;
        if (!same) {
            entry.fd = TRY(oci::open_protected_binary(path));
            entry.device = info.st_dev;
            entry.inode = info.st_ino;
            entry.changed = info.st_ctim;
        }
        return entry.fd.duplicate();
    }

  private:
    struct Entry {
        Fd fd;
        dev_t device = 0;
        ino_t inode = 0;
        timespec changed{};
    };
    std::mutex mutex_;
    std::map<std::string, Entry> entries_;
};

BinaryCache& binaries() {
    static BinaryCache cache;
    return cache;
}

class SpawnActions {
  public:
    SpawnActions() {
        ::posix_spawn_file_actions_init(&actions_);
        ::posix_spawnattr_init(&attributes_);
    }
    ~SpawnActions() {
        ::posix_spawn_file_actions_destroy(&actions_);
        ::posix_spawnattr_destroy(&attributes_);
    }
    SpawnActions(const SpawnActions&) = delete;
    SpawnActions& operator=(const SpawnActions&) = delete;

    Result<pid_t> spawn(const std::string& path, const SpawnOptions& options, int control) {
        const char* messages = options.log_path.empty() ? "/dev/null" : options.log_path.c_str();
        ::posix_spawn_file_actions_addopen(&actions_, 0, "/dev/null", O_RDONLY, 0);
        ::posix_spawn_file_actions_addopen(&actions_, 1, "/dev/null", O_WRONLY, 0);
        ::posix_spawn_file_actions_addopen(&actions_, 2, messages, O_WRONLY | O_CREAT | O_APPEND, 0640);
        ::posix_spawn_file_actions_adddup2(&actions_, control, control_fd_number);
        sigset_t none;
        sigset_t all;
        sigemptyset(&none);
        sigfillset(&all);
        ::posix_spawnattr_setsigmask(&attributes_, &none);
        ::posix_spawnattr_setsigdefault(&attributes_, &all);
        ::posix_spawnattr_setflags(
            &attributes_, static_cast<short>(POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF));
        std::string name = "wherry-shim";
        std::string control_option = "--control-fd";
        std::string control_value = std::to_string(control_fd_number);
        std::string sandbox_option = "--sandbox-id";
        std::string sandbox_value = options.sandbox_id;
        std::string directory_option = "--directory";
        std::string directory_value = options.directory;
        std::array<char*, 8> arguments{
            name.data(),          control_option.data(),   control_value.data(),   sandbox_option.data(),
            sandbox_value.data(), directory_option.data(), directory_value.data(), nullptr};
        std::array<char*, 1> environment{nullptr};
        pid_t pid = -1;
        int failed = ::posix_spawn(&pid, path.c_str(), &actions_, &attributes_, arguments.data(), environment.data());
        if (failed != 0) return fail_errno(failed, "start " + options.binary);
        return pid;
    }

  private:
    posix_spawn_file_actions_t actions_{};
    posix_spawnattr_t attributes_{};
};

// Waits for the shim's end without a thread or a signal handler.
void reap_when_ended(const asio::any_io_executor& executor, pid_t pid) {
    int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    if (pidfd < 0) {
        log_warn("shim.not_reaped", {{"pid", pid}});
        return;
    }
    auto descriptor = std::make_shared<asio::posix::stream_descriptor>(executor, pidfd);
    descriptor->async_wait(
        asio::posix::stream_descriptor::wait_read, [descriptor](const boost::system::error_code& error) {
            if (error) return;
            siginfo_t info{};
            ::waitid(P_PIDFD, static_cast<id_t>(descriptor->native_handle()), &info, WEXITED | WNOHANG);
        });
}

}  // namespace

Result<Fd> spawn_shim(const asio::any_io_executor& executor, const SpawnOptions& options) {
    Fd binary = TRY(binaries().get(options.binary));
    auto [ours, theirs] = TRY(make_socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
    SpawnActions actions;
    pid_t pid = TRY(actions.spawn("/proc/self/fd/" + std::to_string(binary.get()), options, theirs.get()));
    reap_when_ended(executor, pid);
    return std::move(ours);
}

}  // namespace wherry::supervisor
