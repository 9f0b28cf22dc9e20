// The FUSE protocol (linux/fuse.h, version 7.38 and clients from 7.27 on) between messages and a FileSystem. What a
// client sends is copied before it is judged; what makes no sense is answered with an error, never believed.
//
//     Server server(*file_system);
//     if (auto bytes = server.handle(message)) ...   // the reply's size, 0 for none; nothing: it will be finished
//     later
//
// One thread; its loop watches file_system.locks().completion_event().
#pragma once

#include <linux/fuse.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fuse/file_system.hpp"
#include "fuse/message.hpp"

namespace wherry::fuse {

class Server {
  public:
    static constexpr std::uint32_t largest_transfer = 1U << 20U;

    explicit Server(FileSystem& file_system) : files_(file_system) {}

    // A client that goes on from another process does not begin with FUSE_INIT: what it knows from there is stale.
    std::optional<std::uint32_t> handle(Message& message);
    // The reply to a request that nobody will look at: ENOTCONN.
    static std::uint32_t refuse_unseen(Message& message);
    // The carrier is gone or starts again: requests that wait are dropped, all is closed and forgotten.
    void reset();

    std::uint64_t requests() const { return requests_; }

  private:
    using Reply = Answer<std::optional<std::uint32_t>>;
    // The fixed part of a request's arguments, and what follows it.
    template <class T>
    Answer<T> take() {
        T value = {};
        if (left() < sizeof value) return refuse(EINVAL);
        std::memcpy(&value, arguments_.data() + at_, sizeof value);
        at_ += sizeof value;
        return value;
    }
    Answer<std::string> take_name();
    std::size_t left() const { return arguments_.size() - at_; }

    Reply dispatch(Message& message);
    Reply dispatch_names(Message& message);
    Reply dispatch_files(Message& message);
    Reply initialize(Message& message);
    Reply forget_many(Message& message);
    Reply change(Message& message);
    Reply read(Message& message);
    Reply write(Message& message);
    Reply read_directory(Message& message, bool with_entries);
    Reply set_lock(Message& message, bool wait);
    Reply test_lock(Message& message);
    Reply get_attribute(Message& message, bool list);

    Reply reply(Message& message, const void* data, std::size_t bytes);
    template <class T>
    Reply reply(Message& message, const T& value) {
        return reply(message, &value, sizeof value);
    }
    Reply reply(Message& message) { return reply(message, nullptr, 0); }
    Reply reply_entry(Message& message, const Entry& entry);
    Reply reply_opened(Message& message, const Opened& opened);
    static std::uint32_t reply_error(Message& message, std::uint64_t unique, int error);

    fuse_attr to_wire(const Attributes& attributes) const;
    fuse_entry_out entry_out(const Entry& entry) const;
    fuse_open_out open_out(const Opened& opened) const;
    fuse_attr_out attr_out(const Attributes& attributes) const;

    FileSystem& files_;
    std::uint64_t requests_ = 0;
    // Of the request at hand.
    fuse_in_header header_ = {};
    std::vector<std::byte> arguments_;
    std::size_t at_ = 0;
    std::vector<std::byte> listing_;
};

}  // namespace wherry::fuse
