// Address ranges and the devices behind them: one bus for ports, one for memory-mapped registers. Filled before the
// processors run; then read-only, so that lookups need no lock. Devices lock themselves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.hpp"

namespace wherry::vmm {

class BusDevice {
  public:
    BusDevice() = default;
    BusDevice(const BusDevice&) = delete;
    BusDevice& operator=(const BusDevice&) = delete;
    virtual ~BusDevice() = default;
    // `offset` into the device's range; 1, 2, 4 or 8 bytes, little-endian. Called on the processors' threads.
    virtual void read(std::uint64_t offset, std::span<std::byte> out) = 0;
    virtual void write(std::uint64_t offset, std::span<const std::byte> data) = 0;
};

class Bus {
  public:
    // already_exists when it overlaps another.
    Result<> add(std::uint64_t start, std::uint64_t bytes, std::shared_ptr<BusDevice> device);
    // False when nothing answers there (a read gives all ones then, as on a real bus).
    bool read(std::uint64_t address, std::span<std::byte> out) const;
    bool write(std::uint64_t address, std::span<const std::byte> data) const;

  private:
    struct Entry {
        std::uint64_t start;
        std::uint64_t bytes;
        std::shared_ptr<BusDevice> device;
    };
    const Entry* find(std::uint64_t address, std::size_t bytes) const;
    std::vector<Entry> entries_;  // by start
};

}  // namespace wherry::vmm
