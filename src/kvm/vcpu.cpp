#include "kvm/vcpu.hpp"

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <utility>

namespace wherry::kvm {

Result<Vcpu> Vcpu::adopt(Fd fd, std::size_t mapping_bytes) {
    // SAFETY: a mapping of its own; unmapped by the destructor.
    void* mapping = mmap(nullptr, mapping_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (mapping == MAP_FAILED) return fail_errno("mapping of a vCPU");
    return Vcpu(std::move(fd), static_cast<kvm_run*>(mapping), mapping_bytes);
}

Vcpu::Vcpu(Vcpu&& other) noexcept
    : fd_(std::move(other.fd_)),
      shared_(std::exchange(other.shared_, nullptr)),
      mapping_bytes_(std::exchange(other.mapping_bytes_, 0)) {}

Vcpu& Vcpu::operator=(Vcpu&& other) noexcept {
    if (this != &other) {
        if (shared_ != nullptr) munmap(shared_, mapping_bytes_);
        fd_ = std::move(other.fd_);
        shared_ = std::exchange(other.shared_, nullptr);
        mapping_bytes_ = std::exchange(other.mapping_bytes_, 0);
    }
    return *this;
}

Vcpu::~Vcpu() {
    if (shared_ != nullptr) munmap(shared_, mapping_bytes_);
}

Result<bool> Vcpu::run() {
    // SAFETY: takes no argument; results are in the shared page.
    if (ioctl(fd_.get(), KVM_RUN, 0) == 0) return true;
    if (errno == EINTR || errno == EAGAIN) return false;
    return fail_errno("KVM_RUN");
}

std::span<std::byte> Vcpu::io_data() {
    const std::uint64_t offset = shared_->io.data_offset;
    const std::uint64_t bytes = std::uint64_t{shared_->io.size} * shared_->io.count;
    if (offset > mapping_bytes_ || bytes > mapping_bytes_ - offset) return {};
    // SAFETY: within the mapping, checked above.
    return {reinterpret_cast<std::byte*>(shared_) + offset, bytes};
}

void Vcpu::request_exit(bool exit) {
    __atomic_store_n(&shared_->immediate_exit, exit ? 1 : 0, __ATOMIC_SEQ_CST);
}

}  // namespace wherry::kvm
