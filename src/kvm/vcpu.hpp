// One virtual processor. run() blocks in the guest; everything but interrupt() belongs to the thread that runs it
// (or to whoever holds it while it does not run).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/fd.hpp"
#include "base/result.hpp"

struct kvm_run;

namespace wherry::kvm {

class Vcpu {
  public:
    static Result<Vcpu> adopt(Fd fd, std::size_t mapping_bytes);
    Vcpu(Vcpu&& other) noexcept;
    Vcpu& operator=(Vcpu&& other) noexcept;
    Vcpu(const Vcpu&) = delete;
    Vcpu& operator=(const Vcpu&) = delete;
    ~Vcpu();

    // Runs the guest until it exits; shared().exit_reason says why. False: interrupted (by a signal or by interrupt()).
    Result<bool> run();
    // The page shared with the kernel (Documentation/virt/kvm/api.rst, "The kvm_run structure").
    kvm_run& shared() { return *shared_; }
    // The data of a KVM_EXIT_IO; empty when the kernel names bytes that are not in the mapping.
    std::span<std::byte> io_data();
    // From any thread: the present or next run() returns at once. A signal must wake it when it is inside.
    void request_exit(bool exit);
    int descriptor() const { return fd_.get(); }

  private:
    Vcpu(Fd fd, kvm_run* shared, std::size_t bytes) : fd_(std::move(fd)), shared_(shared), mapping_bytes_(bytes) {}

    Fd fd_;
    kvm_run* shared_;
    std::size_t mapping_bytes_;
};

}  // namespace wherry::kvm
