// A function on a PCI bus, and what functions ask of the machine they are in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.hpp"

namespace wherry::vmm::pci {

// A message-signalled interrupt: a write of `data` to `address`, which interrupt controllers answer to.
struct Message {
    std::uint64_t address = 0;
    std::uint32_t data = 0;
};

// The machine, as functions see it. Thread-safe.
class Host {
  public:
    Host() = default;
    Host(const Host&) = delete;
    Host& operator=(const Host&) = delete;
    virtual ~Host() = default;
    virtual void send(const Message& message) = 0;
    // The guest's writes to the address signal the eventfd, until it is taken back.
    virtual Result<> map_doorbell(std::uint64_t address, int eventfd) = 0;
    virtual void unmap_doorbell(std::uint64_t address, int eventfd) = 0;
};

struct Window {
    std::uint64_t start = 0;
    std::uint64_t bytes = 0;

    bool contains(std::uint64_t address, std::uint64_t count) const {
        return address >= start && address - start < bytes && count <= bytes - (address - start);
    }
};

// Called on the processors' threads; each function locks itself.
class Function {
  public:
    Function() = default;
    Function(const Function&) = delete;
    Function& operator=(const Function&) = delete;
    virtual ~Function() = default;

    // `offset` below 4096, 1 to 8 bytes.
    virtual void read_configuration(std::uint32_t offset, std::span<std::byte> out) = 0;
    virtual void write_configuration(std::uint32_t offset, std::span<const std::byte> data) = 0;
    // The memory it answers for; none while it does not decode (or has no such memory).
    virtual std::optional<Window> window() { return std::nullopt; }
    virtual void read_memory(std::uint64_t /*offset*/, std::span<std::byte> /*out*/) {}
    virtual void write_memory(std::uint64_t /*offset*/, std::span<const std::byte> /*data*/) {}
};

}  // namespace wherry::vmm::pci
