// Open files: content, space, locks.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "fuse/file_system.hpp"

namespace wherry::fuse {
namespace {

bool has_set_id_bits(int fd) {
    struct stat status = {};
    return fstat(fd, &status) == 0 && (status.st_mode & (S_ISUID | S_ISGID)) != 0;
}

// Offsets of files are signed on the host.
Answer<> check_range(std::uint64_t offset, std::uint64_t bytes) {
    if (offset > INT64_MAX || bytes > INT64_MAX - offset) return refuse(EINVAL);
    return {};
}

}  // namespace

Answer<Opened> FileSystem::open(std::uint64_t node, std::uint32_t flags, bool kill_set_id) {
    const std::uint32_t mode = flags & O_ACCMODE;
    if (mode != O_RDONLY || (flags & O_TRUNC) != 0) ASK(check_writable());
    Inode* inode = ASK(inodes_->find(node));
    if (inode->is_directory()) return refuse(EISDIR);
    if (!inode->is_regular()) return refuse(EPERM);
    if (handles_.full()) return refuse(ENFILE);
    // O_DIRECT is about the guest's cache, not the host's.
    const std::uint32_t kept = flags & (O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC | O_NOATIME);
    std::optional<WithoutSetIdRight> without;
    if (kill_set_id && (flags & O_TRUNC) != 0) without.emplace(rights_);
    Fd fd = ASK(reopen(node, static_cast<int>(kept)));
    return add_handle(*inode, std::move(fd));
}

Answer<std::size_t> FileSystem::read(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::size_t bytes,
                                     Message& message, std::uint64_t reply_offset) {
    const Handle* file = ASK(handles_.find(handle, node, false));
    ASK(check_range(offset, bytes));
    return message.read_file(file->fd.get(), offset, reply_offset, bytes);
}

Answer<std::size_t> FileSystem::write(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::size_t bytes,
                                      Message& message, std::uint64_t request_offset, bool kill_set_id) {
    ASK(check_writable());
    const Handle* file = ASK(handles_.find(handle, node, false));
    ASK(check_range(offset, bytes));
    std::optional<WithoutSetIdRight> without;
    if (kill_set_id && has_set_id_bits(file->fd.get())) without.emplace(rights_);
    return message.write_file(file->fd.get(), offset, request_offset, bytes);
}

Answer<> FileSystem::flush(std::uint64_t node, std::uint64_t handle, std::uint64_t lock_owner) {
    const Handle* file = ASK(handles_.find(handle, node, false));
    locks_->release(node, lock_owner);
    // What a close would complain of (a full network file system) is to be heard by this one.
    const int copy = fcntl(file->fd.get(), F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return refuse(errno);
    if (close(copy) != 0 && errno != EINTR) return refuse(errno);
    return {};
}

Answer<> FileSystem::release(std::uint64_t node, std::uint64_t handle, bool is_directory) {
    ASK(handles_.find(handle, node, is_directory));
    handles_.remove(handle);
    if (const auto inode = inodes_->find(node); inode && (*inode)->open_handles <= 1) locks_->release_all(node);
    inodes_->released(node);
    return {};
}

Answer<> FileSystem::sync(std::uint64_t node, std::uint64_t handle, bool is_directory, bool data_only) {
    const Handle* open = ASK(handles_.find(handle, node, is_directory));
    if ((data_only ? fdatasync(open->fd.get()) : fsync(open->fd.get())) != 0) return refuse(errno);
    return {};
}

Answer<> FileSystem::sync_all() {
    if (syncfs(root_.get()) != 0) return refuse(errno);
    return {};
}

Answer<> FileSystem::allocate(std::uint64_t node, std::uint64_t handle, std::uint32_t mode, std::uint64_t offset,
                              std::uint64_t bytes) {
    ASK(check_writable());
    const Handle* file = ASK(handles_.find(handle, node, false));
    ASK(check_range(offset, bytes));
    constexpr std::uint32_t known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
    if ((mode & ~known) != 0) return refuse(EOPNOTSUPP);
    if (fallocate(file->fd.get(), static_cast<int>(mode), static_cast<off_t>(offset), static_cast<off_t>(bytes)) != 0)
        return refuse(errno);
    return {};
}

Answer<std::uint64_t> FileSystem::seek(std::uint64_t node, std::uint64_t handle, std::uint64_t offset,
                                       std::uint32_t whence) {
    const Handle* file = ASK(handles_.find(handle, node, false));
    if (offset > INT64_MAX) return refuse(EINVAL);
    // The others are the guest's to work out.
    if (whence != SEEK_DATA && whence != SEEK_HOLE) return refuse(EINVAL);
    const off_t found = lseek(file->fd.get(), static_cast<off_t>(offset), static_cast<int>(whence));
    if (found < 0) return refuse(errno);
    return static_cast<std::uint64_t>(found);
}

Answer<std::size_t> FileSystem::copy(std::uint64_t node, std::uint64_t handle, std::uint64_t offset,
                                     std::uint64_t to_node, std::uint64_t to_handle, std::uint64_t to_offset,
                                     std::size_t bytes) {
    ASK(check_writable());
    const Handle* from = ASK(handles_.find(handle, node, false));
    const Handle* to = ASK(handles_.find(to_handle, to_node, false));
    ASK(check_range(offset, bytes));
    ASK(check_range(to_offset, bytes));
    auto from_at = static_cast<off64_t>(offset);
    auto to_at = static_cast<off64_t>(to_offset);
    // A part at a time: the other requests wait for this one.
    constexpr std::size_t largest = 16U << 20U;
    const ssize_t done =
        copy_file_range(from->fd.get(), &from_at, to->fd.get(), &to_at, std::min<std::size_t>(bytes, largest), 0);
    if (done < 0) return refuse(errno);
    return static_cast<std::size_t>(done);
}

Locks::Opener FileSystem::lock_opener(int handle) const {
    // With as much right as there is: a lock to write needs a descriptor that writes.
    return [this, handle]() -> Answer<Fd> {
        if (!options_.is_read_only) {
            auto both = reopen_descriptor(handle, O_RDWR);
            if (both) return both;
        }
        const int flags = fcntl(handle, F_GETFL);
        if (flags < 0) return refuse(errno);
        return reopen_descriptor(handle, flags & O_ACCMODE);
    };
}

Answer<struct flock> FileSystem::test_lock(std::uint64_t node, std::uint64_t handle, std::uint64_t owner,
                                           struct flock lock) {
    const Handle* file = ASK(handles_.find(handle, node, false));
    return locks_->test(node, owner, lock, lock_opener(file->fd.get()));
}

Answer<bool> FileSystem::set_lock(std::uint64_t node, std::uint64_t handle, std::uint64_t owner, struct flock lock,
                                  bool is_flock, bool wait, std::uint64_t request, Locks::Completion done) {
    const Handle* file = ASK(handles_.find(handle, node, false));
    const int fd = file->fd.get();
    if (is_flock) {
        int operation = LOCK_UN;
        if (lock.l_type == F_RDLCK) operation = LOCK_SH;
        if (lock.l_type == F_WRLCK) operation = LOCK_EX;
        if (wait) return locks_->flock_waiting(fd, operation, request, std::move(done));
        ASK(Locks::flock_now(fd, operation));
        return false;
    }
    if (wait) return locks_->set_waiting(node, owner, lock, lock_opener(fd), request, std::move(done));
    ASK(locks_->set(node, owner, lock, lock_opener(fd)));
    return false;
}

}  // namespace wherry::fuse
