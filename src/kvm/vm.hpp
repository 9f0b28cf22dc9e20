// One virtual machine of KVM. Thread-safe but for moving: each function is one ioctl.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "kvm/vcpu.hpp"

namespace wherry::kvm {

// A piece of guest-physical memory and the host memory behind it, which must outlive the Vm.
struct MemorySlot {
    std::uint32_t slot = 0;
    std::uint64_t guest_address = 0;
    std::uint64_t bytes = 0;
    void* host = nullptr;
    bool log_dirty_pages = false;
    bool read_only = false;
};

// Where a write by the guest signals an eventfd without leaving the kernel.
struct IoEvent {
    std::uint64_t address = 0;
    std::uint32_t bytes = 4;             // 0: of any width (KVM_CAP_IOEVENTFD_ANY_LENGTH)
    std::optional<std::uint64_t> value;  // only when this is what is written
};

class Vm {
  public:
    Vm(Fd fd, std::size_t vcpu_mapping_bytes) : fd_(std::move(fd)), vcpu_mapping_bytes_(vcpu_mapping_bytes) {}

    int check_extension(int capability) const;
    Result<> enable_capability(std::uint32_t capability, std::uint64_t argument) const;
    // A slot set again with 0 bytes goes away.
    Result<> set_memory(const MemorySlot& memory) const;
    // One bit a page of 4 KiB, lowest page first; clears the log.
    Result<std::vector<std::uint64_t>> dirty_log(std::uint32_t slot, std::uint64_t bytes) const;

    Result<> add_io_event(const IoEvent& event, int eventfd) const;
    Result<> remove_io_event(const IoEvent& event, int eventfd) const;
    // The eventfd pulses the interrupt line.
    Result<> add_irq_event(int eventfd, std::uint32_t gsi) const;
    Result<> remove_irq_event(int eventfd, std::uint32_t gsi) const;
    // A message-signalled interrupt: what a device's write of `data` to `address` would do.
    Result<> signal_message(std::uint64_t address, std::uint32_t data) const;
    Result<> set_irq_line(std::uint32_t gsi, bool high) const;

    Result<Vcpu> create_vcpu(std::uint32_t id) const;
    int descriptor() const { return fd_.get(); }

  private:
    Fd fd_;
    std::size_t vcpu_mapping_bytes_;
};

}  // namespace wherry::kvm
