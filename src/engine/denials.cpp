#include "engine/denials.hpp"

#include <fcntl.h>

#include <boost/asio/as_tuple.hpp>

#include "base/log.hpp"

namespace wherry::engine {
namespace {

constexpr std::size_t kept_denials = 64;

}  // namespace

void DenialLog::start() {
    auto log = confine::SeccompLog::open();
    if (!log) {
        log_info("seccomp.log_unavailable", {{"error", log.error()}});
        return;
    }
    log_.emplace(std::move(*log));
    const int copy = ::fcntl(log_->fd(), F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return;
    descriptor_.emplace(core_.executor, copy);
    core_.gate.spawn(follow());
}

void DenialLog::stop() {
    if (descriptor_) descriptor_->cancel();
}

asio::awaitable<void> DenialLog::follow() {
    while (!core_.gate.closing()) {
        const auto [error] = co_await descriptor_->async_wait(asio::posix::stream_descriptor::wait_read,
                                                              asio::as_tuple(asio::use_awaitable));
        if (error) co_return;
        const auto denials = log_->read();
        if (!denials) co_return;
        for (const confine::SeccompDenial& denial : *denials) note(denial);
    }
}

void DenialLog::note(const confine::SeccompDenial& denial) {
    ContainerPtr owner;
    // ".../wherry/<container id>" in any hierarchy; gone when the process has ended already.
    if (const auto text = read_file("/proc/" + std::to_string(denial.pid) + "/cgroup", 64U << 10U)) {
        for (std::size_t at = text->find('/'); at != std::string::npos && !owner; at = text->find('/', at + 1)) {
            owner = core_.containers.by_id(text->substr(at + 1, 64));
        }
    }
    for (const ContainerPtr& container : owner ? std::vector<ContainerPtr>{} : core_.containers.all()) {
        if (container->pid == denial.pid) owner = container;
    }
    const auto known = confine::syscall_name(denial.arch, denial.syscall);
    const std::string name = known ? *known : "number " + std::to_string(denial.syscall);
    if (!owner) {
        core_.recent_denials.emplace_back(denial.pid, name);
        if (core_.recent_denials.size() > kept_denials) core_.recent_denials.pop_front();
        return;
    }
    owner->denied_syscall = name;
    log_debug("seccomp.denied", {{"id", owner->id}, {"syscall", owner->denied_syscall}});
}

}  // namespace wherry::engine
