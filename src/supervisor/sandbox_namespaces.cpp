#include "supervisor/sandbox_namespaces.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <span>
#include <vector>

#include "confine/namespaces.hpp"

namespace wherry::supervisor {

namespace {

struct Setting {
    std::string path;  // of the host's /proc/sys, which shows a process its own namespaces' values
    const std::string* value = nullptr;
};

struct Holder {
    const char* hostname = nullptr;  // nullptr: not to be set
    std::size_t hostname_length = 0;
    const char* domainname = nullptr;
    std::size_t domainname_length = 0;
    const char* directory = nullptr;
    int network = -1;
    int ready = -1;  // an errno is written here when all is done
    int life = -1;   // its end is ours
    bool stays = false;
    const Setting* settings = nullptr;
    std::size_t settings_count = 0;
};

// SAFETY: runs after the clone in a copy of a single-threaded process: system calls on prepared memory only.
int enter(const Holder& holder) {
    if (holder.hostname != nullptr && ::sethostname(holder.hostname, holder.hostname_length) < 0) return errno;
    if (holder.domainname != nullptr && ::setdomainname(holder.domainname, holder.domainname_length) < 0) return errno;
    if (!holder.stays) return 0;
    // Containers see this process as their PID 1: there is to be nothing to see.
    if (holder.network >= 0 && ::setns(holder.network, CLONE_NEWNET) < 0) return errno;
    for (std::size_t i = 0; i < holder.settings_count; ++i) {
        const Setting& setting = holder.settings[i];
        const int file = ::open(setting.path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
        if (file < 0) return errno;
        const ssize_t written = ::write(file, setting.value->data(), setting.value->size());
        const int error = errno;
        ::close(file);
        if (written < 0) return error;
    }
    if (::unshare(CLONE_NEWNS) < 0) return errno;
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return errno;
    constexpr unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY;
    if (::mount("empty", holder.directory, "tmpfs", flags, "size=4k") < 0) return errno;
    if (::chdir(holder.directory) < 0) return errno;
    if (::syscall(SYS_pivot_root, ".", ".") < 0) return errno;
    if (::umount2(".", MNT_DETACH) < 0 || ::chdir("/") < 0) return errno;
    ::prctl(PR_SET_NAME, "sandbox");
    ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    ::signal(SIGCHLD, SIG_IGN);  // orphans of the containers are reaped by the kernel
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct none[2]{};
    if (::syscall(SYS_capset, &header, none) < 0) return errno;
    return 0;
}

[[noreturn]] void run_holder(const Holder& holder) {
    int error = enter(holder);
    // SAFETY: plain bytes to our own parent.
    [[maybe_unused]] ssize_t told = ::write(holder.ready, &error, sizeof error);
    if (error != 0 || !holder.stays) {
        char byte = 0;
        while (::read(holder.life, &byte, 1) < 0 && errno == EINTR) {
        }
        ::_exit(0);
    }
    // No connection, log or pipe of the shim's may live on here.
    if (::dup2(holder.life, 0) == 0) ::syscall(SYS_close_range, 1U, ~0U, 0U);
    ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);  // read, write, exit, sigreturn
    char byte = 0;
    while (::syscall(SYS_read, 0, &byte, 1) != 0) {
    }
    while (true) ::syscall(SYS_exit, 0);
}

}  // namespace

Result<> SandboxNamespaces::make(const SandboxRequest& request, const std::string& directory,
                                 const std::map<std::string, std::string>& sysctls) {
    Holder holder;
    std::uint64_t flags = 0;
    for (const std::string& name : request.namespaces) {
        auto kind = confine::parse_namespace(name);
        if (!kind) return fail(Code::invalid_argument, "unknown namespace " + name);
        flags |= confine::clone_flag(*kind);
    }
    if ((flags & CLONE_NEWPID) == 0 && !sysctls.empty())
        return fail(Code::invalid_argument, "settings of a sandbox need its own pid namespace");
    if (flags == 0) return {};
    std::vector<Setting> settings;
    settings.reserve(sysctls.size());
    for (const auto& [path, value] : sysctls) settings.push_back({"/proc/sys/" + path, &value});
    holder.settings = settings.data();
    holder.settings_count = settings.size();
    if ((flags & CLONE_NEWUTS) != 0) {
        if (!request.hostname.empty()) holder.hostname = request.hostname.data();
        holder.hostname_length = request.hostname.size();
        if (!request.domainname.empty()) holder.domainname = request.domainname.data();
        holder.domainname_length = request.domainname.size();
    }
    holder.stays = (flags & CLONE_NEWPID) != 0;
    holder.directory = directory.c_str();
    holder.network = network_.get();
    Pipe ready = TRY(make_pipe());
    Pipe life = TRY(make_pipe());
    holder.ready = ready.write.get();
    holder.life = life.read.get();
    clone_args arguments{};
    arguments.flags = flags | CLONE_CLEAR_SIGHAND;
    arguments.exit_signal = SIGCHLD;
    // SAFETY: without CLONE_VM this is fork of a single-threaded process.
    const long child = ::syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child < 0) return fail_errno("make the sandbox's namespaces");
    if (child == 0) {
        ::close(life.write.release());
        run_holder(holder);
    }
    const auto pid = static_cast<pid_t>(child);
    ready.write.reset();
    life.read.reset();
    const auto collect = [&]() -> Result<> {
        int error = 0;
        TRY(read_exact(ready.read.get(), std::as_writable_bytes(std::span(&error, 1))));
        if (error != 0) return fail_errno(error, "enter the sandbox's namespaces");
        if ((flags & CLONE_NEWIPC) != 0) ipc_ = TRY(confine::open_namespace_of(pid, confine::Namespace::ipc));
        if ((flags & CLONE_NEWUTS) != 0) uts_ = TRY(confine::open_namespace_of(pid, confine::Namespace::uts));
        if ((flags & CLONE_NEWPID) != 0) pid_ = TRY(confine::open_namespace_of(pid, confine::Namespace::pid));
        return {};
    };
    Result<> collected = collect();
    if (collected && holder.stays) {
        life_ = std::move(life.write);
        holder_ = pid;
        return {};
    }
    life.write.reset();
    if (holder.stays) ::kill(pid, SIGKILL);
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    return collected;
}

void SandboxNamespaces::give(oci::CreateRequest& request) const {
    if (network_) request.namespaces.push_back({"network", network_.get()});
    const auto offer = [&](const char* name, const Fd& held) {
        const oci::Namespace* own = request.spec.linux_spec.find_namespace(name);
        if (held && own != nullptr && own->path.empty()) request.namespaces.push_back({name, held.get()});
    };
    offer("ipc", ipc_);
    offer("uts", uts_);
    offer("pid", pid_);
}

}  // namespace wherry::supervisor
