// virtio over PCI (Virtio 1.2, section 4.1): one function whose only BAR holds the registers, a page a kind, and the
// MSI-X table. A write to a queue's notification address is an eventfd in the kernel while a driver has the device;
// interrupts are messages. There are no legacy registers and no interrupt lines.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/result.hpp"
#include "vmm/pci/configuration_space.hpp"
#include "vmm/pci/function.hpp"
#include "vmm/pci/msix.hpp"
#include "vmm/virtio/transport.hpp"

namespace wherry::vmm {

struct PciState {
    TransportState transport;
    pci::ConfigurationSpace::Registers registers = {};
    pci::MsixState msix;
    std::uint8_t isr = 0;
    std::uint16_t configuration_vector = 0;
    std::vector<std::uint16_t> queue_vectors;

    friend bool operator==(const PciState&, const PciState&) = default;
    void fields(this auto& self, auto&& f) {
        f(self.transport, self.registers, self.msix, self.isr, self.configuration_vector, self.queue_vectors);
    }
};

class PciTransport final : public pci::Function, public Transport {
  public:
    static constexpr std::uint32_t bar_bytes = 0x8000;

    // `reach` is where BARs may lie for the machine to see them; `address` where this one's is from the start, 0 to
    // leave it to the guest.
    static Result<std::shared_ptr<PciTransport>> create(EventLoop& loop, std::shared_ptr<Device> device,
                                                        std::shared_ptr<GuestMemory> memory, pci::Host& host,
                                                        const pci::Window& reach, std::uint32_t address);
    ~PciTransport() override;

    // The end: the device is reset, and the guest finds nothing here any more.
    void detach();
    bool is_driven();

    // While the processors stand still; restoring comes before the device's, and raise_pending() after everything.
    PciState save();
    Result<> restore(const PciState& state);
    Result<> save_slot(SlotState& state) override;
    Result<> restore_slot(const SlotState& state) override;
    void raise_pending() override;

    void read_configuration(std::uint32_t offset, std::span<std::byte> out) override;
    void write_configuration(std::uint32_t offset, std::span<const std::byte> data) override;
    std::optional<pci::Window> window() override;
    void read_memory(std::uint64_t offset, std::span<std::byte> out) override;
    void write_memory(std::uint64_t offset, std::span<const std::byte> data) override;

    void queue_used(std::uint16_t queue) override;
    void configuration_changed() override;
    void needs_reset() override;

  private:
    PciTransport(std::shared_ptr<Device> device, std::shared_ptr<GuestMemory> memory, pci::Host& host,
                 const pci::Window& reach);
    void describe(std::uint32_t address);
    void add_virtio_capability(std::uint8_t type, std::uint32_t offset, std::uint32_t bytes, std::uint32_t more);
    void on_active() override { update_doorbells(); }
    void on_reset() override;
    void signal_configuration_change();

    // With the device's mutex held.
    std::optional<pci::Window> decoded() const;
    void update_doorbells();
    void read_region(std::uint64_t offset, std::span<std::byte> out);
    void write_region(std::uint64_t offset, std::span<const std::byte> data);
    std::uint32_t read_common(std::uint64_t offset);
    void write_common(std::uint64_t offset, std::uint32_t value);
    void write_queue(std::uint64_t offset, std::uint32_t value);
    std::uint16_t known_vector(std::uint32_t value) const;
    // The part of the BAR that the access capability names now, if it is one.
    struct Access {
        std::uint32_t offset = 0;
        std::uint32_t bytes = 0;
    };
    std::optional<Access> indirect_access() const;

    pci::Host& host_;
    const pci::Window reach_;
    pci::ConfigurationSpace space_;
    pci::Msix msix_;
    std::uint8_t msix_capability_ = 0;
    std::uint8_t access_capability_ = 0;
    std::atomic<std::uint8_t> isr_ = 0;
    std::atomic<std::uint16_t> configuration_vector_;
    std::vector<std::atomic<std::uint16_t>> queue_vectors_;
    bool is_detached_ = false;
    std::optional<std::uint64_t> doorbells_at_;
};

}  // namespace wherry::vmm
