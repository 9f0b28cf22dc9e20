// Owned file descriptors and the few whole-file operations everything needs. Every descriptor made here is
// close-on-exec. Nothing here blocks beyond what the file itself does.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace wherry {

// Owns one descriptor; -1 is empty. Closing keeps errno.
class Fd {
  public:
    Fd() = default;
    explicit Fd(int fd) noexcept : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        if (this != &other) reset(std::exchange(other.fd_, -1));
        return *this;
    }
    Fd(const Fd&) = delete;
    Fd& operator=(const Fd&) = delete;
    ~Fd() { reset(); }

    int get() const noexcept { return fd_; }
    explicit operator bool() const noexcept { return fd_ >= 0; }
    int release() noexcept { return std::exchange(fd_, -1); }
    void reset(int fd = -1) noexcept;
    Result<Fd> duplicate() const;  // F_DUPFD_CLOEXEC

  private:
    int fd_ = -1;
};

struct Pipe {
    Fd read;
    Fd write;
};

Result<Pipe> make_pipe(int flags = 0);                 // pipe2 with O_CLOEXEC added
Result<std::pair<Fd, Fd>> make_socket_pair(int type);  // AF_UNIX; SOCK_CLOEXEC added

Result<Fd> open_file(const std::string& path, int flags, mode_t mode = 0);  // O_CLOEXEC added
Result<Fd> open_at(int directory, const std::string& path, int flags, mode_t mode = 0);
// Opens path below the directory `root`, resolving symlinks and ".." as if root were / (openat2
// RESOLVE_IN_ROOT); never leaves it, whatever the tree contains. Magic links are refused.
Result<Fd> open_in_root(int root, const std::string& path, int flags, mode_t mode = 0);

// All of `data`, retrying short writes and EINTR.
Result<> write_all(int fd, std::string_view data);
// Exactly buffer.size() bytes; data_loss at an early end.
Result<> read_exact(int fd, std::span<std::byte> buffer);
// To the end, at most `limit` bytes (resource_exhausted beyond).
Result<std::string> read_to_end(int fd, std::size_t limit = 64U << 20U);
Result<std::string> read_file(const std::string& path, std::size_t limit = 64U << 20U);
Result<std::string> read_file_at(int directory, const std::string& path, std::size_t limit = 64U << 20U);

// Overwrites an existing file in one write (a control file in /proc, /sys or a cgroup).
Result<> write_control_file(const std::string& path, std::string_view value);
Result<> write_control_file_at(int directory, const std::string& path, std::string_view value);

enum class Durability { none, data };  // data: fdatasync of the file and fsync of its folder
// Replaces path by way of a temporary file and rename: a reader sees the old or the new content, never half.
Result<> write_file_atomic(const std::string& path, std::string_view data, mode_t mode, Durability durability);

Result<> make_directories(const std::string& path, mode_t mode);  // mkdir -p
// rm -r by descriptor; never follows symlinks, never crosses into another file system's mount. Missing is fine.
Result<> remove_tree(const std::string& path);
bool path_exists(const std::string& path);

Result<> set_nonblocking(int fd);

// One message with descriptors (SCM_RIGHTS) over a unix socket.
Result<> send_with_fds(int socket, std::string_view data, std::span<const int> fds);
struct Received {
    std::size_t bytes = 0;  // 0: end of stream
    std::vector<Fd> fds;
};
// At most buffer.size() bytes and 16 descriptors, received close-on-exec. unavailable with EAGAIN when there is none.
Result<Received> receive_with_fds(int socket, std::span<std::byte> buffer);

// unix(7) stream sockets in the file system; paths over 107 bytes go through /proc/self/fd.
Result<Fd> connect_unix(const std::string& path, int extra_type_flags = 0);
Result<Fd> listen_unix(const std::string& path, mode_t mode, int backlog = 128);  // replaces a stale socket file

}  // namespace wherry
