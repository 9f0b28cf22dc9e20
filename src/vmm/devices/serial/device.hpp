// A 16550A serial port at COM1, as far as kernels use it: polled or by interrupt, with its receive FIFO and loopback.
// Registers are the processors' threads' business, input the device thread's; one mutex covers both.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/core/bus.hpp"
#include "vmm/core/rate_limiter.hpp"
#include "vmm/devices/serial/metrics.hpp"

namespace wherry::vmm::serial {

struct State;

class SerialDevice final : public BusDevice {
  public:
    // Output goes to `output` (nowhere when empty); `interrupt` is an eventfd that stands for the line.
    SerialDevice(Fd output, Fd interrupt, RateLimiter limiter = {});

    int interrupt_event() const { return interrupt_.get(); }
    void read(std::uint64_t offset, std::span<std::byte> out) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

    // Bytes typed by a person; how many there was room for.
    std::size_t receive(std::string_view bytes);
    std::size_t room() const;
    // Called (with the mutex held) when the guest has emptied the FIFO.
    void on_drained(std::function<void()> drained);

    State save() const;
    // An interrupt that is due comes with raise_pending(), when the interrupt controllers are there.
    Result<> restore(const State& state);
    void raise_pending();

    Metrics metrics;

  private:
    static constexpr std::size_t fifo_bytes = 64;

    std::byte read_register(std::uint64_t offset);
    void write_register(std::uint64_t offset, std::uint8_t value);
    void transmit(std::uint8_t value);
    void update_interrupt(bool edge);
    std::uint8_t interrupt_identification() const;

    Fd output_;
    Fd interrupt_;
    RateLimiter limiter_;
    mutable std::mutex mutex_;
    std::deque<std::uint8_t> received_;
    std::function<void()> drained_;
    std::uint8_t interrupt_enable_ = 0;
    std::uint8_t line_control_ = 3;
    std::uint8_t modem_control_ = 8;
    std::uint8_t scratch_ = 0;
    std::uint16_t divisor_ = 12;
    bool transmit_pending_ = false;  // "transmitter empty" has not been told yet
    bool fifo_enabled_ = false;
};

}  // namespace wherry::vmm::serial
