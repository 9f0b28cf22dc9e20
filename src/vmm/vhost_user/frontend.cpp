#include "vmm/vhost_user/frontend.hpp"

#include <sys/socket.h>
#include <sys/time.h>

#include <vector>

namespace wherry::vmm::vhost_user {
namespace {

// virtio's own, whatever the device.
constexpr std::uint64_t version_1 = 1ULL << 32U;

Result<> set_patience(int socket, std::chrono::seconds patience) {
    const timeval time = {.tv_sec = patience.count(), .tv_usec = 0};
    for (int option : {SO_RCVTIMEO, SO_SNDTIMEO})
        if (setsockopt(socket, SOL_SOCKET, option, &time, sizeof time) != 0) return fail_errno("timeout of the socket");
    return {};
}

}  // namespace

template <class T>
Result<> Frontend::tell(Request request, const T& value, std::span<const int> fds) {
    TRY(send(socket_.get(), request, acknowledges_ ? need_reply_flag : 0, value, fds));
    if (!acknowledges_) return {};
    const Message message = TRY(receive(socket_.get()));
    if (message.header.request != static_cast<std::uint32_t>(request) || (message.header.flags & reply_flag) == 0)
        return fail(Code::invalid_argument, "vhost-user: an answer to another question");
    if (TRY(message.as<std::uint64_t>()) != 0) return fail(Code::unavailable, "vhost-user: the other end refuses");
    return {};
}

template <class T>
Result<T> Frontend::ask(Request request, std::span<const std::byte> payload) {
    TRY(send(socket_.get(), request, 0, payload));
    const Message message = TRY(receive(socket_.get()));
    if (message.header.request != static_cast<std::uint32_t>(request) || (message.header.flags & reply_flag) == 0)
        return fail(Code::invalid_argument, "vhost-user: an answer to another question");
    return message.as<T>();
}

Result<Frontend> Frontend::connect(const std::string& path, std::uint64_t wanted, std::uint16_t queues) {
    return greet(TRY(connect_unix(path)), wanted, queues);
}

Result<Frontend> Frontend::greet(Fd socket, std::uint64_t wanted, std::uint16_t queues, std::chrono::seconds wait) {
    Frontend frontend;
    frontend.socket_ = std::move(socket);
    TRY(set_patience(frontend.socket_.get(), wait));
    const auto offered = TRY(frontend.ask<std::uint64_t>(Request::get_features));
    if ((offered & version_1) == 0) return fail(Code::invalid_argument, "vhost-user: the other end knows no virtio 1");
    frontend.features_ = offered & wanted;
    if ((offered & feature_protocol_features) != 0) {
        frontend.has_protocol_features_ = true;
        const auto protocol = TRY(frontend.ask<std::uint64_t>(Request::get_protocol_features));
        const std::uint64_t used = protocol & (protocol_reply_ack | protocol_multiqueue | protocol_inflight);
        TRY(send(frontend.socket_.get(), Request::set_protocol_features, 0, used));
        frontend.acknowledges_ = (used & protocol_reply_ack) != 0;
        frontend.notes_requests_ = (used & protocol_inflight) != 0;
        if ((used & protocol_multiqueue) != 0) {
            const auto most = TRY(frontend.ask<std::uint64_t>(Request::get_queue_num));
            if (most < queues) return fail(Code::invalid_argument, "vhost-user: the other end serves too few queues");
        }
    }
    TRY(send(frontend.socket_.get(), Request::set_owner, frontend.acknowledges_ ? need_reply_flag : 0,
             std::span<const std::byte>()));
    if (frontend.acknowledges_) TRY(receive(frontend.socket_.get()));
    return frontend;
}

Result<> Frontend::start(std::uint64_t features, const GuestMemory& memory, const Inflight* notes) {
    std::uint64_t chosen = features & (features_ | version_1);
    if (has_protocol_features_) chosen |= feature_protocol_features;
    TRY(tell(Request::set_features, chosen));
    const auto shared = TRY(memory.shared_ranges());
    if (shared.size() > most_regions) return fail(Code::resource_exhausted, "vhost-user: too many ranges of memory");
    MemoryTable table;
    std::vector<int> fds;
    for (const SharedRange& range : shared) {
        table.regions[table.count++] = {.guest_address = range.range.start.value,
                                        .bytes = range.range.bytes,
                                        .user_address = range.range.start.value,
                                        .file_offset = range.file_offset};
        fds.push_back(range.file);
    }
    TRY(tell(Request::set_mem_table, table, fds));
    if (!notes_requests_ || notes == nullptr) return {};
    const int file = notes->file();
    return tell(Request::set_inflight_fd, notes->description(), std::span(&file, 1));
}

Result<> Frontend::start_queue(std::uint16_t index, const QueueState& state, int kick, int call) {
    TRY(tell(Request::set_vring_num, VringState{.index = index, .value = state.size}));
    TRY(tell(Request::set_vring_addr, VringAddress{.index = index,
                                                   .flags = 0,
                                                   .descriptors = state.descriptors.value,
                                                   .used = state.used.value,
                                                   .available = state.available.value,
                                                   .log = 0}));
    TRY(tell(Request::set_vring_base, VringState{.index = index, .value = state.next_available}));
    TRY(tell(Request::set_vring_call, std::uint64_t{index}, std::span(&call, 1)));
    TRY(tell(Request::set_vring_kick, std::uint64_t{index}, std::span(&kick, 1)));
    if (has_protocol_features_) TRY(tell(Request::set_vring_enable, VringState{.index = index, .value = 1}));
    return {};
}

Result<std::uint16_t> Frontend::stop_queue(std::uint16_t index) {
    const VringState state = {.index = index, .value = 0};
    const auto answer = TRY(ask<VringState>(Request::get_vring_base, std::as_bytes(std::span(&state, 1))));
    return static_cast<std::uint16_t>(answer.value);
}

}  // namespace wherry::vmm::vhost_user
