// What every virtio device shares, whatever carries it to the guest (memory-mapped registers now, PCI functions
// later). A device knows its queues and its configuration space; a transport knows registers and interrupts.
//
// Locking: one mutex a device. The transport takes it on the processors' threads (registers), run_locked() and
// watch() take it on the device thread (queues, host descriptors). The on_... functions run with it held. A device is
// destroyed on the device thread, or when that has ended: its callbacks run there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "vmm/core/event_loop.hpp"
#include "vmm/memory/guest_memory.hpp"
#include "vmm/virtio/queue.hpp"

namespace wherry::vmm {

// Virtio 1.2, section 5.
enum class DeviceType : std::uint32_t {
    net = 1,
    block = 2,
    entropy = 4,
    balloon = 5,
    vsock = 19,
    mem = 24,
    fs = 26,
    pmem = 27
};

// Section 6.
inline constexpr std::uint64_t feature_indirect_descriptors = 1ULL << 28U;
inline constexpr std::uint64_t feature_event_index = 1ULL << 29U;
inline constexpr std::uint64_t feature_version_1 = 1ULL << 32U;

// How a transport tells the guest. Thread-safe.
class Interrupt {
  public:
    Interrupt() = default;
    Interrupt(const Interrupt&) = delete;
    Interrupt& operator=(const Interrupt&) = delete;
    virtual ~Interrupt() = default;
    virtual void queue_used(std::uint16_t queue) = 0;
    // An eventfd that does the same when another process writes to it; -1: there is none, ask queue_used().
    virtual int queue_event(std::uint16_t /*queue*/) { return -1; }
    virtual void configuration_changed() = 0;
    // The device is broken until the guest resets it (DEVICE_NEEDS_RESET).
    virtual void needs_reset() = 0;
};

// What every device has to keep over a snapshot; each has a State of its own around it (devices/<name>/state.hpp).
struct DeviceState {
    bool active = false;
    bool broken = false;
    std::uint64_t features = 0;  // as negotiated
    std::vector<QueueState> queues;

    friend bool operator==(const DeviceState&, const DeviceState&) = default;
    void fields(this auto& self, auto&& f) { f(self.active, self.broken, self.features, self.queues); }
};

class Device {
  public:
    Device(EventLoop& loop, std::string id, std::span<const std::uint16_t> queue_sizes);
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;
    virtual ~Device();

    const std::string& id() const { return id_; }
    virtual DeviceType type() const = 0;
    // All the device can do; the transport offers it to the driver.
    virtual std::uint64_t offered_features() const = 0;
    // The configuration space as it is now.
    virtual std::vector<std::byte> configuration() const = 0;
    virtual void write_configuration(std::uint32_t /*offset*/, std::span<const std::byte> /*data*/) {}

    // A device whose queues another process serves takes the eventfds that the guest's notifications arrive at; the
    // transport leaves them alone then.
    virtual bool takes_queue_events(std::span<const int> /*events*/) { return false; }

    // For the transport, with the mutex held.
    std::mutex& mutex() { return mutex_; }
    std::span<Queue> queues() { return queues_; }
    Result<> activate(std::uint64_t features, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt);
    void reset();
    bool active() const { return interrupt_ != nullptr; }

    // The guest has work in a queue. Takes the lock.
    void notify(std::uint16_t queue);
    // Runs f with the lock held.
    template <class F>
    auto run_locked(F f) {
        const std::lock_guard lock(mutex_);
        return f();
    }

  protected:
    virtual Result<> on_activate() { return {}; }
    virtual void on_reset() {}
    // An error means that the guest broke the rules: the device asks for a reset and stops.
    virtual Result<> on_queue(std::uint16_t queue) = 0;

    // With the lock held. Restoring puts a device that was just created where another one was: invalid_argument when
    // the state cannot be one of its, on_activate() when it was active; its queues are looked at as soon as the loop
    // runs again, for what came while nobody did.
    DeviceState save_common() const;
    Result<> restore_common(const DeviceState& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt);

    EventLoop& loop() { return loop_; }
    Queue& queue(std::uint16_t index) { return queues_[index]; }
    GuestMemory& memory() { return *memory_; }
    Interrupt& interrupt() { return *interrupt_; }  // while active
    std::uint64_t features() const { return features_; }
    bool has_feature(unsigned bit) const { return ((features_ >> bit) & 1U) != 0; }
    // Working: active and not broken.
    bool working() const { return active() && !broken_; }
    // Interrupts the guest if it wants to hear of what was pushed.
    void signal(std::uint16_t queue);
    void signal_configuration();
    void break_device(const Error& error);
    // A guest that keeps a queue full must not keep the device thread: after this many requests at a time the others
    // get their turn, and again() goes on with the queue.
    static constexpr unsigned turn = 1024;
    void again(std::uint16_t queue);
    // Runs f, on the device thread with the lock held, while the device is active or not; an error breaks it.
    Result<Watch> watch(int fd, std::uint32_t events, std::function<Result<>(std::uint32_t events)> f);
    Result<std::unique_ptr<Timer>> make_timer(std::function<Result<>()> f);

  private:
    EventLoop& loop_;
    std::string id_;
    std::mutex mutex_;
    std::vector<Queue> queues_;
    std::uint64_t features_ = 0;
    std::shared_ptr<GuestMemory> memory_;
    Interrupt* interrupt_ = nullptr;
    bool broken_ = false;
    // Callbacks that are on their way when the device ends find this gone.
    std::shared_ptr<Device*> alive_;
};

}  // namespace wherry::vmm
