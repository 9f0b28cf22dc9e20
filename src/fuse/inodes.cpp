#include "fuse/inodes.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <vector>

namespace wherry::fuse {
namespace {

constexpr std::size_t deepest_path = 4096;

Inode::Key key_of(const Attributes& attributes) {
    return {.device = (std::uint64_t{attributes.stx_dev_major} << 32U) | attributes.stx_dev_minor,
            .number = attributes.stx_ino,
            .mount = attributes.stx_mnt_id};
}

bool same_file(const Inode& inode, const Attributes& attributes) {
    // Numbers of removed files are used again; times of birth are not (where the file system has them).
    return inode.key == key_of(attributes) && inode.type == (attributes.stx_mode & S_IFMT) &&
           inode.born_seconds == attributes.stx_btime.tv_sec && inode.born_nanoseconds == attributes.stx_btime.tv_nsec;
}

}  // namespace

Answer<Attributes> attributes_of(int fd) {
    Attributes attributes = {};
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_SYNC_AS_STAT, STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID,
              &attributes) != 0)
        return refuse(errno);
    return attributes;
}

Answer<Fd> open_component(int directory, const char* name, std::uint64_t flags, std::uint64_t mode) {
    open_how how = {};
    how.flags = flags | O_NOFOLLOW | O_CLOEXEC;
    how.mode = mode;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
    for (int attempt = 0; attempt < 128; ++attempt) {
        // SAFETY: reads the name and the structure, whose size is given.
        const long fd = syscall(SYS_openat2, directory, name, &how, sizeof how);
        if (fd >= 0) return Fd(static_cast<int>(fd));
        if (errno != EAGAIN && errno != EINTR) break;
    }
    return refuse(errno);
}

Answer<> check_name(const std::string& name) {
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos) return refuse(EINVAL);
    if (name.size() > NAME_MAX) return refuse(ENAMETOOLONG);
    return {};
}

Answer<std::unique_ptr<InodeTable>> InodeTable::create(Fd root, Limits limits) {
    std::unique_ptr<InodeTable> table(new InodeTable);
    table->limits_ = limits;
    table->next_id_ = limits.first_number;
    const Attributes attributes = ASK(attributes_of(root.get()));
    if (!S_ISDIR(attributes.stx_mode)) return refuse(ENOTDIR);
    auto inode = std::make_unique<Inode>();
    inode->id = root_node;
    inode->key = key_of(attributes);
    inode->type = S_IFDIR;
    inode->lookups = 1;
    inode->born_seconds = attributes.stx_btime.tv_sec;
    inode->born_nanoseconds = attributes.stx_btime.tv_nsec;
    inode->fd = std::move(root);
    table->by_key_.emplace(inode->key, root_node);
    table->nodes_.emplace(root_node, std::move(inode));
    return table;
}

Answer<Inode*> InodeTable::find(std::uint64_t id) {
    const auto found = nodes_.find(id);
    if (found == nodes_.end()) return refuse(ESTALE);
    return found->second.get();
}

Answer<int> InodeTable::descriptor(Inode& inode) {
    if (inode.id == root_node) return inode.fd.get();
    if (!inode.fd) {
        Fd fd = ASK(reopen(inode));
        set_open(inode, std::move(fd));
    } else {
        recent_.splice(recent_.begin(), recent_, inode.place);
    }
    return inode.fd.get();
}

Answer<Fd> InodeTable::reopen(const Inode& inode) {
    // From the nearest ancestor that is open, down again.
    std::vector<const std::string*> names;
    const Inode* at = &inode;
    while (!at->fd) {
        if (names.size() >= deepest_path) return refuse(ESTALE);
        names.push_back(&at->name);
        const auto parent = nodes_.find(at->parent);
        if (parent == nodes_.end()) return refuse(ESTALE);
        at = parent->second.get();
    }
    Fd current;
    int directory = at->fd.get();
    for (auto name = names.rbegin(); name != names.rend(); ++name) {
        auto next = open_component(directory, (*name)->c_str(), O_PATH);
        if (!next)
            return refuse(next.error().value == ENOENT || next.error().value == ENOTDIR || next.error().value == ELOOP
                              ? ESTALE
                              : next.error().value);
        current = std::move(*next);
        directory = current.get();
    }
    const Attributes attributes = ASK(attributes_of(current.get()));
    if (!same_file(inode, attributes)) return refuse(ESTALE);
    return current;
}

void InodeTable::set_open(Inode& inode, Fd fd) {
    inode.fd = std::move(fd);
    recent_.push_front(inode.id);
    inode.place = recent_.begin();
    close_some();
}

void InodeTable::close_some() {
    // The two used last stay in any case: a rename holds two directories.
    std::size_t tries = 16;
    while (recent_.size() > std::max<std::size_t>(limits_.open, 8) && tries-- > 0) {
        const auto found = nodes_.find(recent_.back());
        Inode& oldest = *found->second;
        if (oldest.open_handles > 0) {  // may be removed already: no path would find it
            recent_.splice(std::next(recent_.begin(), 2), recent_, oldest.place);
            continue;
        }
        oldest.fd.reset();
        recent_.pop_back();
    }
}

Answer<Inode*> InodeTable::look_up(Inode& parent, const std::string& name, Attributes& attributes) {
    const int directory = ASK(descriptor(parent));
    Fd fd = ASK(open_component(directory, name.c_str(), O_PATH));
    return enter(parent, name, std::move(fd), attributes);
}

Answer<Inode*> InodeTable::enter(Inode& parent, const std::string& name, Fd fd, Attributes& attributes) {
    attributes = ASK(attributes_of(fd.get()));
    const Inode::Key key = key_of(attributes);
    if (const auto known = by_key_.find(key); known != by_key_.end()) {
        Inode& inode = *nodes_.at(known->second);
        // An open node keeps its number on the host; a closed one may have been another file.
        if (inode.fd || same_file(inode, attributes)) {
            if (inode.id != root_node) {
                inode.parent = parent.id;
                if (inode.name != name) inode.name = name;
                if (!inode.fd) {
                    set_open(inode, std::move(fd));
                } else {
                    recent_.splice(recent_.begin(), recent_, inode.place);
                }
            }
            ++inode.lookups;
            return &inode;
        }
        by_key_.erase(known);
    }
    if (nodes_.size() >= limits_.nodes) return refuse(ENFILE);
    auto made = std::make_unique<Inode>();
    Inode& inode = *made;
    inode.id = next_id_++;
    inode.key = key;
    inode.type = attributes.stx_mode & S_IFMT;
    inode.lookups = 1;
    inode.parent = parent.id;
    inode.name = name;
    inode.born_seconds = attributes.stx_btime.tv_sec;
    inode.born_nanoseconds = attributes.stx_btime.tv_nsec;
    by_key_.emplace(key, inode.id);
    nodes_.emplace(inode.id, std::move(made));
    set_open(inode, std::move(fd));
    return &inode;
}

void InodeTable::erase(Inode& inode) {
    if (inode.fd) recent_.erase(inode.place);
    // The key may belong to a younger file by now.
    if (const auto known = by_key_.find(inode.key); known != by_key_.end() && known->second == inode.id)
        by_key_.erase(known);
    nodes_.erase(inode.id);
}

void InodeTable::forget(std::uint64_t id, std::uint64_t lookups) {
    if (id == root_node) return;
    const auto found = nodes_.find(id);
    if (found == nodes_.end()) return;
    Inode& inode = *found->second;
    inode.lookups -= std::min(inode.lookups, lookups);
    // A client that forgets what it has open (Linux does not) keeps the node until it closes it.
    if (inode.lookups == 0 && inode.open_handles == 0) erase(inode);
}

void InodeTable::released(std::uint64_t id) {
    const auto found = nodes_.find(id);
    if (found == nodes_.end()) return;
    Inode& inode = *found->second;
    if (inode.open_handles > 0) --inode.open_handles;
    if (id != root_node && inode.lookups == 0 && inode.open_handles == 0) erase(inode);
}

void InodeTable::moved(Inode& parent, const std::string& name, Inode& new_parent, const std::string& new_name) {
    // Whatever of ours was seen there is to be found in the new place; another name of it is found again by lookup.
    const int directory = new_parent.fd ? new_parent.fd.get() : -1;
    if (directory < 0) return;
    const auto fd = open_component(directory, new_name.c_str(), O_PATH);
    if (!fd) return;
    const auto attributes = attributes_of(fd->get());
    if (!attributes) return;
    const auto known = by_key_.find(key_of(*attributes));
    if (known == by_key_.end()) return;
    Inode& inode = *nodes_.at(known->second);
    if (inode.id == root_node || inode.parent != parent.id || inode.name != name) return;
    inode.parent = new_parent.id;
    inode.name = new_name;
}

void InodeTable::clear() {
    auto root = std::move(nodes_.at(root_node));
    nodes_.clear();
    by_key_.clear();
    recent_.clear();
    root->open_handles = 0;
    next_id_ = limits_.first_number;
    by_key_.emplace(root->key, root_node);
    nodes_.emplace(root_node, std::move(root));
}

}  // namespace wherry::fuse
