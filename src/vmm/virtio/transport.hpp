// What every transport does alike, whatever its registers look like: device status, feature negotiation, queue
// selection (Virtio 1.2, sections 2.1, 2.2 and 3.1), and the eventfds behind queue notifications.
//
// Threads: registers are accessed on the processors' threads. Fields without "atomic" belong to the device's mutex.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/virtio/device.hpp"

namespace wherry::vmm {

// Section 2.1.
inline constexpr std::uint32_t status_driver_ok = 4;
inline constexpr std::uint32_t status_features_ok = 8;
inline constexpr std::uint32_t status_needs_reset = 64;
inline constexpr std::uint32_t status_failed = 128;

// The registers that every transport has over a snapshot; the device's and its queues' are in the device's state.
struct TransportState {
    std::uint32_t status = 0;
    std::uint32_t generation = 0;
    std::uint32_t device_features_select = 0;
    std::uint32_t driver_features_select = 0;
    std::uint64_t driver_features = 0;
    std::uint32_t queue_select = 0;

    friend bool operator==(const TransportState&, const TransportState&) = default;
    void fields(this auto& self, auto&& f) {
        f(self.status, self.generation, self.device_features_select, self.driver_features_select, self.driver_features,
          self.queue_select);
    }
};

struct SlotState;  // slot_state.hpp

class Transport : public Interrupt {
  public:
    Device& device() { return *device_; }
    // One eventfd a queue, for KVM's ioeventfds.
    std::vector<int> queue_events() const;
    // The device status: 0 when no driver has it.
    std::uint32_t status() const { return status_.load(); }
    // While the processors stand still; each kind of transport puts its own state there. Before the device's restore().
    virtual Result<> save_slot(SlotState& state);
    virtual Result<> restore_slot(const SlotState& state);
    // After a restore, when the interrupt controllers are there: interrupts that the guest has not acknowledged.
    virtual void raise_pending() {}

  protected:
    Transport(std::shared_ptr<Device> device, std::shared_ptr<GuestMemory> memory)
        : device_(std::move(device)), memory_(std::move(memory)) {}
    Result<> watch_queues(EventLoop& loop);
    // A notification that the kernel did not take.
    void notify_queue(std::uint32_t queue) const;

    // With the device's mutex held.
    TransportState save_common() const;
    void restore_common(const TransportState& state);
    std::uint32_t read_device_features() const;  // the word that device_features_select_ names
    std::uint32_t read_driver_features() const;
    void write_driver_features(std::uint32_t value);
    void write_status(std::uint32_t value);
    Queue* selected_queue();
    // The queue while the driver may still change it: none once the device is active.
    QueueState* selected_queue_state();
    static void set_half(GuestAddress& address, bool high, std::uint32_t value);

    // Hooks of write_status(), with the mutex held: the device works now; the driver has reset it.
    virtual void on_active() {}
    virtual void on_reset() {}

    std::shared_ptr<Device> device_;
    std::shared_ptr<GuestMemory> memory_;
    std::vector<Fd> queue_events_;
    std::vector<Watch> watches_;
    std::atomic<std::uint32_t> status_ = 0;
    std::atomic<std::uint32_t> generation_ = 0;
    std::uint32_t device_features_select_ = 0;
    std::uint32_t driver_features_select_ = 0;
    std::uint64_t driver_features_ = 0;
    std::uint32_t queue_select_ = 0;
};

}  // namespace wherry::vmm
