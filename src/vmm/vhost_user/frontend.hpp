// The monitor's end of vhost-user: tells another process of the guest's memory and queues, and asks it to start and
// stop serving them. Addresses of rings are sent as the guest's own: where the memory is mapped here is nobody's
// business. Calls wait for the other end at most as long as `patience`; after an error the connection is of no use.
//
// Belongs to the device's lock.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/memory/guest_memory.hpp"
#include "vmm/vhost_user/inflight.hpp"
#include "vmm/vhost_user/message.hpp"
#include "vmm/virtio/queue.hpp"

namespace wherry::vmm::vhost_user {

class Frontend {
  public:
    static constexpr std::chrono::seconds patience{10};

    // Connects, and learns what the other end can do; `wanted` are the features the device could offer.
    static Result<Frontend> connect(const std::string& path, std::uint64_t wanted, std::uint16_t queues);
    // The same on a connected socket.
    static Result<Frontend> greet(Fd socket, std::uint64_t wanted, std::uint16_t queues,
                                  std::chrono::seconds wait = patience);

    std::uint64_t features() const { return features_; }
    // Whether the other end notes what it has taken and not answered, so that it can be replaced.
    bool notes_requests() const { return notes_requests_; }
    int socket() const { return socket_.get(); }

    // The guest's driver is ready with these features. The memory must be of a file (GuestMemory::is_shareable). The
    // notes are given to an other end that makes some.
    Result<> start(std::uint64_t features, const GuestMemory& memory, const Inflight* notes = nullptr);
    // One queue that the guest configured: kicks are read from one eventfd, calls written to the other.
    Result<> start_queue(std::uint16_t index, const QueueState& state, int kick, int call);
    // Afterwards the other end touches the queue no more; the index of the next request it would have taken.
    Result<std::uint16_t> stop_queue(std::uint16_t index);

  private:
    Frontend() = default;
    template <class T>
    Result<> tell(Request request, const T& value, std::span<const int> fds = {});
    template <class T>
    Result<T> ask(Request request, std::span<const std::byte> payload = {});

    Fd socket_;
    std::uint64_t features_ = 0;
    bool has_protocol_features_ = false;
    bool acknowledges_ = false;
    bool notes_requests_ = false;
};

}  // namespace wherry::vmm::vhost_user
