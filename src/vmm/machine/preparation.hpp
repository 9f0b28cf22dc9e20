// What every start begins with and only a part of the configuration decides: the machine of KVM, and its memory with
// the kernel and the initial ram disk in it. Made by the start itself, or before it, while the client is still at the
// rest of the configuration: clearing and filling memory is most of what a start takes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/result.hpp"
#include "kvm/system.hpp"
#include "kvm/vm.hpp"
#include "vmm/arch/x86_64/kernel.hpp"
#include "vmm/machine/config.hpp"
#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm {

class Preparation {
  public:
    // Of resources with a boot source. Errors are those of a start: invalid_argument for a bad kernel, out_of_range
    // when it does not fit into the memory, resource_exhausted when the host lacks (huge) memory.
    static Result<Preparation> make(const Resources& resources);
    // Whether files can be told from what may become of them: a preparation of others would never fit.
    static bool is_settled(const BootSource& source);
    // Whether make() would come to the same now: memory of the same kind, from files that nobody changed meanwhile.
    bool fits(const Resources& resources) const;

    kvm::System system;
    std::shared_ptr<GuestMemory> memory;  // outlives the machine of KVM
    std::unique_ptr<kvm::Vm> vm;
    x86_64::LoadedKernel kernel;
    std::optional<GuestRange> initrd;

  private:
    // Which contents of a file: another write to it or another file in its place gives another one.
    struct FileVersion {
        std::uint64_t device = 0, inode = 0, bytes = 0;
        std::int64_t modified_s = 0, modified_ns = 0, changed_s = 0, changed_ns = 0;
        friend bool operator==(const FileVersion&, const FileVersion&) = default;
    };
    explicit Preparation(kvm::System opened) : system(std::move(opened)) {}
    // Empty for what is no file, and for a file that may be changed again without getting another version.
    static std::optional<FileVersion> version_of(const std::string& path);

    std::uint64_t memory_mib_ = 0;
    HugePages huge_pages_ = HugePages::none;
    Sharing sharing_ = Sharing::none;
    BootSource boot_;
    std::optional<FileVersion> kernel_version_, initrd_version_;
};

}  // namespace wherry::vmm
