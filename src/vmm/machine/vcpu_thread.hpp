// The threads that run the guest, "fc_vcpu N": run, answer exits from the buses, pause, resume, end. Control comes
// from the device thread; all waits are bounded by one exit of the guest.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/result.hpp"
#include "kvm/vcpu.hpp"
#include "vmm/core/bus.hpp"
#include "vmm/core/counter.hpp"
#include "vmm/core/exit_code.hpp"

namespace wherry::vmm {

struct VcpuMetrics {
    Counter exit_io_in;
    Counter exit_io_out;
    Counter exit_mmio_read;
    Counter exit_mmio_write;
    Counter failures;

    template <class F>
    void for_each(F f) {
        f("exit_io_in", exit_io_in);
        f("exit_io_out", exit_io_out);
        f("exit_mmio_read", exit_mmio_read);
        f("exit_mmio_write", exit_mmio_write);
        f("failures", failures);
    }
};

class VcpuThreads {
  public:
    struct Setup {
        const Bus* ports = nullptr;
        const Bus* registers = nullptr;
        // Once, from any of the threads, when the guest is over.
        std::function<void(ExitCode)> ended;
        // At the start of each thread: its seccomp filter. An error ends the machine.
        std::function<Result<>()> confine;
    };
    explicit VcpuThreads(Setup setup) : setup_(std::move(setup)) {}
    // Stops and joins.
    ~VcpuThreads();
    VcpuThreads(const VcpuThreads&) = delete;
    VcpuThreads& operator=(const VcpuThreads&) = delete;

    // The threads start paused.
    Result<> start(std::vector<kvm::Vcpu> vcpus);
    void resume();
    // Returns when every processor stands still, its last exit completed.
    void pause();
    void stop();
    // To save and restore them; only while they stand still.
    std::size_t count() const { return processors_.size(); }
    kvm::Vcpu& processor(std::size_t index) { return *processors_[index].vcpu; }

    VcpuMetrics metrics;

  private:
    enum class State : unsigned char { paused, running, stopping };
    struct Processor {
        std::optional<kvm::Vcpu> vcpu;
        std::thread thread;
    };
    void run(std::size_t index);
    // False: the guest is over.
    bool handle_exit(kvm::Vcpu& vcpu);
    void end(ExitCode code);
    void kick_all();

    Setup setup_;
    std::mutex mutex_;
    std::condition_variable changed_;
    State state_ = State::paused;
    std::size_t standing_ = 0;  // threads that wait in `paused`
    bool ended_ = false;
    std::vector<Processor> processors_;
};

}  // namespace wherry::vmm
