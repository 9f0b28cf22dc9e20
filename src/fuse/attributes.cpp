// What is known of a file, and its changes.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>

#include "fuse/file_system.hpp"

namespace wherry::fuse {

Answer<Attributes> FileSystem::attributes(std::uint64_t node, std::optional<std::uint64_t> handle) {
    if (handle) {
        // A removed file is still what its handle shows.
        if (const auto found = handles_.find(*handle, node, false)) return attributes_of((*found)->fd.get());
    }
    return attributes_of(ASK(descriptor(node)));
}

Answer<Attributes> FileSystem::change(std::uint64_t node, const Changes& changes) {
    ASK(check_writable());
    Inode* inode = ASK(inodes_->find(node));
    const int fd = ASK(inodes_->descriptor(*inode));
    if (changes.uid || changes.gid) {
        constexpr auto unchanged = static_cast<std::uint32_t>(-1);
        const std::uint32_t uid = changes.uid ? ASK(options_.uids.to_host(*changes.uid)) : unchanged;
        const std::uint32_t gid = changes.gid ? ASK(options_.gids.to_host(*changes.gid)) : unchanged;
        if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) return refuse(errno);
    }
    if (changes.mode) {
        const DescriptorName own(fd);
        if (fchmodat(own_descriptors_.get(), own.text, *changes.mode & 07777U, 0) != 0) return refuse(errno);
    }
    if (changes.size) {
        if (*changes.size > INT64_MAX) return refuse(EFBIG);
        if (!inode->is_regular()) return refuse(inode->is_directory() ? EISDIR : EINVAL);
        std::optional<WithoutSetIdRight> without;
        if (changes.kill_set_id) without.emplace(rights_);
        const auto size = static_cast<off_t>(*changes.size);
        const auto handle = changes.handle ? handles_.find(*changes.handle, node, false) : refuse(EBADF);
        if (handle) {
            if (ftruncate((*handle)->fd.get(), size) != 0) return refuse(errno);
        } else {
            const Fd file = ASK(reopen(node, O_WRONLY));
            if (ftruncate(file.get(), size) != 0) return refuse(errno);
        }
    }
    if (changes.accessed || changes.modified) {
        constexpr timespec omitted = {.tv_sec = 0, .tv_nsec = UTIME_OMIT};
        const std::array<timespec, 2> times = {changes.accessed.value_or(omitted), changes.modified.value_or(omitted)};
        if (utimensat(fd, "", times.data(), AT_EMPTY_PATH) != 0) return refuse(errno);
    }
    return attributes_of(fd);
}

// A guest that mounts with default permissions (Linux does) judges by itself and never asks.
Answer<> FileSystem::access(std::uint64_t node, std::uint32_t mask, Caller caller) {
    const Attributes attributes = ASK(attributes_of(ASK(descriptor(node))));
    if ((mask & ~std::uint32_t{R_OK | W_OK | X_OK}) != 0) return refuse(EINVAL);
    if ((mask & W_OK) != 0) ASK(check_writable());
    const bool is_executable = (attributes.stx_mode & 0111U) != 0 || S_ISDIR(attributes.stx_mode);
    if (caller.uid == 0) return (mask & X_OK) == 0 || is_executable ? Answer<>{} : refuse(EACCES);
    unsigned bits = attributes.stx_mode & 7U;
    if (caller.uid == guest_uid(attributes)) {
        bits = (attributes.stx_mode >> 6U) & 7U;
    } else if (caller.gid == guest_gid(attributes)) {
        bits = (attributes.stx_mode >> 3U) & 7U;
    }
    return (mask & ~bits) == 0 ? Answer<>{} : refuse(EACCES);
}

Answer<struct statvfs> FileSystem::statistics(std::uint64_t node) {
    struct statvfs statistics = {};
    if (fstatvfs(ASK(descriptor(node)), &statistics) != 0) return refuse(errno);
    return statistics;
}

}  // namespace wherry::fuse
