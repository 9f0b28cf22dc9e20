// /dev/kvm itself: what the host's hypervisor can do, and the way to a virtual machine. Thread-safe.
#pragma once

#include <cstddef>
#include <string>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "kvm/vm.hpp"

namespace wherry::kvm {

class System {
  public:
    // permission_denied or not_found say what is wrong with the device; unimplemented when the API is not version 12.
    static Result<System> open(const std::string& path = "/dev/kvm");
    explicit System(Fd fd) : fd_(std::move(fd)) {}

    // KVM_CHECK_EXTENSION: 0 is "no", otherwise what the capability counts.
    int check_extension(int capability) const;
    Result<Vm> create_vm() const;
    int descriptor() const { return fd_.get(); }

  private:
    Fd fd_;
};

}  // namespace wherry::kvm
