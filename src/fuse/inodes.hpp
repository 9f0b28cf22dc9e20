// The nodes the client knows. A node is what it is on the host (device, inode, mount, time of birth); its number is
// never used twice in a session. Where it was seen last (parent and name) is kept, so that only some of the nodes must
// be open: a closed one is opened again by its path, one component at a time, and is stale (ESTALE) unless the same
// file is there.
//
// One thread.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/fd.hpp"
#include "fuse/answer.hpp"

namespace wherry::fuse {

inline constexpr std::uint64_t root_node = 1;

using Attributes = struct statx;

// statx(2) of a descriptor, with all the inode table needs.
Answer<Attributes> attributes_of(int fd);
// One component below a directory, not followed, with openat2(2): it cannot leave the directory.
Answer<Fd> open_component(int directory, const char* name, std::uint64_t flags, std::uint64_t mode = 0);
// One component of a path, of a length the host takes: EINVAL for "", ".", ".." and what has a slash in it.
Answer<> check_name(const std::string& name);

struct Inode {
    struct Key {
        std::uint64_t device = 0;
        std::uint64_t number = 0;
        std::uint64_t mount = 0;
        friend bool operator==(const Key&, const Key&) = default;
    };
    std::uint64_t id = 0;
    Key key;
    std::int64_t born_seconds = 0;
    std::uint32_t born_nanoseconds = 0;
    std::uint32_t type = 0;  // S_IFREG, ...: never changes
    std::uint64_t lookups = 0;
    std::uint64_t parent = 0;
    std::string name;
    unsigned open_handles = 0;                 // while there are any it stays open
    Fd fd;                                     // O_PATH
    std::list<std::uint64_t>::iterator place;  // among the open ones, while it is

    bool is_regular() const { return S_ISREG(type); }
    bool is_directory() const { return S_ISDIR(type); }
};

class InodeTable {
  public:
    struct Limits {
        std::size_t nodes = 1U << 20U;
        std::size_t open = 1024;  // of them at most so many are open, but for files in use
        std::uint64_t first_number = root_node + 1;
    };
    // `root` is the directory, opened with O_PATH.
    static Answer<std::unique_ptr<InodeTable>> create(Fd root, Limits limits);

    // ESTALE for a number that is no node.
    Answer<Inode*> find(std::uint64_t id);
    // A descriptor of it, good until the next call that takes one of two others.
    Answer<int> descriptor(Inode& inode);
    // The entry `name` of a directory, as a node that the client has looked up once more.
    Answer<Inode*> look_up(Inode& parent, const std::string& name, Attributes& attributes);
    // The same for what has just been made there and is open as `fd` (O_PATH).
    Answer<Inode*> enter(Inode& parent, const std::string& name, Fd fd, Attributes& attributes);
    void forget(std::uint64_t id, std::uint64_t lookups);
    // A handle of it was closed.
    void released(std::uint64_t id);
    // The client moved an entry.
    void moved(Inode& parent, const std::string& name, Inode& new_parent, const std::string& new_name);
    // Everything but the root.
    void clear();
    std::size_t size() const { return nodes_.size(); }
    std::size_t open() const { return recent_.size(); }

  private:
    InodeTable() = default;
    struct KeyHash {
        std::size_t operator()(const Inode::Key& key) const {
            return (key.number * 0x9e3779b97f4a7c15ULL) ^ (key.device << 7U) ^ key.mount;
        }
    };
    Answer<Fd> reopen(const Inode& inode);
    void set_open(Inode& inode, Fd fd);
    void close_some();
    void erase(Inode& inode);

    Limits limits_;
    std::unordered_map<std::uint64_t, std::unique_ptr<Inode>> nodes_;
    std::unordered_map<Inode::Key, std::uint64_t, KeyHash> by_key_;
    std::list<std::uint64_t> recent_;  // open ones, the one used last in front; not the root
    std::uint64_t next_id_ = root_node + 1;
};

}  // namespace wherry::fuse
