#include "kvm/vm.hpp"

#include <linux/kvm.h>
#include <sys/ioctl.h>

namespace wherry::kvm {
namespace {

kvm_ioeventfd to_kvm(const IoEvent& event, int eventfd) {
    kvm_ioeventfd out = {};
    out.addr = event.address;
    out.len = event.bytes;
    out.fd = eventfd;
    if (event.value) {
        out.datamatch = *event.value;
        out.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
    }
    return out;
}

}  // namespace

int Vm::check_extension(int capability) const {
    // SAFETY: takes a number.
    const int result = ioctl(fd_.get(), KVM_CHECK_EXTENSION, capability);
    return result < 0 ? 0 : result;
}

Result<> Vm::enable_capability(std::uint32_t capability, std::uint64_t argument) const {
    kvm_enable_cap request = {};
    request.cap = capability;
    request.args[0] = argument;
    // SAFETY: reads the structure.
    if (ioctl(fd_.get(), KVM_ENABLE_CAP, &request) < 0) return fail_errno("KVM_ENABLE_CAP");
    return {};
}

Result<> Vm::set_memory(const MemorySlot& memory) const {
    kvm_userspace_memory_region region = {};
    region.slot = memory.slot;
    region.guest_phys_addr = memory.guest_address;
    region.memory_size = memory.bytes;
    // SAFETY: KVM wants the address of the mapping as a number; whoever calls keeps the mapping (see MemorySlot).
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory.host);
    if (memory.log_dirty_pages) region.flags |= KVM_MEM_LOG_DIRTY_PAGES;
    if (memory.read_only) region.flags |= KVM_MEM_READONLY;
    // SAFETY: reads the structure.
    if (ioctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &region) < 0) return fail_errno("KVM_SET_USER_MEMORY_REGION");
    return {};
}

Result<std::vector<std::uint64_t>> Vm::dirty_log(std::uint32_t slot, std::uint64_t bytes) const {
    std::vector<std::uint64_t> bitmap((bytes / 4096 + 63) / 64);
    kvm_dirty_log request = {};
    request.slot = slot;
    request.dirty_bitmap = bitmap.data();
    // SAFETY: the kernel writes one bit for each page of the slot, which the vector has room for.
    if (ioctl(fd_.get(), KVM_GET_DIRTY_LOG, &request) < 0) return fail_errno("KVM_GET_DIRTY_LOG");
    return bitmap;
}

Result<> Vm::add_io_event(const IoEvent& event, int eventfd) const {
    kvm_ioeventfd request = to_kvm(event, eventfd);
    // SAFETY: reads the structure.
    if (ioctl(fd_.get(), KVM_IOEVENTFD, &request) < 0) return fail_errno("KVM_IOEVENTFD");
    return {};
}

Result<> Vm::remove_io_event(const IoEvent& event, int eventfd) const {
    kvm_ioeventfd request = to_kvm(event, eventfd);
    request.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
    // SAFETY: reads the structure.
    if (ioctl(fd_.get(), KVM_IOEVENTFD, &request) < 0) return fail_errno("KVM_IOEVENTFD deassign");
    return {};
}

Result<> Vm::add_irq_event(int eventfd, std::uint32_t gsi) const {
    kvm_irqfd request = {};
    request.fd = static_cast<std::uint32_t>(eventfd);
    request.gsi = gsi;
    // SAFETY: reads the structure.
    if (ioctl(fd_.get(), KVM_IRQFD, &request) < 0) return fail_errno("KVM_IRQFD");
    return {};
}

Result<> Vm::remove_irq_event(int eventfd, std::uint32_t gsi) const {
    kvm_irqfd request = {};
    request.fd = static_cast<std::uint32_t>(eventfd);
    request.gsi = gsi;
    request.flags = KVM_IRQFD_FLAG_DEASSIGN;
    // SAFETY: reads the structure.
    if (ioctl(fd_.get(), KVM_IRQFD, &request) < 0) return fail_errno("KVM_IRQFD deassign");
    return {};
}

Result<> Vm::signal_message(std::uint64_t address, std::uint32_t data) const {
    kvm_msi request = {};
    request.address_lo = static_cast<std::uint32_t>(address);
    request.address_hi = static_cast<std::uint32_t>(address >> 32U);
    request.data = data;
    // SAFETY: reads the structure.
    if (ioctl(fd_.get(), KVM_SIGNAL_MSI, &request) < 0) return fail_errno("KVM_SIGNAL_MSI");
    return {};
}

Result<> Vm::set_irq_line(std::uint32_t gsi, bool high) const {
    kvm_irq_level request = {};
    request.irq = gsi;
    request.level = high ? 1 : 0;
    // SAFETY: reads the structure.
    if (ioctl(fd_.get(), KVM_IRQ_LINE, &request) < 0) return fail_errno("KVM_IRQ_LINE");
    return {};
}

Result<Vcpu> Vm::create_vcpu(std::uint32_t id) const {
    // SAFETY: takes a number.
    const int fd = ioctl(fd_.get(), KVM_CREATE_VCPU, id);
    if (fd < 0) return fail_errno("KVM_CREATE_VCPU");
    return Vcpu::adopt(Fd(fd), vcpu_mapping_bytes_);
}

}  // namespace wherry::kvm
