// The root directory of a jailed monitor: its binary, four devices, /run, and nothing else.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "jailer/command_line.hpp"

namespace wherry::jailer {

class Chroot {
  public:
    // Makes <base>/<exec name>/<id>/root and copies the binary into it. The base must exist. A former run's binary is
    // replaced; its root belonged to the jailed user, so nothing in it is followed or trusted.
    static Result<Chroot> create(const Options& options);

    const std::string& path() const { return path_; }
    const std::string& exec_name() const { return exec_name_; }

    // New mount namespace whose root is the directory; the old root is gone from it. Mounts of the host reach it no
    // more, its own never reach the host.
    Result<> enter();
    // After enter(): /, /dev, /dev/net and /run with the user as owner, device nodes for tun, kvm, urandom and, where
    // the kernel has it, userfaultfd.
    Result<> populate(uid_t uid, gid_t gid, std::optional<unsigned> userfaultfd_minor);
    // After enter(): /<exec name>.pid.
    Result<> write_pid(pid_t pid);

  private:
    Chroot(std::string path, std::string exec_name, Fd root)
        : path_(std::move(path)), exec_name_(std::move(exec_name)), root_(std::move(root)) {}

    std::string path_;
    std::string exec_name_;
    Fd root_;
};

// The minor number of /dev/userfaultfd, from the text of /proc/misc; nothing on kernels without.
std::optional<unsigned> userfaultfd_minor(std::string_view proc_misc);

}  // namespace wherry::jailer
