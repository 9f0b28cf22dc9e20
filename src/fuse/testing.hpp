// For tests and fuzzing: messages in plain memory, and a client that speaks the protocol to a server beside it.
#pragma once

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fuse/message.hpp"
#include "fuse/server.hpp"

namespace wherry::fuse::testing {

// What became of requests that were answered later.
struct Finished {
    std::vector<std::vector<std::byte>> replies;
};

class PlainMessage final : public Message {
  public:
    PlainMessage(std::vector<std::byte> request, std::size_t reply_room, Finished* finished = nullptr)
        : request_(std::move(request)), reply_(reply_room), finished_(finished) {}

    std::uint64_t request_bytes() const override { return request_.size(); }
    std::uint64_t reply_room() const override { return reply_.size(); }
    bool read(std::uint64_t offset, std::span<std::byte> out) const override {
        if (offset > request_.size() || out.size() > request_.size() - offset) return false;
        std::copy_n(request_.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
        return true;
    }
    bool write(std::uint64_t offset, std::span<const std::byte> data) override {
        if (offset > reply_.size() || data.size() > reply_.size() - offset) return false;
        std::ranges::copy(data, reply_.begin() + static_cast<std::ptrdiff_t>(offset));
        return true;
    }
    Answer<std::size_t> read_file(int fd, std::uint64_t at, std::uint64_t reply_offset, std::size_t bytes) override {
        if (reply_offset > reply_.size() || bytes > reply_.size() - reply_offset) return refuse(EFAULT);
        const ssize_t n = pread(fd, reply_.data() + reply_offset, bytes, static_cast<off_t>(at));
        if (n < 0) return refuse(errno);
        return static_cast<std::size_t>(n);
    }
    Answer<std::size_t> write_file(int fd, std::uint64_t at, std::uint64_t request_offset, std::size_t bytes) override {
        if (request_offset > request_.size() || bytes > request_.size() - request_offset) return refuse(EFAULT);
        const ssize_t n = pwrite(fd, request_.data() + request_offset, bytes, static_cast<off_t>(at));
        if (n < 0) return refuse(errno);
        return static_cast<std::size_t>(n);
    }
    std::unique_ptr<Message> keep() override {
        return std::make_unique<PlainMessage>(std::exchange(request_, {}), std::exchange(reply_, {}).size(), finished_);
    }
    void finish(std::uint32_t reply_bytes) override {
        reply_.resize(reply_bytes);
        if (finished_ != nullptr) finished_->replies.push_back(reply_);
    }
    std::vector<std::byte>& reply() { return reply_; }

  private:
    std::vector<std::byte> request_;
    std::vector<std::byte> reply_;
    Finished* finished_;
};

inline std::vector<std::byte> bytes_of(const void* data, std::size_t size) {
    const auto* from = static_cast<const std::byte*>(data);
    return {from, from + size};
}

// A request's arguments, put together.
class Arguments {
  public:
    template <class T>
    Arguments& add(const T& value) {
        const auto more = bytes_of(&value, sizeof value);
        bytes_.insert(bytes_.end(), more.begin(), more.end());
        return *this;
    }
    Arguments& name(std::string_view text) {
        const auto more = bytes_of(text.data(), text.size());
        bytes_.insert(bytes_.end(), more.begin(), more.end());
        bytes_.push_back(std::byte{0});
        return *this;
    }
    Arguments& raw(std::string_view text) {
        const auto more = bytes_of(text.data(), text.size());
        bytes_.insert(bytes_.end(), more.begin(), more.end());
        return *this;
    }
    const std::vector<std::byte>& bytes() const { return bytes_; }

  private:
    std::vector<std::byte> bytes_;
};

struct Reply {
    int error = 0;
    bool is_later = false;
    std::vector<std::byte> payload;
    template <class T>
    T as(std::size_t offset = 0) const {
        T value = {};
        if (offset + sizeof value <= payload.size()) std::memcpy(&value, payload.data() + offset, sizeof value);
        return value;
    }
    std::string text() const {
        std::string out;
        for (std::byte byte : payload) out.push_back(static_cast<char>(byte));
        return out;
    }
};

class Client {
  public:
    explicit Client(Server& server) : server_(server) {}

    std::uint32_t uid = 0, gid = 0;
    std::uint64_t last_unique = 0;
    Finished finished;

    Reply ask(std::uint32_t opcode, std::uint64_t node, const Arguments& arguments = {}, std::size_t room = 65536) {
        fuse_in_header header = {};
        header.len = static_cast<std::uint32_t>(sizeof header + arguments.bytes().size());
        header.opcode = opcode;
        header.unique = last_unique = ++unique_;
        header.nodeid = node;
        header.uid = uid;
        header.gid = gid;
        auto request = bytes_of(&header, sizeof header);
        request.insert(request.end(), arguments.bytes().begin(), arguments.bytes().end());
        PlainMessage message(std::move(request), room, &finished);
        const auto bytes = server_.handle(message);
        if (!bytes) return {.error = 0, .is_later = true, .payload = {}};
        if (*bytes == 0) return {};
        return parse(message.reply(), *bytes);
    }
    static Reply parse(const std::vector<std::byte>& from, std::size_t bytes) {
        fuse_out_header header = {};
        std::memcpy(&header, from.data(), sizeof header);
        Reply reply;
        reply.error = -header.error;
        reply.payload.assign(from.begin() + sizeof header, from.begin() + static_cast<std::ptrdiff_t>(bytes));
        return reply;
    }
    Reply initialize(std::uint32_t minor = FUSE_KERNEL_MINOR_VERSION) {
        fuse_init_in in = {};
        in.major = FUSE_KERNEL_VERSION;
        in.minor = minor;
        in.max_readahead = 131072;
        in.flags = ~0U;
        return ask(FUSE_INIT, 0, Arguments().add(in));
    }

  private:
    Server& server_;
    std::uint64_t unique_ = 1;
};

}  // namespace wherry::fuse::testing
