#include "base/fd.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace wherry {

namespace {

std::string parent_of(const std::string& path) {
    auto slash = path.rfind('/');
    if (slash == std::string::npos) return ".";
    if (slash == 0) return "/";
    return path.substr(0, slash);
}

std::string quoted(std::string_view verb, std::string_view path) {
    std::string text(verb);
    text += " ";
    text += path;
    return text;
}

}  // namespace

void Fd::reset(int fd) noexcept {
    if (fd_ >= 0) {
        int saved = errno;
        ::close(fd_);
        errno = saved;
    }
    fd_ = fd;
}

Result<Fd> Fd::duplicate() const {
    Fd copy(::fcntl(fd_, F_DUPFD_CLOEXEC, 0));
    if (!copy) return fail_errno("duplicate descriptor");
    return copy;
}

Result<Pipe> make_pipe(int flags) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), flags | O_CLOEXEC) < 0) return fail_errno("pipe");
    return Pipe{Fd(ends[0]), Fd(ends[1])};
}

Result<std::pair<Fd, Fd>> make_socket_pair(int type) {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()) < 0) return fail_errno("socketpair");
    return std::pair<Fd, Fd>(Fd(ends[0]), Fd(ends[1]));
}

Result<Fd> open_at(int directory, const std::string& path, int flags, mode_t mode) {
    int fd = -1;
    do {
        fd = ::openat(directory, path.c_str(), flags | O_CLOEXEC, mode);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) return fail_errno(quoted("open", path));
    return Fd(fd);
}

Result<Fd> open_file(const std::string& path, int flags, mode_t mode) {
    return open_at(AT_FDCWD, path, flags, mode);
}

Result<Fd> open_in_root(int root, const std::string& path, int flags, mode_t mode) {
    open_how how{};
    how.flags = static_cast<unsigned>(flags | O_CLOEXEC);
    if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) how.mode = mode;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    // The kernel answers EAGAIN when a rename elsewhere raced with "..": openat2(2) says to try again.
    for (int attempt = 0; attempt < 128; ++attempt) {
        long fd = ::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how);
        if (fd >= 0) return Fd(static_cast<int>(fd));
        if (errno != EAGAIN && errno != EINTR) break;
    }
    return fail_errno(quoted("open below root", path));
}

Result<> write_all(int fd, std::string_view data) {
    while (!data.empty()) {
        ssize_t written = ::write(fd, data.data(), data.size());
        if (written < 0) {
            if (errno == EINTR) continue;
            return fail_errno("write");
        }
        data.remove_prefix(static_cast<std::size_t>(written));
    }
    return {};
}

Result<> read_exact(int fd, std::span<std::byte> buffer) {
    while (!buffer.empty()) {
        ssize_t got = ::read(fd, buffer.data(), buffer.size());
        if (got < 0) {
            if (errno == EINTR) continue;
            return fail_errno("read");
        }
        if (got == 0) return fail(Code::data_loss, "unexpected end of file");
        buffer = buffer.subspan(static_cast<std::size_t>(got));
    }
    return {};
}

Result<std::string> read_to_end(int fd, std::size_t limit) {
    std::string data;
    std::size_t used = 0;
    while (true) {
        if (used == data.size()) data.resize(data.empty() ? 4096 : data.size() * 2);
        ssize_t got = ::read(fd, data.data() + used, data.size() - used);
        if (got < 0) {
            if (errno == EINTR) continue;
            return fail_errno("read");
        }
        if (got == 0) break;
        used += static_cast<std::size_t>(got);
        if (used > limit)
            return fail(Code::resource_exhausted, "file is larger than " + std::to_string(limit) + " bytes");
    }
    data.resize(used);
    return data;
}

Result<std::string> read_file_at(int directory, const std::string& path, std::size_t limit) {
    Fd file = TRY(open_at(directory, path, O_RDONLY));
    return read_to_end(file.get(), limit);
}

Result<std::string> read_file(const std::string& path, std::size_t limit) {
    return read_file_at(AT_FDCWD, path, limit);
}

Result<> write_control_file_at(int directory, const std::string& path, std::string_view value) {
    Fd file = TRY(open_at(directory, path, O_WRONLY | O_TRUNC));
    // One write: control files take the whole value at once or not at all.
    ssize_t written = -1;
    do {
        written = ::write(file.get(), value.data(), value.size());
    } while (written < 0 && errno == EINTR);
    if (written < 0) return fail_errno(quoted("write", path));
    return {};
}

Result<> write_control_file(const std::string& path, std::string_view value) {
    return write_control_file_at(AT_FDCWD, path, value);
}

Result<> write_file_atomic(const std::string& path, std::string_view data, mode_t mode, Durability durability) {
    std::string temporary = path + ".tmp-XXXXXX";
    int raw = ::mkostemp(temporary.data(), O_CLOEXEC);
    if (raw < 0) return fail_errno(quoted("create", temporary));
    Fd file(raw);
    auto attempt = [&]() -> Result<> {
        TRY(write_all(file.get(), data));
        if (::fchmod(file.get(), mode) < 0) return fail_errno("chmod");
        if (durability == Durability::data && ::fdatasync(file.get()) < 0) return fail_errno("fdatasync");
        if (::rename(temporary.c_str(), path.c_str()) < 0) return fail_errno("rename");
        return {};
    };
    if (auto result = attempt(); !result) {
        ::unlink(temporary.c_str());
        return std::unexpected(std::move(result).error().context(quoted("write", path)));
    }
    if (durability == Durability::data) {
        Fd folder = TRY(open_file(parent_of(path), O_RDONLY | O_DIRECTORY));
        if (::fsync(folder.get()) < 0) return fail_errno(quoted("fsync folder of", path));
    }
    return {};
}

Result<> make_directories(const std::string& path, mode_t mode) {
    if (::mkdir(path.c_str(), mode) == 0) return {};
    if (errno == EEXIST) {
        struct stat info{};
        if (::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return {};
        return fail_errno(ENOTDIR, quoted("mkdir", path));
    }
    if (errno != ENOENT) return fail_errno(quoted("mkdir", path));
    std::string parent = parent_of(path);
    if (parent == path || parent == ".") return fail_errno(ENOENT, quoted("mkdir", path));
    TRY(make_directories(parent, mode));
    if (::mkdir(path.c_str(), mode) < 0 && errno != EEXIST) return fail_errno(quoted("mkdir", path));
    return {};
}

namespace {

Result<> remove_at(int directory, const char* name, dev_t device) {
    if (::unlinkat(directory, name, 0) == 0 || errno == ENOENT) return {};
    if (errno != EISDIR && errno != EPERM) return fail_errno(quoted("remove", name));
    int raw = ::openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (raw < 0) {
        if (errno == ENOENT) return {};
        return fail_errno(quoted("remove", name));
    }
    struct stat info{};
    if (::fstat(raw, &info) < 0 || info.st_dev != device) {
        ::close(raw);
        return fail_errno(EBUSY, quoted("remove: a mount point is in the way:", name));
    }
    DIR* stream = ::fdopendir(raw);
    if (stream == nullptr) {
        int saved = errno;
        ::close(raw);
        return fail_errno(saved, quoted("read folder", name));
    }
    Result<> outcome{};
    while (const dirent* entry = ::readdir(stream)) {
        std::string_view child = entry->d_name;
        if (child == "." || child == "..") continue;
        outcome = remove_at(raw, entry->d_name, device);
        if (!outcome) break;
    }
    ::closedir(stream);
    if (!outcome) return std::unexpected(std::move(outcome).error().context(quoted("remove", name)));
    if (::unlinkat(directory, name, AT_REMOVEDIR) < 0 && errno != ENOENT) return fail_errno(quoted("remove", name));
    return {};
}

}  // namespace

Result<> remove_tree(const std::string& path) {
    struct stat info{};
    if (::lstat(path.c_str(), &info) < 0) {
        if (errno == ENOENT) return {};
        return fail_errno(quoted("remove", path));
    }
    return remove_at(AT_FDCWD, path.c_str(), info.st_dev);
}

bool path_exists(const std::string& path) {
    return ::faccessat(AT_FDCWD, path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

Result<> set_nonblocking(int fd) {
    int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) return fail_errno("set non-blocking");
    return {};
}

namespace {
constexpr std::size_t max_fds = 16;
}

Result<> send_with_fds(int socket, std::string_view data, std::span<const int> fds) {
    if (fds.size() > max_fds) return fail(Code::invalid_argument, "too many descriptors in one message");
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * max_fds)> control{};
    iovec vector{const_cast<char*>(data.data()), data.size()};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
        message.msg_control = control.data();
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
        std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
    }
    ssize_t sent = -1;
    do {
        sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) return fail_errno("sendmsg");
    // The descriptors went with the first byte; the rest is plain data.
    return write_all(socket, data.substr(static_cast<std::size_t>(sent)));
}

Result<Received> receive_with_fds(int socket, std::span<std::byte> buffer) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * max_fds)> control{};
    iovec vector{buffer.data(), buffer.size()};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    ssize_t got = -1;
    do {
        got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return fail_errno("recvmsg");
    Received received;
    received.bytes = static_cast<std::size_t>(got);
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
            received.fds.emplace_back(fd);
        }
    }
    if ((message.msg_flags & MSG_CTRUNC) != 0)
        return fail(Code::resource_exhausted, "too many descriptors in one message");
    return received;
}

namespace {

// A sockaddr_un for path; when it is too long, by way of a descriptor of its folder kept open in `folder`.
Result<sockaddr_un> unix_address(const std::string& path, Fd& folder) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::string name = path;
    if (name.size() >= sizeof address.sun_path) {
        folder = TRY(open_file(parent_of(path), O_PATH | O_DIRECTORY));
        name = "/proc/self/fd/" + std::to_string(folder.get()) + path.substr(path.rfind('/'));
        if (name.size() >= sizeof address.sun_path) return fail_errno(ENAMETOOLONG, quoted("socket", path));
    }
    std::memcpy(address.sun_path, name.data(), name.size());
    return address;
}

}  // namespace

Result<Fd> connect_unix(const std::string& path, int extra_type_flags) {
    Fd folder;
    sockaddr_un address = TRY(unix_address(path, folder));
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | extra_type_flags, 0));
    if (!socket) return fail_errno("socket");
    // SAFETY: the sockets API takes every address family through sockaddr.
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        return fail_errno(quoted("connect to", path));
    return socket;
}

Result<Fd> listen_unix(const std::string& path, mode_t mode, int backlog) {
    Fd folder;
    sockaddr_un address = TRY(unix_address(path, folder));
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return fail_errno("socket");
    struct stat info{};
    if (::lstat(path.c_str(), &info) == 0) {
        if (!S_ISSOCK(info.st_mode)) return fail(Code::already_exists, quoted("not a socket, and in the way:", path));
        if (::unlink(path.c_str()) < 0) return fail_errno(quoted("remove stale socket", path));
    }
    // The mode is set before anybody can connect: a bound socket refuses until listen().
    // SAFETY: as above.
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        return fail_errno(quoted("bind", path));
    if (::chmod(path.c_str(), mode) < 0) return fail_errno(quoted("chmod", path));
    if (::listen(socket.get(), backlog) < 0) return fail_errno(quoted("listen on", path));
    return socket;
}

}  // namespace wherry
