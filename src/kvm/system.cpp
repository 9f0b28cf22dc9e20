#include "kvm/system.hpp"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>

namespace wherry::kvm {

Result<System> System::open(const std::string& path) {
    Fd fd = TRY(open_file(path, O_RDWR), "KVM");
    // SAFETY: takes no argument.
    const int version = ioctl(fd.get(), KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) return fail(Code::unimplemented, "KVM: API version " + std::to_string(version));
    return System(std::move(fd));
}

int System::check_extension(int capability) const {
    // SAFETY: takes a number.
    const int result = ioctl(fd_.get(), KVM_CHECK_EXTENSION, capability);
    return result < 0 ? 0 : result;
}

Result<Vm> System::create_vm() const {
    int vm = -1;
    do {
        // SAFETY: takes the machine type, 0. EINTR comes from signals during the (long) creation.
        vm = ioctl(fd_.get(), KVM_CREATE_VM, 0);
    } while (vm < 0 && errno == EINTR);
    if (vm < 0) return fail_errno("KVM_CREATE_VM");
    // SAFETY: takes no argument.
    const int size = ioctl(fd_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < 0) {
        Fd close_it(vm);
        return fail_errno("KVM_GET_VCPU_MMAP_SIZE");
    }
    return Vm(Fd(vm), static_cast<std::size_t>(size));
}

}  // namespace wherry::kvm
