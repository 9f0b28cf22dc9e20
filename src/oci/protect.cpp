// The binary behind /proc/<pid>/exe of a process that enters containers (CVE-2019-5736). A container's program may be a
// script whose interpreter is /proc/self/exe: the kernel then runs our binary with the container's rights, and a
// process of the container can open it for writing once nobody executes it any more. So the file is reached only
// through a mount that is read-only for good: a detached clone, in no namespace, which nobody can remount. Its pages
// are the host file's page cache: shared by all, copied by none. Where open_tree is denied, a sealed memfd.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "oci/container.hpp"
#include "oci/mount_calls.hpp"
#include "oci/spawn.hpp"

namespace wherry::oci {

namespace {

constexpr int all_seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

Result<Fd> sealed_copy(const std::string& path) {
    Fd source = TRY(open_file(path, O_RDONLY));
    Fd copy(::memfd_create("wherry", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!copy) return fail_errno("memfd_create");
    struct stat info{};
    if (::fstat(source.get(), &info) < 0) return fail_errno(path);
    off_t left = info.st_size;
    while (left > 0) {
        ssize_t sent = ::sendfile(copy.get(), source.get(), nullptr, static_cast<std::size_t>(left));
        if (sent <= 0) return fail_errno("copy " + path);
        left -= sent;
    }
    if (::fcntl(copy.get(), F_ADD_SEALS, all_seals) < 0) return fail_errno("seal");
    return copy;
}

// Neither this path to the file nor a descriptor made from it can ever write.
Result<bool> is_protected(int executable) {
    int seals = ::fcntl(executable, F_GET_SEALS);
    if (seals >= 0 && (seals & F_SEAL_WRITE) != 0) return true;
    struct statvfs info{};
    if (::fstatvfs(executable, &info) < 0) return fail_errno("fstatvfs");
    return (info.f_flag & ST_RDONLY) != 0;
}

Result<bool> own_binary_protected() {
    Fd executable = TRY(open_file("/proc/self/exe", O_RDONLY));
    return is_protected(executable.get());
}

bool known_protected = false;

}  // namespace

Result<Fd> open_protected_binary(const std::string& path) {
    auto tree = clone_tree(AT_FDCWD, path, TreeDepth::single);
    if (!tree) return sealed_copy(path);
    if (!set_attributes(tree->get(), MOUNT_ATTR_RDONLY, 0, TreeDepth::single)) return sealed_copy(path);
    return tree;
}

Result<> protect_own_binary(char** argv) {
    // Were a standard stream closed, the next descriptor opened here would become a container's stdin.
    for (int fd = 0; fd < 3; ++fd) {
        if (::fcntl(fd, F_GETFD) >= 0) continue;
        if (::open("/dev/null", O_RDWR) != fd) return fail_errno("standard stream");
    }
    // Before a namespace is shared with anybody: nobody there may look into this process or its children.
    if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return fail_errno("PR_SET_DUMPABLE");
    if (TRY(own_binary_protected())) {
        known_protected = true;
        // Executed by descriptor the process would be called after the descriptor's number.
        const char* slash = argv[0] == nullptr ? nullptr : std::strrchr(argv[0], '/');
        if (argv[0] != nullptr) ::prctl(PR_SET_NAME, slash != nullptr ? slash + 1 : argv[0], 0, 0, 0);
        return {};
    }
    Fd binary = TRY(open_protected_binary("/proc/self/exe"), "own binary");
    if (!TRY(is_protected(binary.get()))) return fail(Code::internal, "own binary could not be made read-only");
    ::execveat(binary.get(), "", argv, ::environ, AT_EMPTY_PATH);
    return fail_errno("execute the read-only copy of the own binary");
}

Result<> require_protected_binary() {
    if (known_protected) return {};
    if (!TRY(own_binary_protected()))
        return fail(Code::internal, "protect_own_binary() has not been called: the runtime's binary is writable");
    if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return fail_errno("PR_SET_DUMPABLE");
    known_protected = true;
    return {};
}

}  // namespace wherry::oci
