// virtio over memory-mapped registers (Virtio 1.2, section 4.2), version 2. One page of registers and one interrupt
// line a device; a write to QueueNotify is an eventfd in the kernel and never leaves it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/core/bus.hpp"
#include "vmm/virtio/transport.hpp"

namespace wherry::vmm {

inline constexpr std::uint64_t mmio_bytes = 0x1000;
inline constexpr std::uint32_t mmio_queue_notify = 0x050;

struct MmioState {
    TransportState transport;
    std::uint32_t interrupt_status = 0;

    friend bool operator==(const MmioState&, const MmioState&) = default;
    void fields(this auto& self, auto&& f) { f(self.transport, self.interrupt_status); }
};

class MmioTransport final : public BusDevice, public Transport {
  public:
    // `interrupt` is signalled (an eventfd that KVM knows as an interrupt line, or a test's).
    static Result<std::shared_ptr<MmioTransport>> create(EventLoop& loop, std::shared_ptr<Device> device,
                                                         std::shared_ptr<GuestMemory> memory, Fd interrupt);

    int interrupt_event() const { return interrupt_.get(); }

    Result<> save_slot(SlotState& state) override;
    Result<> restore_slot(const SlotState& state) override;
    void raise_pending() override;

    void read(std::uint64_t offset, std::span<std::byte> out) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

    void queue_used(std::uint16_t queue) override;
    // From then on every interrupt may be for a queue: the other process does not set the register's bit.
    int queue_event(std::uint16_t queue) override;
    void configuration_changed() override;
    void needs_reset() override;

  private:
    MmioTransport(std::shared_ptr<Device> device, std::shared_ptr<GuestMemory> memory, Fd interrupt)
        : Transport(std::move(device), std::move(memory)), interrupt_(std::move(interrupt)) {}
    std::uint32_t read_register(std::uint64_t offset);
    void write_register(std::uint64_t offset, std::uint32_t value);
    void write_queue(std::uint64_t offset, std::uint32_t value);
    void on_reset() override;

    Fd interrupt_;
    std::atomic<std::uint32_t> interrupt_status_ = 0;
    std::atomic<bool> others_interrupt_ = false;
};

}  // namespace wherry::vmm
