// A PCI Express root port with a hotplug slot (PCI Express Base 5.0, sections 6.7 and 7.5.3): a bridge to a bus of its
// own that has room for one function. Plugging raises the slot's presence and link events; the guest finds the function
// by itself. Removing presses the attention button: the guest takes its driver off, which takes Linux five seconds
// (the time its user has to press again), and switches the power indicator off. Then the function may go.
//
//     guest                               port                                  machine
//                      presence, link <-- plug(function)                     <- plug
//     driver off  <--  attention button <- request_removal()                 <- unplug
//     indicator off -> released()                                            -> unplug(): presence, link
//
// Thread-safe; registers are accessed on the processors' threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "base/result.hpp"
#include "vmm/pci/configuration_space.hpp"
#include "vmm/pci/function.hpp"

namespace wherry::vmm::pci {

struct RootPortState {
    ConfigurationSpace::Registers registers = {};
    bool is_removing = false;

    friend bool operator==(const RootPortState&, const RootPortState&) = default;
    void fields(this auto& self, auto&& f) { f(self.registers, self.is_removing); }
};

class RootPort final : public Function {
  public:
    struct Place {
        std::uint8_t number = 0;         // of port and slot, as the guest shows it
        std::uint8_t secondary_bus = 0;  // until the guest numbers its buses itself
        Window memory;                   // likewise; whole MiB, below 4 GiB
    };
    // `released` is called on a processor's thread when the guest is done with a function that is to be removed.
    RootPort(Host& host, const Place& place, std::function<void()> released);

    const Place& place() const { return place_; }
    bool is_occupied();
    // Before the guest runs: as if it had always been there.
    void insert(std::shared_ptr<Function> function);
    // While it runs.
    void plug(std::shared_ptr<Function> function);
    // Asks the guest to let go. conflict when its driver of the slot does not listen. Asking again while the
    // guest is at it changes nothing.
    Result<> request_removal();
    // Whether the guest has let go since then.
    bool is_released();
    // Takes the function away, whatever the guest thinks of it.
    std::shared_ptr<Function> unplug();

    // The function on bus `bus`, if that is this port's and device 0.
    std::shared_ptr<Function> on_bus(std::uint8_t bus);
    // The function when the port lets accesses to this memory through.
    std::shared_ptr<Function> behind(std::uint64_t address, std::uint64_t bytes);

    void read_configuration(std::uint32_t offset, std::span<std::byte> out) override;
    void write_configuration(std::uint32_t offset, std::span<const std::byte> data) override;

    RootPortState save();
    // The function behind it has been inserted.
    void restore(const RootPortState& state);

  private:
    // With the lock held.
    void show_link(bool is_up);
    void raise(std::uint16_t events);
    void interrupt();

    Host& host_;
    const Place place_;
    std::function<void()> released_;
    std::mutex mutex_;
    ConfigurationSpace space_;
    std::uint8_t express_ = 0;  // offsets of capabilities
    std::uint8_t msi_ = 0;
    std::shared_ptr<Function> function_;
    bool is_removing_ = false;
    std::int64_t pressed_ns_ = 0;
};

}  // namespace wherry::vmm::pci
