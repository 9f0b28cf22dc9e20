// The other end of a shared folder's device: takes the monitor's vhost-user messages, and serves the guest's queues
// with a FUSE server. Messages, rings and requests are all hostile. One thread, on the loop.
//
//     auto backend = TRY(Backend::create(*loop, socket, *file_system));
//     TRY(loop->run());
//     TRY(backend->result());
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "fuse/server.hpp"
#include "vmm/core/event_loop.hpp"
#include "vmm/memory/guest_memory.hpp"
#include "vmm/vhost_user/inflight.hpp"
#include "vmm/vhost_user/message.hpp"
#include "vmm/virtio/queue.hpp"

namespace wherry::fs {

class Backend {
  public:
    static constexpr std::size_t most_queues = 9;  // one for forgets, the rest for requests
    static constexpr std::uint16_t largest_queue = 1024;

    static Result<std::unique_ptr<Backend>> create(vmm::EventLoop& loop, Fd socket, fuse::FileSystem& files);
    ~Backend();
    Backend(const Backend&) = delete;
    Backend& operator=(const Backend&) = delete;

    // How it ended, once the loop has stopped: well when the monitor closed the connection.
    Result<> result();

  private:
    class ChainMessage;
    struct Ring {
        vmm::Queue queue{largest_queue};
        // As the monitor counts; translated when the ring starts.
        vmm::vhost_user::VringAddress addresses;
        bool has_addresses = false;
        bool enabled = false;
        std::uint16_t size = 0;
        std::uint16_t base = 0;
        bool is_continued = false;     // by this process: nothing is left of another one
        std::uint64_t generation = 0;  // of what was popped before it stopped, nothing is answered
        Fd kick, call;
        vmm::Watch watch;
    };
    Backend(vmm::EventLoop& loop, Fd socket, fuse::FileSystem& files);
    Result<> prepare();

    Result<> take_message();
    // The answer of those that have one.
    Result<std::optional<std::vector<std::byte>>> handle(vmm::vhost_user::Message& message);
    Result<> set_memory(vmm::vhost_user::Message& message);
    Result<Ring*> ring(std::uint64_t index);
    Result<> set_kick(vmm::vhost_user::Message& message);
    Result<> set_call(vmm::vhost_user::Message& message);
    Result<std::uint16_t> stop(Ring& ring);
    Result<> start_if_ready(std::size_t index);
    Result<vmm::GuestAddress> translate(std::uint64_t user_address) const;

    // What another process had taken of this queue and not answered is refused.
    Result<> refuse_what_is_left(std::size_t index);
    void push(std::size_t index, std::uint16_t head, std::uint32_t bytes);
    void serve(std::size_t index);
    Result<> serve_some(std::size_t index);
    void finish(std::size_t ring, std::uint64_t generation, std::uint16_t head, std::uint32_t bytes);
    void signal(Ring& ring);
    void end(Result<> how);

    vmm::EventLoop& loop_;
    Fd socket_;
    fuse::FileSystem& files_;
    fuse::Server server_;
    vmm::Watch socket_watch_, lock_watch_;
    std::unique_ptr<vmm::Timer> lock_timer_;
    std::uint64_t features_ = 0;
    bool has_protocol_features_ = false;
    std::shared_ptr<vmm::GuestMemory> memory_;
    vmm::vhost_user::MemoryTable table_;
    std::array<Ring, most_queues> rings_;
    std::optional<vmm::vhost_user::Inflight> notes_;
    vmm::Chain chain_;
    std::optional<Error> problem_;
    // Work that was posted when this ends finds it gone.
    std::shared_ptr<Backend*> alive_;
};

}  // namespace wherry::fs
