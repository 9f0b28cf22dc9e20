#include "vmm/machine/preparation.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include <cstdlib>
#include <string>

#include "base/fd.hpp"
#include "vmm/arch/x86_64/platform.hpp"

namespace wherry::vmm {
namespace {

// Another process has to map the memory for its part of the folder.
Sharing sharing_of(const Resources& resources) {
    return resources.folders.empty() ? Sharing::none : Sharing::by_file;
}

}  // namespace

std::optional<Preparation::FileVersion> Preparation::version_of(const std::string& path) {
    struct stat status = {};
    if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
    // Times of files tick (every 10 ms at most): what is written within the tick that a file was last changed in
    // leaves no other time behind. A time to come, of another clock, is as good as one long ago.
    constexpr std::int64_t two_ticks_ns = 20'000'000;
    timespec now = {};
    clock_gettime(CLOCK_REALTIME, &now);
    const std::int64_t age_ns =
        (now.tv_sec - status.st_ctim.tv_sec) * 1'000'000'000 + (now.tv_nsec - status.st_ctim.tv_nsec);
    if (std::abs(age_ns) < two_ticks_ns) return std::nullopt;
    return FileVersion{.device = status.st_dev,
                       .inode = status.st_ino,
                       .bytes = static_cast<std::uint64_t>(status.st_size),
                       .modified_s = status.st_mtim.tv_sec,
                       .modified_ns = status.st_mtim.tv_nsec,
                       .changed_s = status.st_ctim.tv_sec,
                       .changed_ns = status.st_ctim.tv_nsec};
}

bool Preparation::is_settled(const BootSource& source) {
    return version_of(source.kernel_image_path) && (!source.initrd_path || version_of(*source.initrd_path));
}

Result<Preparation> Preparation::make(const Resources& resources) {
    Preparation made(TRY(kvm::System::open()));
    made.memory_mib_ = resources.machine.mem_size_mib;
    made.huge_pages_ = resources.machine.huge_pages;
    made.sharing_ = sharing_of(resources);
    made.boot_ = *resources.boot;
    made.memory =
        TRY(GuestMemory::create(x86_64::memory_ranges(made.memory_mib_ << 20U), made.huge_pages_, made.sharing_));
    made.vm = std::make_unique<kvm::Vm>(TRY(made.system.create_vm()));
    // Before the files are read: what is written to them from here on gives another version.
    made.kernel_version_ = version_of(made.boot_.kernel_image_path);
    const Fd kernel_file = TRY(open_file(made.boot_.kernel_image_path, O_RDONLY), "kernel");
    made.kernel = TRY(x86_64::load_kernel(*made.memory, kernel_file.get()));
    if (made.boot_.initrd_path) {
        made.initrd_version_ = version_of(*made.boot_.initrd_path);
        const Fd file = TRY(open_file(*made.boot_.initrd_path, O_RDONLY), "initrd");
        made.initrd = TRY(x86_64::load_initrd(*made.memory, file.get(), made.kernel.end));
    }
    TRY(x86_64::write_boot_tables(*made.memory));
    return made;
}

bool Preparation::fits(const Resources& resources) const {
    if (!resources.boot || resources.machine.mem_size_mib != memory_mib_ ||
        resources.machine.huge_pages != huge_pages_ || sharing_of(resources) != sharing_ ||
        resources.boot->kernel_image_path != boot_.kernel_image_path ||
        resources.boot->initrd_path != boot_.initrd_path)
        return false;
    if (!kernel_version_ || version_of(boot_.kernel_image_path) != kernel_version_) return false;
    return !boot_.initrd_path || (initrd_version_ && version_of(*boot_.initrd_path) == initrd_version_);
}

}  // namespace wherry::vmm
