#include "vmm/machine/vcpu_thread.hpp"

#include <fmt/format.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <span>

#include "base/log.hpp"

namespace wherry::vmm {
namespace {

int kick_signal() {
    return SIGRTMIN;
}

void install_kick_handler() {
    struct sigaction action = {};
    action.sa_handler = [](int) {};  // its only work is to interrupt KVM_RUN
    sigaction(kick_signal(), &action, nullptr);
}

}  // namespace

VcpuThreads::~VcpuThreads() {
    stop();
}

Result<> VcpuThreads::start(std::vector<kvm::Vcpu> vcpus) {
    install_kick_handler();
    for (kvm::Vcpu& vcpu : vcpus) {
        processors_.emplace_back();
        processors_.back().vcpu.emplace(std::move(vcpu));
    }
    for (std::size_t i = 0; i < processors_.size(); ++i) processors_[i].thread = std::thread([this, i] { run(i); });
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return standing_ == processors_.size() || ended_; });
    if (ended_) return fail(Code::internal, "a processor's thread could not be confined");
    return {};
}

void VcpuThreads::kick_all() {
    for (Processor& processor : processors_) {
        if (!processor.thread.joinable()) continue;
        processor.vcpu->request_exit(true);
        pthread_kill(processor.thread.native_handle(), kick_signal());
    }
}

void VcpuThreads::resume() {
    const std::lock_guard lock(mutex_);
    if (state_ != State::paused) return;
    for (Processor& processor : processors_) processor.vcpu->request_exit(false);
    state_ = State::running;
    changed_.notify_all();
}

void VcpuThreads::pause() {
    std::unique_lock lock(mutex_);
    if (state_ != State::running) return;
    state_ = State::paused;
    kick_all();
    changed_.wait(lock, [this] { return standing_ == processors_.size() || ended_; });
}

void VcpuThreads::stop() {
    {
        const std::lock_guard lock(mutex_);
        if (state_ != State::stopping) {
            state_ = State::stopping;
            kick_all();
            changed_.notify_all();
        }
    }
    for (Processor& processor : processors_)
        if (processor.thread.joinable()) processor.thread.join();
    processors_.clear();
}

void VcpuThreads::end(ExitCode code) {
    {
        const std::lock_guard lock(mutex_);
        if (ended_) return;
        ended_ = true;
        changed_.notify_all();
    }
    setup_.ended(code);
}

void VcpuThreads::run(std::size_t index) {
    pthread_setname_np(pthread_self(), fmt::format("fc_vcpu {}", index).c_str());
    if (auto confined = setup_.confine(); !confined) {
        log_error("vcpu.not_confined", {{"error", confined.error()}});
        end(ExitCode::generic_error);
        return;
    }
    kvm::Vcpu& vcpu = *processors_[index].vcpu;
    for (;;) {
        {
            std::unique_lock lock(mutex_);
            if (state_ == State::paused) {
                ++standing_;
                changed_.notify_all();
                changed_.wait(lock, [this] { return state_ != State::paused; });
                --standing_;
            }
            if (state_ == State::stopping) return;
        }
        // Until someone asks for a stop; the exit asked for also completes a register access on its way.
        for (;;) {
            const auto ran = vcpu.run();
            if (!ran) {
                if (ran.error().os_errno() == EFAULT) {
                    // Unplugged, or behind the end of a file that was cut short: nothing that could be emulated.
                    log_error("vcpu.fault", {{"vcpu", index}, {"error", "the guest touched memory that is not there"}});
                } else {
                    log_error("vcpu.run", {{"vcpu", index}, {"error", ran.error()}});
                }
                metrics.failures.add();
                end(ExitCode::generic_error);
                return;
            }
            if (!*ran) break;
            if (!handle_exit(vcpu)) return;
        }
    }
}

bool VcpuThreads::handle_exit(kvm::Vcpu& vcpu) {
    kvm_run& exit = vcpu.shared();
    switch (exit.exit_reason) {
        case KVM_EXIT_IO: {
            const std::span<std::byte> data = vcpu.io_data();
            const std::size_t size = exit.io.size;
            for (std::size_t at = 0; at + size <= data.size() && size > 0; at += size) {
                if (exit.io.direction == KVM_EXIT_IO_IN) {
                    metrics.exit_io_in.add();
                    setup_.ports->read(exit.io.port, data.subspan(at, size));
                } else {
                    metrics.exit_io_out.add();
                    setup_.ports->write(exit.io.port, data.subspan(at, size));
                }
            }
            return true;
        }
        case KVM_EXIT_MMIO: {
            const std::size_t size = exit.mmio.len <= sizeof exit.mmio.data ? exit.mmio.len : sizeof exit.mmio.data;
            const auto data = std::as_writable_bytes(std::span(exit.mmio.data)).first(size);
            if (exit.mmio.is_write != 0) {
                metrics.exit_mmio_write.add();
                setup_.registers->write(exit.mmio.phys_addr, data);
            } else {
                metrics.exit_mmio_read.add();
                setup_.registers->read(exit.mmio.phys_addr, data);
            }
            return true;
        }
        case KVM_EXIT_HLT:
        case KVM_EXIT_INTR:
            return true;
        case KVM_EXIT_SHUTDOWN:
            log_info("guest.triple_fault");
            end(ExitCode::ok);
            return false;
        case KVM_EXIT_SYSTEM_EVENT:
            log_info("guest.system_event", {{"type", exit.system_event.type}});
            end(ExitCode::ok);
            return false;
        case KVM_EXIT_FAIL_ENTRY:
            log_error("vcpu.entry_failed", {{"reason", exit.fail_entry.hardware_entry_failure_reason}});
            break;
        case KVM_EXIT_INTERNAL_ERROR:
            log_error("vcpu.internal_error", {{"suberror", exit.internal.suberror}});
            break;
        default:
            log_error("vcpu.unexpected_exit", {{"reason", exit.exit_reason}});
    }
    metrics.failures.add();
    end(ExitCode::generic_error);
    return false;
}

}  // namespace wherry::vmm
