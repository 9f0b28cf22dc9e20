// The keyboard controller, for the two things a machine without a keyboard needs: the reset line, and
// Ctrl+Alt+Del as the way to ask a guest to shut down.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/core/bus.hpp"
#include "vmm/devices/i8042/metrics.hpp"

namespace wherry::vmm::i8042 {

struct State;

// On ports 0x60 and 0x64, as offsets 0 and 4.
class I8042Device final : public BusDevice {
  public:
    // `reset` is called on a processor's thread when the guest pulls the reset line.
    I8042Device(Fd interrupt, std::function<void()> reset);

    int interrupt_event() const { return interrupt_.get(); }
    void read(std::uint64_t offset, std::span<std::byte> out) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

    // resource_exhausted when the guest has not read earlier keys.
    Result<> press_ctrl_alt_del();

    State save();
    // An interrupt that is due comes with raise_pending(), when the interrupt controllers are there.
    Result<> restore(const State& state);
    void raise_pending();

    Metrics metrics;

  private:
    static constexpr std::size_t output_bytes = 16;
    static constexpr std::uint8_t control_keyboard_interrupt = 1;

    void command(std::uint8_t value);
    void data_written(std::uint8_t value);
    void put(std::uint8_t byte);
    void answer(std::initializer_list<std::uint8_t> bytes);

    Fd interrupt_;
    std::function<void()> reset_;
    std::mutex mutex_;
    std::deque<std::uint8_t> output_;
    std::uint8_t control_ = 0;
    std::uint8_t pending_command_ = 0;   // a controller command that waits for its data
    std::uint8_t keyboard_command_ = 0;  // a keyboard command that waits for its data
};

}  // namespace wherry::vmm::i8042
