// What the monitor finds when the process of a shared folder is gone: notes of requests in flight that anything may be
// written to, and queues of a guest that does the same. The input: notes of the second queue first, then the guest's
// memory from that queue's rings on.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>

#include "base/log.hpp"
#include "vmm/devices/fs/device.hpp"
#include "vmm/testing/driver.hpp"
#include "vmm/vhost_user/message.hpp"

namespace wherry::vmm {
namespace {

using vhost_user::Request;

constexpr std::uint64_t memory_bytes = 1U << 16U;
constexpr std::size_t notes_bytes = 16 + 16 * std::size_t{16};  // as many as the queue has descriptors

// Answers before there are questions: a process that does all, and does nothing.
void answer(int socket, Request request, std::uint64_t value) {
    if (!vhost_user::send(socket, request, vhost_user::reply_flag, value)) abort();
}

void run(std::span<const std::byte> input) {
    static const auto memory = testing::make_memory(memory_bytes);
    memory->fill(GuestAddress{0}, memory_bytes, std::byte{0});
    auto [monitor, other] = *make_socket_pair(SOCK_STREAM);
    answer(
        other.get(), Request::get_features,
        feature_version_1 | feature_event_index | feature_indirect_descriptors | vhost_user::feature_protocol_features);
    answer(other.get(), Request::get_protocol_features, vhost_user::protocol_inflight);
    const auto loop = *EventLoop::create();
    const auto device = *fs::FsDevice::create(*loop, {.id = "f", .tag = "tag", .socket = {}}, std::move(monitor));
    testing::CountingInterrupt interrupt;
    {
        const std::lock_guard lock(device->mutex());
        testing::Driver(*memory, 0x4000).configure(device->queues()[1].state);
        if (!device->activate(feature_version_1 | feature_event_index | feature_indirect_descriptors, memory,
                              interrupt))
            abort();
    }
    // The notes came along with the questions.
    while (auto message = vhost_user::receive(other.get())) {
        if (message->request() != Request::set_inflight_fd) continue;
        const auto description = *message->as<vhost_user::InflightDescription>();
        const std::span<const std::byte> notes = input.first(std::min(input.size(), notes_bytes));
        input = input.subspan(notes.size());
        if (pwrite(message->fds.at(0).get(), notes.data(), notes.size(), static_cast<off_t>(description.bytes / 2)) < 0)
            abort();
        break;
    }
    memory->write_bytes(GuestAddress{0x4000}, input.first(std::min<std::size_t>(input.size(), memory_bytes - 0x4000)));
    shutdown(other.get(), SHUT_RDWR);
    std::function<void()> wait = [&] {
        if (device->metrics.backend_gone_count.total() > 0) return loop->stop();
        loop->post(wait);
    };
    loop->post(wait);
    if (!loop->run()) abort();
    device->notify(1);
    const std::lock_guard lock(device->mutex());
    if (device->metrics.refused_count.total() > 0x10000 + 16) abort();
    device->reset();
}

}  // namespace
}  // namespace wherry::vmm

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    wherry::set_log_level(wherry::LogLevel::off);
    if (size < (1U << 15U)) wherry::vmm::run(std::as_bytes(std::span(data, size)));
    return 0;
}
