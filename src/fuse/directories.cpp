// Open directories.
#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fuse/file_system.hpp"

namespace wherry::fuse {
namespace {

// getdents64(2): a fixed part, then the name and a zero.
struct HostEntry {
    std::uint64_t inode;
    std::int64_t next;
    std::uint16_t bytes;
    std::uint8_t type;
};
constexpr std::size_t name_offset = 19;
constexpr std::size_t chunk_bytes = 32U << 10U;

}  // namespace

Answer<Opened> FileSystem::open_directory(std::uint64_t node) {
    Inode* inode = ASK(inodes_->find(node));
    if (!inode->is_directory()) return refuse(ENOTDIR);
    if (handles_.full()) return refuse(ENFILE);
    return add_handle(*inode, ASK(reopen(node, O_RDONLY | O_DIRECTORY)));
}

Answer<> FileSystem::read_directory(std::uint64_t node, std::uint64_t handle, std::uint64_t position,
                                    const std::function<bool(const DirectoryEntry&)>& take) {
    Handle* directory = ASK(handles_.find(handle, node, true));
    if (position > INT64_MAX) return refuse(EINVAL);
    const int fd = directory->fd.get();
    // From the beginning always means: as it is now.
    if (position != directory->position || position == 0) {
        directory->entries.clear();
        directory->next_entry = 0;
        if (lseek(fd, static_cast<off_t>(position), SEEK_SET) < 0) return refuse(errno);
        directory->position = position;
    }
    while (true) {
        if (directory->next_entry >= directory->entries.size()) {
            directory->entries.resize(chunk_bytes);
            directory->next_entry = 0;
            // SAFETY: fills at most the buffer.
            const long got = syscall(SYS_getdents64, fd, directory->entries.data(), directory->entries.size());
            directory->entries.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
            if (got < 0) return refuse(errno);
            if (got == 0) return {};
        }
        HostEntry host = {};
        const char* at = directory->entries.data() + directory->next_entry;
        std::memcpy(&host, at, name_offset);
        const DirectoryEntry entry = {.inode = host.inode,
                                      .next_position = static_cast<std::uint64_t>(host.next),
                                      .type = host.type,
                                      .name = std::string_view(at + name_offset)};
        if (!take(entry)) return {};
        directory->next_entry += host.bytes;
        directory->position = entry.next_position;
    }
}

}  // namespace wherry::fuse
