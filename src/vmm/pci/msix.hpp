// MSI-X (PCI Local Bus 3.0, section 6.8.2): the vector table, the pending bits, and the rules of masking. A vector that
// is signalled while it or the whole function is masked becomes pending, and is sent when the mask goes. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "vmm/pci/function.hpp"

namespace wherry::vmm::pci {

struct MsixVector {
    std::uint64_t address = 0;
    std::uint32_t data = 0;
    bool is_masked = true;
    bool is_pending = false;

    friend bool operator==(const MsixVector&, const MsixVector&) = default;
    void fields(this auto& self, auto&& f) { f(self.address, self.data, self.is_masked, self.is_pending); }
};

struct MsixState {
    std::uint16_t control = 0;
    std::vector<MsixVector> vectors;

    friend bool operator==(const MsixState&, const MsixState&) = default;
    void fields(this auto& self, auto&& f) { f(self.control, self.vectors); }
};

class Msix {
  public:
    static constexpr std::size_t entry_bytes = 16;

    Msix(Host& host, std::uint16_t count) : host_(host) { state_.vectors.resize(count); }

    std::uint16_t count() const { return static_cast<std::uint16_t>(state_.vectors.size()); }
    // The message control register's enable and mask bits.
    void set_control(std::uint16_t control);
    bool is_enabled();
    // Does nothing for a vector that is not there, or while MSI-X is off.
    void signal(std::uint16_t vector);

    // 4 or 8 bytes, aligned; anything else reads as zero and writes nothing (as the specification leaves it).
    void read_table(std::uint64_t offset, std::span<std::byte> out);
    void write_table(std::uint64_t offset, std::span<const std::byte> data);
    void read_pending(std::uint64_t offset, std::span<std::byte> out);

    MsixState save();
    // invalid_argument when the state has another number of vectors.
    Result<> restore(const MsixState& state);

  private:
    // All of it with the lock held.
    bool is_deaf(const MsixVector& vector) const;
    void deliver_pending(MsixVector& vector);
    std::uint32_t read_word(std::uint64_t offset) const;
    void write_word(std::uint64_t offset, std::uint32_t value);

    Host& host_;
    std::mutex mutex_;
    MsixState state_;
};

}  // namespace wherry::vmm::pci
