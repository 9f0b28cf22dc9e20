#include "fs/backend.hpp"

#include <fcntl.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cstring>

#include "base/log.hpp"
#include "vmm/virtio/device.hpp"

namespace wherry::fs {

using vmm::GuestAddress;
namespace vhost_user = vmm::vhost_user;

namespace {

constexpr std::uint64_t offered_features = vmm::feature_version_1 | vmm::feature_event_index |
                                           vmm::feature_indirect_descriptors | vhost_user::feature_protocol_features;
constexpr std::uint64_t protocol_features =
    vhost_user::protocol_multiqueue | vhost_user::protocol_reply_ack | vhost_user::protocol_inflight;

std::unexpected<Error> wrong(const char* what) {
    return fail(Code::invalid_argument, std::string("vhost-user: ") + what);
}

template <class T>
std::vector<std::byte> bytes_of(const T& value) {
    const auto span = std::as_bytes(std::span(&value, 1));
    return {span.begin(), span.end()};
}

}  // namespace

// A request in guest memory. On the stack while it is served at once; kept when it is answered later.
class Backend::ChainMessage final : public fuse::Message {
  public:
    ChainMessage(Backend& backend, std::size_t ring, std::uint64_t generation, std::shared_ptr<vmm::GuestMemory> memory,
                 vmm::Chain& chain)
        : backend_(backend), ring_(ring), generation_(generation), memory_(std::move(memory)), chain_(&chain) {}

    std::uint64_t request_bytes() const override { return chain_->readable.size(); }
    std::uint64_t reply_room() const override { return chain_->writable.size(); }
    bool read(std::uint64_t offset, std::span<std::byte> out) const override {
        return chain_->readable.copy_out(offset, out) == out.size();
    }
    bool write(std::uint64_t offset, std::span<const std::byte> data) override {
        return chain_->writable.copy_in(offset, data) == data.size();
    }
    fuse::Answer<std::size_t> read_file(int fd, std::uint64_t at, std::uint64_t reply_offset,
                                        std::size_t bytes) override {
        return answer(chain_->writable.read_part(fd, at, reply_offset, bytes));
    }
    fuse::Answer<std::size_t> write_file(int fd, std::uint64_t at, std::uint64_t request_offset,
                                         std::size_t bytes) override {
        return answer(chain_->readable.write_part(fd, at, request_offset, bytes));
    }
    std::unique_ptr<fuse::Message> keep() override {
        auto kept = std::make_unique<ChainMessage>(backend_, ring_, generation_, memory_, *chain_);
        kept->own_ = std::move(*chain_);
        kept->chain_ = &kept->own_;
        *chain_ = vmm::Chain();
        return kept;
    }
    void finish(std::uint32_t reply_bytes) override { backend_.finish(ring_, generation_, chain_->head, reply_bytes); }

  private:
    static fuse::Answer<std::size_t> answer(std::int64_t done) {
        if (done < 0) return fuse::refuse(static_cast<int>(-done));
        return static_cast<std::size_t>(done);
    }
    Backend& backend_;
    std::size_t ring_;
    std::uint64_t generation_;
    std::shared_ptr<vmm::GuestMemory> memory_;  // what the chain's pieces are of
    vmm::Chain* chain_;
    vmm::Chain own_;
};

Backend::Backend(vmm::EventLoop& loop, Fd socket, fuse::FileSystem& files)
    : loop_(loop),
      socket_(std::move(socket)),
      files_(files),
      server_(files),
      alive_(std::make_shared<Backend*>(this)) {}

Backend::~Backend() {
    files_.clear();  // before what its kept messages refer to
}

Result<std::unique_ptr<Backend>> Backend::create(vmm::EventLoop& loop, Fd socket, fuse::FileSystem& files) {
    std::unique_ptr<Backend> backend(new Backend(loop, std::move(socket), files));
    TRY(backend->prepare());
    return backend;
}

Result<> Backend::prepare() {
    socket_watch_ = TRY(loop_.watch(socket_.get(), EPOLLIN, [this](std::uint32_t) {
        if (auto taken = take_message(); !taken) end(std::move(taken));
    }));
    // Waits that are to end are told so until they have: see Locks.
    lock_timer_ = TRY(vmm::Timer::create(loop_, [this] {
        files_.locks().tell_again();
        if (files_.locks().is_ending()) lock_timer_->arm(std::chrono::milliseconds(2));
    }));
    lock_watch_ = TRY(loop_.watch(files_.locks().completion_event(), EPOLLIN,
                                  [this](std::uint32_t) { files_.locks().run_completed(); }));
    return {};
}

void Backend::end(Result<> how) {
    socket_watch_.reset();
    for (Ring& ring : rings_) ring.watch.reset();
    if (!how && !problem_) problem_ = std::move(how).error();
    loop_.stop();
}

Result<> Backend::result() {
    if (problem_ && problem_->code() != Code::unavailable) return std::unexpected(problem_->clone());
    return {};
}

Result<> Backend::take_message() {
    vhost_user::Message message = TRY(vhost_user::receive(socket_.get()));
    const auto request = message.request();
    const bool wants_reply = has_protocol_features_ && (message.header.flags & vhost_user::need_reply_flag) != 0;
    auto answer = handle(message);
    if (answer && *answer) return vhost_user::send(socket_.get(), request, vhost_user::reply_flag, **answer);
    if (wants_reply) {
        const std::uint64_t status = answer ? 0 : 1;
        TRY(vhost_user::send(socket_.get(), request, vhost_user::reply_flag, status));
    }
    if (!answer) return std::unexpected(std::move(answer).error());
    return {};
}

Result<std::optional<std::vector<std::byte>>> Backend::handle(vhost_user::Message& message) {
    using vhost_user::Request;
    switch (message.request()) {
        case Request::get_features:
            return bytes_of(offered_features);
        case Request::set_features: {
            const auto chosen = TRY(message.as<std::uint64_t>());
            if ((chosen & ~offered_features) != 0) return wrong("features that were not offered");
            features_ = chosen;
            return std::nullopt;
        }
        case Request::get_protocol_features:
            return bytes_of(protocol_features);
        case Request::set_protocol_features: {
            const auto chosen = TRY(message.as<std::uint64_t>());
            if ((chosen & ~protocol_features) != 0) return wrong("protocol features that were not offered");
            has_protocol_features_ = true;
            return std::nullopt;
        }
        case Request::get_queue_num:
            return bytes_of(std::uint64_t{most_queues});
        case Request::set_owner:
        case Request::reset_owner:
            return std::nullopt;
        case Request::set_mem_table:
            TRY(set_memory(message));
            return std::nullopt;
        case Request::set_vring_num: {
            const auto state = TRY(message.as<vhost_user::VringState>());
            if (state.value == 0 || state.value > largest_queue) return wrong("size of a queue");
            TRY(ring(state.index))->size = static_cast<std::uint16_t>(state.value);
            return std::nullopt;
        }
        case Request::set_vring_addr: {
            const auto addresses = TRY(message.as<vhost_user::VringAddress>());
            Ring* target = TRY(ring(addresses.index));
            target->addresses = addresses;
            target->has_addresses = true;
            return std::nullopt;
        }
        case Request::set_vring_base: {
            const auto state = TRY(message.as<vhost_user::VringState>());
            TRY(ring(state.index))->base = static_cast<std::uint16_t>(state.value);
            return std::nullopt;
        }
        case Request::get_vring_base: {
            const auto state = TRY(message.as<vhost_user::VringState>());
            const std::uint16_t next = TRY(stop(*TRY(ring(state.index))));
            return bytes_of(vhost_user::VringState{.index = state.index, .value = next});
        }
        case Request::set_vring_kick:
            TRY(set_kick(message));
            return std::nullopt;
        case Request::set_vring_call:
            TRY(set_call(message));
            return std::nullopt;
        case Request::set_vring_err:
            return std::nullopt;
        case Request::get_inflight_fd: {
            const auto wanted = TRY(message.as<vhost_user::InflightDescription>());
            if (wanted.queues == 0 || wanted.queues > most_queues || wanted.queue_size > largest_queue)
                return wrong("queues of requests in flight");
            const auto made = TRY(vhost_user::Inflight::create(wanted.queues, wanted.queue_size));
            const int file = made.file();
            const auto description = made.description();
            TRY(vhost_user::send(socket_.get(), Request::get_inflight_fd, vhost_user::reply_flag, description,
                                 std::span(&file, 1)));
            return std::nullopt;
        }
        case Request::set_inflight_fd: {
            const auto description = TRY(message.as<vhost_user::InflightDescription>());
            if (message.fds.size() != 1) return wrong("requests in flight without their file");
            notes_ = TRY(vhost_user::Inflight::map(std::move(message.fds[0]), description));
            return std::nullopt;
        }
        case Request::set_vring_enable: {
            const auto state = TRY(message.as<vhost_user::VringState>());
            TRY(ring(state.index))->enabled = state.value != 0;
            TRY(start_if_ready(state.index));
            return std::nullopt;
        }
    }
    return wrong("a request that is not known");
}

Result<Backend::Ring*> Backend::ring(std::uint64_t index) {
    if (index >= rings_.size()) return wrong("no such queue");
    return &rings_[index];
}

Result<> Backend::set_memory(vhost_user::Message& message) {
    const auto table = TRY(message.as_memory_table());
    if (message.fds.size() != table.count) return wrong("memory without its files");
    std::vector<vmm::SharedRange> ranges;
    for (std::uint32_t i = 0; i < table.count; ++i)
        ranges.push_back({.range = {GuestAddress{table.regions[i].guest_address}, table.regions[i].bytes},
                          .file = message.fds[i].get(),
                          .file_offset = table.regions[i].file_offset});
    memory_ = TRY(vmm::GuestMemory::map(ranges));
    table_ = table;
    // Queues that are served go on where they are, in the new memory.
    for (std::size_t i = 0; i < rings_.size(); ++i) {
        if (!rings_[i].queue.started()) continue;
        rings_[i].base = rings_[i].queue.state.next_available;
        rings_[i].queue.reset();
        TRY(start_if_ready(i));
    }
    return {};
}

Result<GuestAddress> Backend::translate(std::uint64_t user_address) const {
    for (std::uint32_t i = 0; i < table_.count; ++i) {
        const auto& region = table_.regions[i];
        if (user_address >= region.user_address && user_address - region.user_address < region.bytes)
            return GuestAddress{region.guest_address + (user_address - region.user_address)};
    }
    return wrong("a queue outside of memory");
}

Result<> Backend::set_kick(vhost_user::Message& message) {
    const auto value = TRY(message.as<std::uint64_t>());
    const std::size_t index = value & vhost_user::vring_index_mask;
    Ring* target = TRY(ring(index));
    if ((value & vhost_user::vring_no_descriptor) != 0 || message.fds.size() != 1)
        return wrong("a queue without its eventfd");
    TRY(set_nonblocking(message.fds[0].get()));
    target->watch.reset();
    target->kick = std::move(message.fds[0]);
    target->watch = TRY(loop_.watch(target->kick.get(), EPOLLIN, [this, index](std::uint32_t) {
        vmm::drain_eventfd(rings_[index].kick.get());
        serve(index);
    }));
    return start_if_ready(index);
}

Result<> Backend::set_call(vhost_user::Message& message) {
    const auto value = TRY(message.as<std::uint64_t>());
    Ring* target = TRY(ring(value & vhost_user::vring_index_mask));
    target->call.reset();
    if ((value & vhost_user::vring_no_descriptor) != 0 || message.fds.size() != 1) return {};  // a guest that polls
    TRY(set_nonblocking(message.fds[0].get()));
    target->call = std::move(message.fds[0]);
    return {};
}

Result<> Backend::start_if_ready(std::size_t index) {
    Ring& target = rings_[index];
    const bool enabled = target.enabled || !has_protocol_features_;
    if (!memory_ || !target.kick || !target.has_addresses || target.size == 0 || !enabled || target.queue.started())
        return {};
    vmm::QueueState& state = target.queue.state;
    state.size = target.size;
    state.ready = true;
    state.descriptors = TRY(translate(target.addresses.descriptors));
    state.available = TRY(translate(target.addresses.available));
    state.used = TRY(translate(target.addresses.used));
    state.event_index = (features_ & vmm::feature_event_index) != 0;
    state.indirect = (features_ & vmm::feature_indirect_descriptors) != 0;
    state.next_available = target.base;
    TRY(target.queue.start(memory_));
    // Where the device was before, its ring tells.
    state.next_used = state.signalled_used = memory_->load_acquire(state.used + 2).value_or(0);
    if (notes_ && !target.is_continued) TRY(refuse_what_is_left(index));
    target.is_continued = true;
    serve(index);
    return {};
}

Result<> Backend::refuse_what_is_left(std::size_t index) {
    vmm::Queue& queue = rings_[index].queue;
    const auto left = notes_->left(static_cast<std::uint16_t>(index), queue.state.next_used);
    if (left.empty()) return {};
    queue.state.next_available = static_cast<std::uint16_t>(queue.state.next_used + left.size());
    for (const std::uint16_t head : left) {
        TRY(queue.read_chain(head, chain_));
        ChainMessage message(*this, index, rings_[index].generation, memory_, chain_);
        push(index, head, fuse::Server::refuse_unseen(message));
    }
    signal(rings_[index]);
    return {};
}

Result<std::uint16_t> Backend::stop(Ring& target) {
    const std::uint16_t next = target.queue.started() ? target.queue.state.next_available : target.base;
    target.watch.reset();
    target.kick.reset();
    target.queue.reset();
    target.enabled = false;
    target.base = next;
    target.is_continued = false;
    ++target.generation;
    return next;
}

void Backend::serve(std::size_t index) {
    if (auto served = serve_some(index); !served) end(std::move(served));
}

Result<> Backend::serve_some(std::size_t index) {
    Ring& target = rings_[index];
    if (!target.queue.started() || (has_protocol_features_ && !target.enabled)) return {};
    // The monitor's messages and the other queues get their turn.
    constexpr unsigned turn = 128;
    for (unsigned count = 0; TRY(target.queue.pop(chain_)); ++count) {
        if (count == turn) {
            target.queue.undo_pop();
            loop_.post([alive = std::weak_ptr(alive_), index] {
                if (const auto backend = alive.lock()) (*backend)->serve(index);
            });
            break;
        }
        const std::uint16_t head = chain_.head;
        if (notes_) notes_->taken(static_cast<std::uint16_t>(index), head);
        ChainMessage message(*this, index, target.generation, memory_, chain_);
        const auto bytes = server_.handle(message);
        if (bytes) push(index, head, *bytes);
        if (files_.locks().is_ending()) lock_timer_->arm(std::chrono::milliseconds(2));
    }
    signal(target);
    return {};
}

void Backend::signal(Ring& target) {
    if (target.queue.take_signal() && target.call) vmm::signal_eventfd(target.call.get());
}

void Backend::finish(std::size_t index, std::uint64_t generation, std::uint16_t head, std::uint32_t bytes) {
    Ring& target = rings_[index];
    if (target.generation != generation || !target.queue.started()) return;
    push(index, head, bytes);
    signal(target);
}

void Backend::push(std::size_t index, std::uint16_t head, std::uint32_t bytes) {
    vmm::Queue& queue = rings_[index].queue;
    const auto number = static_cast<std::uint16_t>(index);
    if (notes_) notes_->answering(number, head);
    queue.push(head, bytes);
    if (notes_) notes_->answered(number, head, queue.state.next_used);
}

}  // namespace wherry::fs
