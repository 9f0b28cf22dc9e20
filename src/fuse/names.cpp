// Entries of directories: found, made, moved, removed.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>

#include "fuse/file_system.hpp"

namespace wherry::fuse {
namespace {

constexpr std::uint32_t permission_bits = 07777;

}  // namespace

Answer<Entry> FileSystem::look_up(std::uint64_t parent, const std::string& name) {
    ASK(check_name(name));
    return enter(parent, name);
}

Answer<Entry> FileSystem::enter(std::uint64_t parent, const std::string& name) {
    Inode* folder = ASK(inodes_->find(parent));
    if (!folder->is_directory()) return refuse(ENOTDIR);
    Entry entry;
    entry.node = ASK(inodes_->look_up(*folder, name, entry.attributes))->id;
    return entry;
}

Answer<Entry> FileSystem::make_directory(std::uint64_t parent, const std::string& name, std::uint32_t mode,
                                         Caller caller) {
    ASK(check_writable());
    ASK(check_name(name));
    const int folder = ASK(directory(parent));
    const auto [uid, gid] = ASK(host_ids(caller));
    {
        const ActingAs acting(rights_, uid, gid);
        if (mkdirat(folder, name.c_str(), mode & permission_bits) != 0) return refuse(errno);
    }
    return enter(parent, name);
}

Answer<Entry> FileSystem::make_node(std::uint64_t parent, const std::string& name, std::uint32_t mode,
                                    std::uint32_t device, Caller caller) {
    ASK(check_writable());
    ASK(check_name(name));
    const int folder = ASK(directory(parent));
    const auto [uid, gid] = ASK(host_ids(caller));
    const bool is_whiteout = S_ISCHR(mode) && device == 0;  // of overlayfs: means nothing to the host
    // A device's file in a shared folder would be a way to the host's devices.
    if ((S_ISCHR(mode) || S_ISBLK(mode)) && !is_whiteout) return refuse(EPERM);
    if (!S_ISREG(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode) && !is_whiteout) return refuse(EINVAL);
    {
        const ActingAs acting(rights_, uid, gid);
        if (mknodat(folder, name.c_str(), mode & (S_IFMT | permission_bits), 0) != 0) return refuse(errno);
    }
    return enter(parent, name);
}

Answer<Entry> FileSystem::make_symlink(std::uint64_t parent, const std::string& name, const std::string& target,
                                       Caller caller) {
    ASK(check_writable());
    ASK(check_name(name));
    if (target.empty()) return refuse(ENOENT);
    if (target.size() >= PATH_MAX) return refuse(ENAMETOOLONG);
    const int folder = ASK(directory(parent));
    const auto [uid, gid] = ASK(host_ids(caller));
    {
        const ActingAs acting(rights_, uid, gid);
        if (symlinkat(target.c_str(), folder, name.c_str()) != 0) return refuse(errno);
    }
    return enter(parent, name);
}

Answer<Entry> FileSystem::link(std::uint64_t node, std::uint64_t parent, const std::string& name) {
    ASK(check_writable());
    ASK(check_name(name));
    Inode* inode = ASK(inodes_->find(node));
    if (inode->is_directory()) return refuse(EPERM);
    const int folder = ASK(directory(parent));
    const DescriptorName own(ASK(inodes_->descriptor(*inode)));
    // The link of /proc/self/fd is followed to the very file, be it a symbolic link itself.
    if (linkat(own_descriptors_.get(), own.text, folder, name.c_str(), AT_SYMLINK_FOLLOW) != 0) return refuse(errno);
    return enter(parent, name);
}

Answer<> FileSystem::unlink(std::uint64_t parent, const std::string& name, bool is_directory) {
    ASK(check_writable());
    ASK(check_name(name));
    if (unlinkat(ASK(directory(parent)), name.c_str(), is_directory ? AT_REMOVEDIR : 0) != 0) return refuse(errno);
    return {};
}

Answer<> FileSystem::rename(std::uint64_t parent, const std::string& name, std::uint64_t new_parent,
                            const std::string& new_name, std::uint32_t flags) {
    ASK(check_writable());
    ASK(check_name(name));
    ASK(check_name(new_name));
    if ((flags & ~std::uint32_t{RENAME_NOREPLACE | RENAME_EXCHANGE}) != 0) return refuse(EINVAL);
    const int from = ASK(directory(parent));
    const int to = ASK(directory(new_parent));
    if (renameat2(from, name.c_str(), to, new_name.c_str(), flags) != 0) return refuse(errno);
    Inode& old_folder = *ASK(inodes_->find(parent));
    Inode& new_folder = *ASK(inodes_->find(new_parent));
    inodes_->moved(old_folder, name, new_folder, new_name);
    if ((flags & RENAME_EXCHANGE) != 0) inodes_->moved(new_folder, new_name, old_folder, name);
    return {};
}

Answer<std::string> FileSystem::read_link(std::uint64_t node) {
    const int fd = ASK(descriptor(node));
    std::array<char, PATH_MAX> target = {};
    const ssize_t size = readlinkat(fd, "", target.data(), target.size());
    if (size < 0) return refuse(errno == ENOENT ? EINVAL : errno);  // ENOENT: no symbolic link
    return std::string(target.data(), static_cast<std::size_t>(size));
}

Answer<std::pair<Entry, Opened>> FileSystem::create_file(std::uint64_t parent, const std::string& name,
                                                         std::uint32_t flags, std::uint32_t mode, Caller caller) {
    ASK(check_writable());
    ASK(check_name(name));
    if (handles_.full()) return refuse(ENFILE);
    const int folder = ASK(directory(parent));
    const auto [uid, gid] = ASK(host_ids(caller));
    const auto kept = static_cast<int>(flags & (O_ACCMODE | O_APPEND | O_SYNC | O_DSYNC | O_NOATIME));
    Answer<Fd> made = refuse(EIO);
    {
        const ActingAs acting(rights_, uid, gid);
        made = open_component(folder, name.c_str(), static_cast<std::uint64_t>(kept | O_CREAT | O_EXCL | O_NONBLOCK),
                              mode & permission_bits);
    }
    if (!made) {
        // Somebody else was quicker: then it is opened as it is.
        if (made.error().value != EEXIST || (flags & O_EXCL) != 0) return refuse(made.error().value);
        const Entry entry = ASK(enter(parent, name));
        const auto opened = open(entry.node, flags & ~std::uint32_t{O_CREAT | O_EXCL}, false);
        if (!opened) {
            forget(entry.node, 1);
            return refuse(opened.error().value);
        }
        return std::pair{entry, *opened};
    }
    // The node is the file that was made, whatever has the name by now.
    Fd path = ASK(reopen_descriptor(made->get(), O_PATH));
    Entry entry;
    Inode* folder_inode = ASK(inodes_->find(parent));
    Inode* inode = ASK(inodes_->enter(*folder_inode, name, std::move(path), entry.attributes));
    entry.node = inode->id;
    return std::pair{entry, ASK(add_handle(*inode, std::move(*made)))};
}

}  // namespace wherry::fuse
