#include "fuse/file_system.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

namespace wherry::fuse {

DescriptorName::DescriptorName(int fd) {
    *std::to_chars(text, text + sizeof text - 1, fd).ptr = '\0';
}

Result<std::unique_ptr<FileSystem>> FileSystem::create(Fd root, Fd own_descriptors, FileSystemOptions options) {
    // A few stay for the sockets, queues and memory of whoever carries the requests.
    constexpr std::size_t reserved = 64, fewest = 192;
    if (options.descriptors < fewest) return fail(Code::resource_exhausted, "at least 192 descriptors are needed");
    const std::size_t shared = options.descriptors - reserved;
    const InodeTable::Limits nodes = {.nodes = options.nodes, .open = shared / 4, .first_number = options.first_number};
    // A lock that waits takes a descriptor beside its owner's.
    const Locks::Limits locks = {.owners = shared / 8, .waiting = std::min<std::size_t>(shared / 8, 64)};
    std::unique_ptr<FileSystem> system(
        // An open file keeps its node open, too.
        new FileSystem(std::move(options), Rights::of_this_process(), shared / 4));
    system->own_descriptors_ = std::move(own_descriptors);
    auto readable = system->reopen_descriptor(root.get(), O_RDONLY | O_DIRECTORY);
    if (!readable) return fail_errno(readable.error().value, "shared directory");
    system->root_ = std::move(*readable);
    auto table = InodeTable::create(std::move(root), nodes);
    if (!table) return fail_errno(table.error().value, "shared directory");
    system->inodes_ = std::move(*table);
    system->locks_ = TRY(Locks::create(locks));
    return system;
}

void FileSystem::clear() {
    locks_->clear();
    handles_.clear();
    inodes_->clear();
}

Answer<> FileSystem::check_writable() const {
    if (options_.is_read_only) return refuse(EROFS);
    return {};
}

Answer<int> FileSystem::descriptor(std::uint64_t node) {
    return inodes_->descriptor(*ASK(inodes_->find(node)));
}

Answer<int> FileSystem::directory(std::uint64_t node) {
    Inode* inode = ASK(inodes_->find(node));
    if (!inode->is_directory()) return refuse(ENOTDIR);
    return inodes_->descriptor(*inode);
}

Answer<Fd> FileSystem::reopen_descriptor(int fd, int flags) const {
    const DescriptorName name(fd);
    Fd opened(openat(own_descriptors_.get(), name.text, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    if (!opened) return refuse(errno);
    return opened;
}

Answer<Fd> FileSystem::reopen(std::uint64_t node, int flags) {
    Inode* inode = ASK(inodes_->find(node));
    // Devices, pipes and sockets are the guest's own business: its kernel never asks for them.
    if (!inode->is_regular() && !inode->is_directory()) return refuse(EPERM);
    return reopen_descriptor(ASK(inodes_->descriptor(*inode)), flags);
}

Answer<Opened> FileSystem::add_handle(Inode& inode, Fd fd) {
    Handle handle;
    handle.node = inode.id;
    handle.fd = std::move(fd);
    handle.is_directory = inode.is_directory();
    const Opened opened = {.handle = ASK(handles_.add(std::move(handle))), .is_directory = inode.is_directory()};
    ++inode.open_handles;
    return opened;
}

Answer<std::pair<std::uint32_t, std::uint32_t>> FileSystem::host_ids(Caller caller) const {
    const std::uint32_t uid = ASK(options_.uids.to_host(caller.uid));
    const std::uint32_t gid = ASK(options_.gids.to_host(caller.gid));
    return std::pair{uid, gid};
}

}  // namespace wherry::fuse
