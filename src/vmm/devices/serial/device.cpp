#include "vmm/devices/serial/device.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.hpp"
#include "vmm/core/event_loop.hpp"

namespace wherry::vmm::serial {
namespace {

// Registers of the 16550A, by offset.
enum Register : std::uint64_t {
    data = 0,              // divisor low with the latch open
    interrupt_enable = 1,  // divisor high
    interrupt_identification_or_fifo = 2,
    line_control = 3,
    modem_control = 4,
    line_status = 5,
    modem_status = 6,
    scratch = 7,
};

constexpr std::uint8_t enable_received = 1, enable_transmitted = 2;
constexpr std::uint8_t identify_none = 1, identify_transmitted = 2, identify_received = 4, identify_fifo = 0xc0;
constexpr std::uint8_t latch = 0x80;
constexpr std::uint8_t loopback = 0x10;
constexpr std::uint8_t status_data_ready = 1, status_transmitter_empty = 0x60;

}  // namespace

SerialDevice::SerialDevice(Fd output, Fd interrupt, RateLimiter limiter)
    : output_(std::move(output)), interrupt_(std::move(interrupt)), limiter_(limiter) {}

std::size_t SerialDevice::room() const {
    const std::lock_guard lock(mutex_);
    return fifo_bytes - std::min(fifo_bytes, received_.size());
}

void SerialDevice::on_drained(std::function<void()> drained) {
    const std::lock_guard lock(mutex_);
    drained_ = std::move(drained);
}

std::size_t SerialDevice::receive(std::string_view bytes) {
    const std::lock_guard lock(mutex_);
    const std::size_t count = std::min(bytes.size(), fifo_bytes - std::min(fifo_bytes, received_.size()));
    if ((modem_control_ & loopback) != 0) return count;  // the line is cut
    received_.insert(received_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
    update_interrupt(count > 0);
    return count;
}

std::uint8_t SerialDevice::interrupt_identification() const {
    const std::uint8_t fifo = fifo_enabled_ ? identify_fifo : 0;
    if ((interrupt_enable_ & enable_received) != 0 && !received_.empty()) return fifo | identify_received;
    if ((interrupt_enable_ & enable_transmitted) != 0 && transmit_pending_) return fifo | identify_transmitted;
    return fifo | identify_none;
}

// The line is edge-triggered: a new reason is a new pulse.
void SerialDevice::update_interrupt(bool edge) {
    if (edge && (interrupt_identification() & identify_none) == 0) signal_eventfd(interrupt_.get());
}

void SerialDevice::read(std::uint64_t offset, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0});
    if (out.size() != 1) {
        metrics.missed_read_count.add();
        return;
    }
    const std::lock_guard lock(mutex_);
    out[0] = read_register(offset);
}

std::byte SerialDevice::read_register(std::uint64_t offset) {
    switch (offset) {
        case data: {
            if ((line_control_ & latch) != 0) return static_cast<std::byte>(divisor_ & 0xffU);
            if (received_.empty()) return std::byte{0};
            const std::uint8_t value = received_.front();
            received_.pop_front();
            metrics.read_count.add();
            if (received_.empty() && drained_) drained_();
            return static_cast<std::byte>(value);
        }
        case interrupt_enable:
            return static_cast<std::byte>((line_control_ & latch) != 0 ? divisor_ >> 8U : interrupt_enable_);
        case interrupt_identification_or_fifo: {
            const std::uint8_t identification = interrupt_identification();
            // Reading it is what acknowledges an empty transmitter.
            if ((identification & 0xfU) == identify_transmitted) transmit_pending_ = false;
            return static_cast<std::byte>(identification);
        }
        case line_control:
            return static_cast<std::byte>(line_control_);
        case modem_control:
            return static_cast<std::byte>(modem_control_);
        case line_status:
            return static_cast<std::byte>(status_transmitter_empty | (received_.empty() ? 0U : status_data_ready));
        case modem_status: {
            // Carrier, data set ready, clear to send; in loopback, the outputs come back as inputs.
            if ((modem_control_ & loopback) == 0) return std::byte{0xb0};
            const unsigned m = modem_control_;
            return static_cast<std::byte>(((m & 2U) << 3U) | ((m & 1U) << 5U) | ((m & 4U) << 4U) | ((m & 8U) << 4U));
        }
        case scratch:
            return static_cast<std::byte>(scratch_);
        default:
            return std::byte{0};
    }
}

void SerialDevice::write(std::uint64_t offset, std::span<const std::byte> bytes) {
    if (bytes.size() != 1) {
        metrics.missed_write_count.add();
        return;
    }
    const std::lock_guard lock(mutex_);
    write_register(offset, std::to_integer<std::uint8_t>(bytes[0]));
}

void SerialDevice::write_register(std::uint64_t offset, std::uint8_t value) {
    switch (offset) {
        case data:
            if ((line_control_ & latch) != 0) {
                divisor_ = static_cast<std::uint16_t>((divisor_ & 0xff00U) | value);
            } else {
                transmit(value);
            }
            return;
        case interrupt_enable: {
            if ((line_control_ & latch) != 0) {
                divisor_ = static_cast<std::uint16_t>((divisor_ & 0xffU) | (unsigned{value} << 8U));
                return;
            }
            const bool newly = (value & enable_transmitted) != 0 && (interrupt_enable_ & enable_transmitted) == 0;
            const bool reading = (value & enable_received) != 0 && (interrupt_enable_ & enable_received) == 0;
            interrupt_enable_ = value & 0xfU;
            if (newly) transmit_pending_ = true;
            update_interrupt(newly || reading);
            return;
        }
        case interrupt_identification_or_fifo:
            fifo_enabled_ = (value & 1U) != 0;
            if ((value & 2U) != 0) received_.clear();
            return;
        case line_control:
            line_control_ = value;
            return;
        case modem_control:
            modem_control_ = value & 0x1fU;
            return;
        case scratch:
            scratch_ = value;
            return;
        default:
            return;
    }
}

void SerialDevice::transmit(std::uint8_t value) {
    if ((modem_control_ & loopback) != 0) {
        if (received_.size() < fifo_bytes) received_.push_back(value);
        update_interrupt(true);
        return;
    }
    if (output_ && !limiter_.take(1, monotonic_ns())) {
        metrics.rate_limiter_dropped_bytes.add();
    } else if (output_) {
        ssize_t written = 0;
        do {
            written = ::write(output_.get(), &value, 1);
        } while (written < 0 && errno == EINTR);
        if (written == 1) {
            metrics.write_count.add();
        } else {
            metrics.missed_write_count.add();
        }
    }
    transmit_pending_ = true;
    update_interrupt(true);
}

}  // namespace wherry::vmm::serial
