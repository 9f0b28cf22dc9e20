#include "fuse/server.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace wherry::fuse {
namespace {

// What a request may have beside the data of a write: two names, or an attribute's name and value.
constexpr std::uint64_t largest_arguments = (64U << 10U) + 4096;

// The first minor version whose structures all have their present shape.
constexpr std::uint32_t oldest_minor = 27;

bool answers_nothing(std::uint32_t opcode) {
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

}  // namespace

Answer<std::string> Server::take_name() {
    // SAFETY: bytes as characters.
    const auto* start = reinterpret_cast<const char*>(arguments_.data()) + at_;
    const void* end = left() == 0 ? nullptr : std::memchr(start, 0, left());
    if (end == nullptr) return refuse(EINVAL);
    std::string name(start, static_cast<const char*>(end));
    at_ += name.size() + 1;
    return name;
}

void Server::reset() {
    files_.clear();
}

std::uint32_t Server::refuse_unseen(Message& message) {
    fuse_in_header header = {};
    if (!message.read_value(0, header) || answers_nothing(header.opcode)) return 0;
    return reply_error(message, header.unique, ENOTCONN);
}

std::optional<std::uint32_t> Server::handle(Message& message) {
    ++requests_;
    if (!message.read_value(0, header_)) return 0;
    // A request says how long it is; what follows is not its own.
    if (header_.len < sizeof header_ || header_.len > message.request_bytes())
        return reply_error(message, header_.unique, EINVAL);
    std::uint64_t bytes = header_.len - sizeof header_;
    if (header_.opcode == FUSE_WRITE) bytes = std::min<std::uint64_t>(bytes, sizeof(fuse_write_in));
    if (header_.opcode == FUSE_BATCH_FORGET) bytes = std::min<std::uint64_t>(bytes, sizeof(fuse_batch_forget_in));
    if (bytes > largest_arguments) return reply_error(message, header_.unique, E2BIG);
    arguments_.resize(bytes);
    at_ = 0;
    if (!message.read(sizeof header_, arguments_)) return reply_error(message, header_.unique, EINVAL);
    const auto answer = dispatch(message);
    if (answer) return *answer;
    return answers_nothing(header_.opcode) ? 0 : reply_error(message, header_.unique, answer.error().value);
}

std::uint32_t Server::reply_error(Message& message, std::uint64_t unique, int error) {
    const fuse_out_header out = {.len = sizeof out, .error = -error, .unique = unique};
    return message.write_value(0, out) ? out.len : 0;
}

Server::Reply Server::reply(Message& message, const void* data, std::size_t bytes) {
    const fuse_out_header out = {
        .len = static_cast<std::uint32_t>(sizeof out + bytes), .error = 0, .unique = header_.unique};
    if (out.len > message.reply_room()) return refuse(EIO);
    // SAFETY: the bytes of a reply.
    if (bytes > 0 && !message.write(sizeof out, {static_cast<const std::byte*>(data), bytes})) return refuse(EIO);
    if (!message.write_value(0, out)) return refuse(EIO);
    return out.len;
}

Server::Reply Server::dispatch(Message& message) {
    if (header_.opcode == FUSE_INIT) return initialize(message);
    switch (header_.opcode) {
        case FUSE_DESTROY:
            reset();
            return reply(message);
        case FUSE_FORGET:
            files_.forget(header_.nodeid, ASK(take<fuse_forget_in>()).nlookup);
            return 0U;
        case FUSE_BATCH_FORGET:
            return forget_many(message);
        case FUSE_INTERRUPT:
            files_.locks().interrupt(ASK(take<fuse_interrupt_in>()).unique);
            return 0U;
        case FUSE_GETATTR: {
            const auto in = ASK(take<fuse_getattr_in>());
            const bool by_handle = (in.getattr_flags & FUSE_GETATTR_FH) != 0;
            return reply(
                message,
                attr_out(ASK(files_.attributes(header_.nodeid, by_handle ? std::optional(in.fh) : std::nullopt))));
        }
        case FUSE_SETATTR:
            return change(message);
        case FUSE_ACCESS:
            ASK(files_.access(header_.nodeid, ASK(take<fuse_access_in>()).mask, {header_.uid, header_.gid}));
            return reply(message);
        case FUSE_STATFS: {
            const auto host = ASK(files_.statistics(header_.nodeid));
            fuse_statfs_out out = {};
            out.st.blocks = host.f_blocks;
            out.st.bfree = host.f_bfree;
            out.st.bavail = host.f_bavail;
            out.st.files = host.f_files;
            out.st.ffree = host.f_ffree;
            out.st.bsize = static_cast<std::uint32_t>(host.f_bsize);
            out.st.namelen = static_cast<std::uint32_t>(host.f_namemax);
            out.st.frsize = static_cast<std::uint32_t>(host.f_frsize);
            return reply(message, out);
        }
        case FUSE_SETXATTR: {
            fuse_setxattr_in in = {};
            if (left() < FUSE_COMPAT_SETXATTR_IN_SIZE) return refuse(EINVAL);
            std::memcpy(&in, arguments_.data(), FUSE_COMPAT_SETXATTR_IN_SIZE);
            at_ = FUSE_COMPAT_SETXATTR_IN_SIZE;
            const std::string name = ASK(take_name());
            if (in.size > left()) return refuse(EINVAL);
            ASK(files_.set_attribute(header_.nodeid, name, std::span(arguments_).subspan(at_, in.size), in.flags));
            return reply(message);
        }
        case FUSE_GETXATTR:
            return get_attribute(message, false);
        case FUSE_LISTXATTR:
            return get_attribute(message, true);
        case FUSE_REMOVEXATTR:
            ASK(files_.remove_attribute(header_.nodeid, ASK(take_name())));
            return reply(message);
        case FUSE_GETLK:
            return test_lock(message);
        case FUSE_SETLK:
            return set_lock(message, false);
        case FUSE_SETLKW:
            return set_lock(message, true);
        case FUSE_SYNCFS:
            ASK(files_.sync_all());
            return reply(message);
        case FUSE_IOCTL:
            return refuse(ENOTTY);
        default:
            return dispatch_names(message);
    }
}

Server::Reply Server::dispatch_names(Message& message) {
    const Caller caller = {.uid = header_.uid, .gid = header_.gid};
    const std::uint64_t node = header_.nodeid;
    switch (header_.opcode) {
        case FUSE_LOOKUP:
            return reply_entry(message, ASK(files_.look_up(node, ASK(take_name()))));
        case FUSE_READLINK: {
            const std::string target = ASK(files_.read_link(node));
            return reply(message, target.data(), target.size());
        }
        case FUSE_SYMLINK: {
            const std::string name = ASK(take_name());
            const std::string target = ASK(take_name());
            return reply_entry(message, ASK(files_.make_symlink(node, name, target, caller)));
        }
        case FUSE_MKNOD: {
            const auto in = ASK(take<fuse_mknod_in>());
            const std::string name = ASK(take_name());
            return reply_entry(message, ASK(files_.make_node(node, name, in.mode, in.rdev, caller)));
        }
        case FUSE_MKDIR: {
            const auto in = ASK(take<fuse_mkdir_in>());
            const std::string name = ASK(take_name());
            return reply_entry(message, ASK(files_.make_directory(node, name, in.mode, caller)));
        }
        case FUSE_UNLINK:
        case FUSE_RMDIR:
            ASK(files_.unlink(node, ASK(take_name()), header_.opcode == FUSE_RMDIR));
            return reply(message);
        case FUSE_RENAME: {
            const auto in = ASK(take<fuse_rename_in>());
            const std::string name = ASK(take_name());
            ASK(files_.rename(node, name, in.newdir, ASK(take_name()), 0));
            return reply(message);
        }
        case FUSE_RENAME2: {
            const auto in = ASK(take<fuse_rename2_in>());
            const std::string name = ASK(take_name());
            ASK(files_.rename(node, name, in.newdir, ASK(take_name()), in.flags));
            return reply(message);
        }
        case FUSE_LINK: {
            const auto in = ASK(take<fuse_link_in>());
            return reply_entry(message, ASK(files_.link(in.oldnodeid, node, ASK(take_name()))));
        }
        case FUSE_CREATE: {
            const auto in = ASK(take<fuse_create_in>());
            const std::string name = ASK(take_name());
            const auto [entry, opened] = ASK(files_.create_file(node, name, in.flags, in.mode, caller));
            struct {
                fuse_entry_out entry;
                fuse_open_out opened;
            } const out = {entry_out(entry), open_out(opened)};
            auto done = reply(message, out);
            if (!done) {
                [[maybe_unused]] const auto closed = files_.release(entry.node, opened.handle, false);
                files_.forget(entry.node, 1);
            }
            return done;
        }
        default:
            return dispatch_files(message);
    }
}

Server::Reply Server::dispatch_files(Message& message) {
    const std::uint64_t node = header_.nodeid;
    switch (header_.opcode) {
        case FUSE_OPEN: {
            const auto in = ASK(take<fuse_open_in>());
            const bool kill_set_id = (in.open_flags & FUSE_OPEN_KILL_SUIDGID) != 0;
            return reply_opened(message, ASK(files_.open(node, in.flags, kill_set_id)));
        }
        case FUSE_OPENDIR:
            return reply_opened(message, ASK(files_.open_directory(node)));
        case FUSE_READ:
            return read(message);
        case FUSE_WRITE:
            return write(message);
        case FUSE_FLUSH: {
            const auto in = ASK(take<fuse_flush_in>());
            ASK(files_.flush(node, in.fh, in.lock_owner));
            return reply(message);
        }
        case FUSE_RELEASE:
        case FUSE_RELEASEDIR:
            ASK(files_.release(node, ASK(take<fuse_release_in>()).fh, header_.opcode == FUSE_RELEASEDIR));
            return reply(message);
        case FUSE_FSYNC:
        case FUSE_FSYNCDIR: {
            const auto in = ASK(take<fuse_fsync_in>());
            ASK(files_.sync(node, in.fh, header_.opcode == FUSE_FSYNCDIR,
                            (in.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0));
            return reply(message);
        }
        case FUSE_READDIR:
        case FUSE_READDIRPLUS:
            return read_directory(message, header_.opcode == FUSE_READDIRPLUS);
        case FUSE_FALLOCATE: {
            const auto in = ASK(take<fuse_fallocate_in>());
            ASK(files_.allocate(node, in.fh, in.mode, in.offset, in.length));
            return reply(message);
        }
        case FUSE_LSEEK: {
            const auto in = ASK(take<fuse_lseek_in>());
            return reply(message, fuse_lseek_out{ASK(files_.seek(node, in.fh, in.offset, in.whence))});
        }
        case FUSE_COPY_FILE_RANGE: {
            const auto in = ASK(take<fuse_copy_file_range_in>());
            if (in.flags != 0) return refuse(EINVAL);
            const std::size_t done = ASK(files_.copy(node, in.fh_in, in.off_in, in.nodeid_out, in.fh_out, in.off_out,
                                                     std::min<std::uint64_t>(in.len, INT64_MAX)));
            return reply(message, fuse_write_out{.size = static_cast<std::uint32_t>(done), .padding = 0});
        }
        default:
            return refuse(ENOSYS);  // the client does without, and does not ask again
    }
}

Server::Reply Server::initialize(Message& message) {
    reset();
    if (left() < offsetof(fuse_init_in, flags2)) return refuse(EINVAL);
    fuse_init_in in = {};
    std::memcpy(&in, arguments_.data(), std::min(sizeof in, left()));
    fuse_init_out out = {};
    out.major = FUSE_KERNEL_VERSION;
    out.minor = FUSE_KERNEL_MINOR_VERSION;
    // A newer major version asks again with ours.
    if (in.major > FUSE_KERNEL_VERSION) return reply(message, out);
    if (in.major < FUSE_KERNEL_VERSION || in.minor < oldest_minor) return refuse(EPROTO);
    std::uint32_t wanted = FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_ATOMIC_O_TRUNC |
                           FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO |
                           FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_HANDLE_KILLPRIV_V2;
    if (files_.options().cache != CacheMode::none) wanted |= FUSE_AUTO_INVAL_DATA;
    if (files_.options().cache == CacheMode::always) wanted |= FUSE_CACHE_SYMLINKS;
    out.flags = in.flags & wanted;
    out.max_readahead = in.max_readahead;
    out.max_background = 64;
    out.congestion_threshold = 48;
    out.max_write = largest_transfer;
    out.max_pages = static_cast<std::uint16_t>(largest_transfer / 4096);
    out.time_gran = 1;
    return reply(message, out);
}

Server::Reply Server::forget_many(Message& message) {
    const auto in = ASK(take<fuse_batch_forget_in>());
    const std::uint64_t start = sizeof header_ + sizeof in;
    const std::uint64_t there = (header_.len - start) / sizeof(fuse_forget_one);
    for (std::uint64_t i = 0; i < std::min<std::uint64_t>(in.count, there); ++i) {
        fuse_forget_one one = {};
        if (!message.read_value(start + i * sizeof one, one)) break;
        files_.forget(one.nodeid, one.nlookup);
    }
    return 0U;
}

Server::Reply Server::change(Message& message) {
    const auto in = ASK(take<fuse_setattr_in>());
    Changes changes;
    if ((in.valid & FATTR_MODE) != 0) changes.mode = in.mode;
    if ((in.valid & FATTR_UID) != 0) changes.uid = in.uid;
    if ((in.valid & FATTR_GID) != 0) changes.gid = in.gid;
    if ((in.valid & FATTR_SIZE) != 0) changes.size = in.size;
    if ((in.valid & FATTR_FH) != 0) changes.handle = in.fh;
    const auto time = [&](std::uint32_t set, std::uint32_t now, std::uint64_t seconds,
                          std::uint32_t nanoseconds) -> Answer<std::optional<timespec>> {
        if ((in.valid & now) != 0) return timespec{.tv_sec = 0, .tv_nsec = UTIME_NOW};
        if ((in.valid & set) == 0) return std::nullopt;
        if (nanoseconds >= 1'000'000'000) return refuse(EINVAL);
        return timespec{.tv_sec = static_cast<time_t>(seconds), .tv_nsec = nanoseconds};
    };
    changes.accessed = ASK(time(FATTR_ATIME, FATTR_ATIME_NOW, in.atime, in.atimensec));
    changes.modified = ASK(time(FATTR_MTIME, FATTR_MTIME_NOW, in.mtime, in.mtimensec));
    changes.kill_set_id = (in.valid & FATTR_KILL_SUIDGID) != 0;
    return reply(message, attr_out(ASK(files_.change(header_.nodeid, changes))));
}

Server::Reply Server::read(Message& message) {
    const auto in = ASK(take<fuse_read_in>());
    constexpr std::size_t head = sizeof(fuse_out_header);
    if (message.reply_room() < head) return refuse(EIO);
    const auto bytes = std::min({std::uint64_t{in.size}, message.reply_room() - head, std::uint64_t{largest_transfer}});
    const std::size_t done = ASK(files_.read(header_.nodeid, in.fh, in.offset, bytes, message, head));
    const fuse_out_header out = {.len = static_cast<std::uint32_t>(head + done), .error = 0, .unique = header_.unique};
    if (!message.write_value(0, out)) return refuse(EIO);
    return out.len;
}

Server::Reply Server::write(Message& message) {
    const auto in = ASK(take<fuse_write_in>());
    constexpr std::size_t head = sizeof(fuse_in_header) + sizeof(fuse_write_in);
    if (in.size > largest_transfer || in.size > header_.len - head) return refuse(EINVAL);
    const bool kill_set_id = (in.write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
    const std::size_t done = ASK(files_.write(header_.nodeid, in.fh, in.offset, in.size, message, head, kill_set_id));
    return reply(message, fuse_write_out{.size = static_cast<std::uint32_t>(done), .padding = 0});
}

}  // namespace wherry::fuse
