// One directory of the host as a client sees it: what the protocol's requests do, without the protocol. Descriptors
// of nodes are O_PATH; everything is done relative to them, on one component, without following links.
//
// One thread (locks that wait have theirs).
#pragma once

#include <sys/statvfs.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "fuse/handles.hpp"
#include "fuse/identity.hpp"
#include "fuse/inodes.hpp"
#include "fuse/locks.hpp"
#include "fuse/message.hpp"

namespace wherry::fuse {

// How long the client may believe what it was told (docs/shared-folders.md).
enum class CacheMode : unsigned char { none, automatic, always };

struct FileSystemOptions {
    IdMap uids;
    IdMap gids;
    bool is_read_only = false;
    CacheMode cache = CacheMode::automatic;
    std::size_t descriptors = 1024;  // what this process may have open; shared out between nodes, handles and locks
    std::size_t nodes = 1U << 20U;
    // Nodes and handles are numbered from here on. A client may go on with another process than the one whose numbers
    // it knows; those must not be what they are not, so processes begin at random places.
    std::uint64_t first_number = root_node + 1;
};

// Who asks, in the client's numbers.
struct Caller {
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
};

struct Entry {
    std::uint64_t node = 0;
    Attributes attributes = {};
};

struct Opened {
    std::uint64_t handle = 0;
    bool is_directory = false;
};

// What setattr changes.
struct Changes {
    std::optional<std::uint32_t> mode, uid, gid;
    std::optional<std::uint64_t> size, handle;
    std::optional<timespec> accessed, modified;  // tv_nsec UTIME_NOW: the host's time
    bool kill_set_id = false;
};

struct DirectoryEntry {
    std::uint64_t inode = 0;
    std::uint64_t next_position = 0;
    std::uint8_t type = 0;  // DT_...
    std::string_view name;
};

class FileSystem {
  public:
    // `root` is the directory, `own_descriptors` is /proc/self/fd; both opened with O_PATH.
    static Result<std::unique_ptr<FileSystem>> create(Fd root, Fd own_descriptors, FileSystemOptions options);

    const FileSystemOptions& options() const { return options_; }
    Locks& locks() { return *locks_; }
    const InodeTable& inodes() const { return *inodes_; }
    const HandleTable& handles() const { return handles_; }
    // A new client, or the end of one: nothing is known or open.
    void clear();

    // names.cpp
    Answer<Entry> look_up(std::uint64_t parent, const std::string& name);
    void forget(std::uint64_t node, std::uint64_t lookups) { inodes_->forget(node, lookups); }
    Answer<Entry> make_directory(std::uint64_t parent, const std::string& name, std::uint32_t mode, Caller caller);
    Answer<Entry> make_node(std::uint64_t parent, const std::string& name, std::uint32_t mode, std::uint32_t device,
                            Caller caller);
    Answer<Entry> make_symlink(std::uint64_t parent, const std::string& name, const std::string& target, Caller caller);
    Answer<Entry> link(std::uint64_t node, std::uint64_t parent, const std::string& name);
    Answer<> unlink(std::uint64_t parent, const std::string& name, bool is_directory);
    Answer<> rename(std::uint64_t parent, const std::string& name, std::uint64_t new_parent,
                    const std::string& new_name, std::uint32_t flags);
    Answer<std::string> read_link(std::uint64_t node);
    Answer<std::pair<Entry, Opened>> create_file(std::uint64_t parent, const std::string& name, std::uint32_t flags,
                                                 std::uint32_t mode, Caller caller);

    // attributes.cpp
    Answer<Attributes> attributes(std::uint64_t node, std::optional<std::uint64_t> handle);
    Answer<Attributes> change(std::uint64_t node, const Changes& changes);
    Answer<> access(std::uint64_t node, std::uint32_t mask, Caller caller);
    Answer<struct statvfs> statistics(std::uint64_t node);
    // The owner as the client counts.
    std::uint32_t guest_uid(const Attributes& attributes) const { return options_.uids.to_guest(attributes.stx_uid); }
    std::uint32_t guest_gid(const Attributes& attributes) const { return options_.gids.to_guest(attributes.stx_gid); }

    // files.cpp
    Answer<Opened> open(std::uint64_t node, std::uint32_t flags, bool kill_set_id);
    Answer<std::size_t> read(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::size_t bytes,
                             Message& message, std::uint64_t reply_offset);
    Answer<std::size_t> write(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::size_t bytes,
                              Message& message, std::uint64_t request_offset, bool kill_set_id);
    Answer<> flush(std::uint64_t node, std::uint64_t handle, std::uint64_t lock_owner);
    Answer<> release(std::uint64_t node, std::uint64_t handle, bool is_directory);
    Answer<> sync(std::uint64_t node, std::uint64_t handle, bool is_directory, bool data_only);
    Answer<> sync_all();
    Answer<> allocate(std::uint64_t node, std::uint64_t handle, std::uint32_t mode, std::uint64_t offset,
                      std::uint64_t bytes);
    Answer<std::uint64_t> seek(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::uint32_t whence);
    Answer<std::size_t> copy(std::uint64_t node, std::uint64_t handle, std::uint64_t offset, std::uint64_t to_node,
                             std::uint64_t to_handle, std::uint64_t to_offset, std::size_t bytes);

    // directories.cpp
    Answer<Opened> open_directory(std::uint64_t node);
    // Calls `take` for entries from a position on until it returns false (that entry comes again next time).
    Answer<> read_directory(std::uint64_t node, std::uint64_t handle, std::uint64_t position,
                            const std::function<bool(const DirectoryEntry&)>& take);

    // extended_attributes.cpp
    Answer<std::vector<char>> get_attribute(std::uint64_t node, const std::string& name, std::size_t limit);
    Answer<std::vector<char>> list_attributes(std::uint64_t node, std::size_t limit);
    Answer<> set_attribute(std::uint64_t node, const std::string& name, std::span<const std::byte> value,
                           std::uint32_t flags);
    Answer<> remove_attribute(std::uint64_t node, const std::string& name);

    // files.cpp: l_type, l_start, l_len of `lock` are the client's. True: waits, see Locks.
    Answer<struct flock> test_lock(std::uint64_t node, std::uint64_t handle, std::uint64_t owner, struct flock lock);
    Answer<bool> set_lock(std::uint64_t node, std::uint64_t handle, std::uint64_t owner, struct flock lock,
                          bool is_flock, bool wait, std::uint64_t request, Locks::Completion done);

  private:
    FileSystem(FileSystemOptions options, const Rights& rights, std::size_t handles)
        : options_(std::move(options)), rights_(rights), handles_(handles, options_.first_number - 1) {}
    Answer<> check_writable() const;
    Answer<int> descriptor(std::uint64_t node);
    Answer<int> directory(std::uint64_t node);
    // The node opened for what O_PATH does not do. EPERM unless it is a regular file or a directory.
    Answer<Fd> reopen(std::uint64_t node, int flags);
    Answer<Fd> reopen_descriptor(int fd, int flags) const;
    Answer<Opened> add_handle(Inode& inode, Fd fd);
    Answer<Entry> enter(std::uint64_t parent, const std::string& name);
    // The numbers of the host that a file made by `caller` belongs to.
    Answer<std::pair<std::uint32_t, std::uint32_t>> host_ids(Caller caller) const;
    Locks::Opener lock_opener(int handle) const;

    FileSystemOptions options_;
    Rights rights_;
    Fd own_descriptors_;
    Fd root_;  // open for reading, for syncfs
    std::unique_ptr<InodeTable> inodes_;
    HandleTable handles_;
    std::unique_ptr<Locks> locks_;
};

// "123", for /proc/self/fd.
struct DescriptorName {
    char text[16] = {};
    explicit DescriptorName(int fd);
};

}  // namespace wherry::fuse
