// Bus 0 and what is behind it: finds the function that an access means, and gives the machine's buses their ways in:
// the memory-mapped configuration space (ECAM), the ports 0xcf8 and 0xcfc for kernels without ACPI, and the window of
// memory where BARs are placed. Filled before the processors run; after that only root ports change, which lock
// themselves.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "vmm/core/bus.hpp"
#include "vmm/pci/function.hpp"
#include "vmm/pci/root_port.hpp"

namespace wherry::vmm::pci {

class RootComplex {
  public:
    // With a host bridge as device 0.
    explicit RootComplex(const Window& window);

    // On bus 0; device below 32, function below 8.
    void add(unsigned device, unsigned function, std::shared_ptr<Function> what);
    void add_port(unsigned device, unsigned function, std::shared_ptr<RootPort> port);
    const std::vector<std::shared_ptr<RootPort>>& ports() const { return ports_; }

    std::shared_ptr<Function> find(std::uint8_t bus, std::uint8_t device_and_function) const;
    std::shared_ptr<Function> find_memory(std::uint64_t address, std::uint64_t bytes) const;
    const Window& window() const { return window_; }

  private:
    Window window_;
    std::array<std::shared_ptr<Function>, 256> functions_;
    std::vector<std::shared_ptr<Function>> with_memory_;  // of bus 0, without the ports
    std::vector<std::shared_ptr<RootPort>> ports_;
};

// PCI Express Base 5.0, section 7.2.2: 1 MiB a bus.
class EnhancedConfiguration final : public BusDevice {
  public:
    explicit EnhancedConfiguration(std::shared_ptr<RootComplex> complex) : complex_(std::move(complex)) {}
    void read(std::uint64_t offset, std::span<std::byte> out) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

  private:
    std::shared_ptr<RootComplex> complex_;
};

// PCI Local Bus 3.0, section 3.2.2.3.2: an address port and a data port, four bytes each.
class ConfigurationPorts final : public BusDevice {
  public:
    explicit ConfigurationPorts(std::shared_ptr<RootComplex> complex) : complex_(std::move(complex)) {}
    void read(std::uint64_t offset, std::span<std::byte> out) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    std::uint32_t save() const { return address_.load(); }
    void restore(std::uint32_t address) { address_ = address; }

  private:
    std::shared_ptr<Function> selected() const;

    std::shared_ptr<RootComplex> complex_;
    std::atomic<std::uint32_t> address_ = 0;
};

// The window of memory: accesses go to whatever function has its BAR there.
class MemoryWindow final : public BusDevice {
  public:
    explicit MemoryWindow(std::shared_ptr<RootComplex> complex) : complex_(std::move(complex)) {}
    void read(std::uint64_t offset, std::span<std::byte> out) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

  private:
    std::shared_ptr<RootComplex> complex_;
};

}  // namespace wherry::vmm::pci
