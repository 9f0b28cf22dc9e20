// Replies with structure: entries, attributes, listings, locks.
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "fuse/server.hpp"

namespace wherry::fuse {
namespace {

constexpr std::uint64_t always_seconds = 86400;

std::uint64_t valid_seconds(CacheMode mode) {
    switch (mode) {
        case CacheMode::none:
            return 0;
        case CacheMode::automatic:
            return 1;
        case CacheMode::always:
            return always_seconds;
    }
    return 0;
}

// The end of a lock's range, included; this one means the end of the file, however far.
constexpr std::uint64_t to_the_end = INT64_MAX;

Answer<struct flock> to_host(const fuse_file_lock& lock) {
    struct flock out = {};
    if (lock.type != F_RDLCK && lock.type != F_WRLCK && lock.type != F_UNLCK) return refuse(EINVAL);
    if (lock.start > to_the_end || lock.end < lock.start) return refuse(EINVAL);
    out.l_type = static_cast<short>(lock.type);
    out.l_whence = SEEK_SET;
    out.l_start = static_cast<off_t>(lock.start);
    out.l_len = lock.end >= to_the_end ? 0 : static_cast<off_t>(lock.end - lock.start + 1);
    return out;
}

}  // namespace

fuse_attr Server::to_wire(const Attributes& attributes) const {
    fuse_attr out = {};
    out.ino = attributes.stx_ino;
    out.size = attributes.stx_size;
    out.blocks = attributes.stx_blocks;
    out.atime = static_cast<std::uint64_t>(attributes.stx_atime.tv_sec);
    out.mtime = static_cast<std::uint64_t>(attributes.stx_mtime.tv_sec);
    out.ctime = static_cast<std::uint64_t>(attributes.stx_ctime.tv_sec);
    out.atimensec = attributes.stx_atime.tv_nsec;
    out.mtimensec = attributes.stx_mtime.tv_nsec;
    out.ctimensec = attributes.stx_ctime.tv_nsec;
    out.mode = attributes.stx_mode;
    out.nlink = attributes.stx_nlink;
    out.uid = files_.guest_uid(attributes);
    out.gid = files_.guest_gid(attributes);
    out.rdev = static_cast<std::uint32_t>(makedev(attributes.stx_rdev_major, attributes.stx_rdev_minor));
    out.blksize = attributes.stx_blksize;
    return out;
}

fuse_entry_out Server::entry_out(const Entry& entry) const {
    fuse_entry_out out = {};
    out.nodeid = entry.node;
    out.entry_valid = out.attr_valid = valid_seconds(files_.options().cache);
    out.attr = to_wire(entry.attributes);
    return out;
}

fuse_attr_out Server::attr_out(const Attributes& attributes) const {
    fuse_attr_out out = {};
    out.attr_valid = valid_seconds(files_.options().cache);
    out.attr = to_wire(attributes);
    return out;
}

fuse_open_out Server::open_out(const Opened& opened) const {
    fuse_open_out out = {};
    out.fh = opened.handle;
    switch (files_.options().cache) {
        case CacheMode::none:
            if (!opened.is_directory) out.open_flags = FOPEN_DIRECT_IO;
            break;
        case CacheMode::automatic:
            break;
        case CacheMode::always:
            out.open_flags = FOPEN_KEEP_CACHE | (opened.is_directory ? FOPEN_CACHE_DIR : 0U);
            break;
    }
    return out;
}

Server::Reply Server::reply_entry(Message& message, const Entry& entry) {
    auto done = reply(message, entry_out(entry));
    if (!done) files_.forget(entry.node, 1);  // the client never heard of it
    return done;
}

Server::Reply Server::reply_opened(Message& message, const Opened& opened) {
    auto done = reply(message, open_out(opened));
    if (!done) {
        [[maybe_unused]] const auto closed = files_.release(header_.nodeid, opened.handle, opened.is_directory);
    }
    return done;
}

Server::Reply Server::read_directory(Message& message, bool with_entries) {
    const auto in = ASK(take<fuse_read_in>());
    constexpr std::size_t head = sizeof(fuse_out_header);
    if (message.reply_room() < head) return refuse(EIO);
    const auto room = std::min({std::uint64_t{in.size}, message.reply_room() - head, std::uint64_t{largest_transfer}});
    listing_.clear();
    std::vector<std::uint64_t> looked_up;
    const std::uint64_t folder = header_.nodeid;
    const auto done = files_.read_directory(folder, in.fh, in.offset, [&](const DirectoryEntry& entry) {
        const std::size_t fixed = with_entries ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
        const std::size_t bytes = FUSE_DIRENT_ALIGN(fixed + entry.name.size());
        if (listing_.size() + bytes > room) return false;
        const std::size_t start = listing_.size();
        listing_.resize(start + bytes);
        std::byte* to = listing_.data() + start;
        fuse_dirent out = {};
        out.ino = entry.inode;
        out.off = entry.next_position;
        out.namelen = static_cast<std::uint32_t>(entry.name.size());
        out.type = entry.type;
        if (with_entries) {
            fuse_entry_out full = {};  // node 0: the client looks it up when it wants to
            if (entry.name != "." && entry.name != "..") {
                if (const auto found = files_.look_up(folder, std::string(entry.name))) {
                    full = entry_out(*found);
                    looked_up.push_back(found->node);
                }
            }
            std::memcpy(to, &full, sizeof full);
            to += sizeof full;
        }
        std::memcpy(to, &out, FUSE_NAME_OFFSET);
        std::memcpy(to + FUSE_NAME_OFFSET, entry.name.data(), entry.name.size());
        return true;
    });
    auto replied = done ? reply(message, listing_.data(), listing_.size()) : Reply(refuse(done.error().value));
    if (!replied)
        for (std::uint64_t node : looked_up) files_.forget(node, 1);
    return replied;
}

Server::Reply Server::get_attribute(Message& message, bool list) {
    const auto in = ASK(take<fuse_getxattr_in>());
    const std::vector<char> value = list ? ASK(files_.list_attributes(header_.nodeid, in.size))
                                         : ASK(files_.get_attribute(header_.nodeid, ASK(take_name()), in.size));
    if (in.size == 0)
        return reply(message, fuse_getxattr_out{.size = static_cast<std::uint32_t>(value.size()), .padding = 0});
    return reply(message, value.data(), value.size());
}

Server::Reply Server::test_lock(Message& message) {
    const auto in = ASK(take<fuse_lk_in>());
    const struct flock wanted = ASK(to_host(in.lk));
    const struct flock found = ASK(files_.test_lock(header_.nodeid, in.fh, in.owner, wanted));
    fuse_lk_out out = {};
    out.lk.type = static_cast<std::uint32_t>(found.l_type);
    if (found.l_type != F_UNLCK) {
        out.lk.start = static_cast<std::uint64_t>(found.l_start);
        out.lk.end = found.l_len == 0 ? to_the_end : static_cast<std::uint64_t>(found.l_start + found.l_len - 1);
        out.lk.pid = 0;  // a process of the host or of another client: none the client could name
    }
    return reply(message, out);
}

Server::Reply Server::set_lock(Message& message, bool wait) {
    const auto in = ASK(take<fuse_lk_in>());
    const bool is_flock = (in.lk_flags & FUSE_LK_FLOCK) != 0;
    const struct flock wanted = ASK(to_host(in.lk));
    if (!wait) {
        ASK(files_.set_lock(header_.nodeid, in.fh, in.owner, wanted, is_flock, false, header_.unique, {}));
        return reply(message);
    }
    // Filled when it turns out that it waits; completions are called later, on this thread.
    auto kept = std::make_shared<std::unique_ptr<Message>>();
    const bool waits =
        ASK(files_.set_lock(header_.nodeid, in.fh, in.owner, wanted, is_flock, true, header_.unique,
                            [kept, unique = header_.unique](int error) {
                                const fuse_out_header out = {.len = sizeof out, .error = -error, .unique = unique};
                                (*kept)->finish((*kept)->write_value(0, out) ? out.len : 0);
                            }));
    if (!waits) return reply(message);
    *kept = message.keep();
    return std::optional<std::uint32_t>();
}

}  // namespace wherry::fuse
