#include "vmm/devices/i8042/device.hpp"

#include <algorithm>

#include "vmm/core/event_loop.hpp"

namespace wherry::vmm::i8042 {
namespace {

constexpr std::uint64_t data_port = 0, command_port = 4;
constexpr std::uint8_t status_output_full = 1, status_self_test_passed = 4, status_enabled = 0x10;

constexpr std::uint8_t command_read_control = 0x20, command_write_control = 0x60, command_disable_aux = 0xa7,
                       command_enable_aux = 0xa8, command_test_aux = 0xa9, command_self_test = 0xaa,
                       command_test_keyboard = 0xab, command_read_output = 0xd0, command_write_output = 0xd1,
                       command_write_aux = 0xd4, command_reset = 0xfe;
constexpr std::uint8_t keyboard_acknowledge = 0xfa;

}  // namespace

I8042Device::I8042Device(Fd interrupt, std::function<void()> reset)
    : interrupt_(std::move(interrupt)), reset_(std::move(reset)) {}

// A guest that only asks and never reads loses answers, not our memory.
void I8042Device::put(std::uint8_t byte) {
    if (output_.size() < output_bytes) output_.push_back(byte);
}

void I8042Device::answer(std::initializer_list<std::uint8_t> bytes) {
    for (std::uint8_t byte : bytes) put(byte);
    if ((control_ & control_keyboard_interrupt) != 0) signal_eventfd(interrupt_.get());
}

Result<> I8042Device::press_ctrl_alt_del() {
    const std::lock_guard lock(mutex_);
    if (output_.size() + 4 > output_bytes)
        return fail(Code::resource_exhausted, "The keyboard's buffer is full: the guest does not read it.");
    answer({0x14, 0x11, 0xe0, 0x71});  // scan code set 2: left Ctrl, left Alt, Delete
    return {};
}

void I8042Device::read(std::uint64_t offset, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0});
    if (out.size() != 1) {
        metrics.missed_read_count.add();
        return;
    }
    const std::lock_guard lock(mutex_);
    metrics.read_count.add();
    if (offset == command_port) {
        out[0] = static_cast<std::byte>(status_self_test_passed | status_enabled |
                                        (output_.empty() ? 0U : status_output_full));
    } else if (offset == data_port && !output_.empty()) {
        out[0] = static_cast<std::byte>(output_.front());
        output_.pop_front();
        // One interrupt a byte: the next one is due when this one has been read.
        if (!output_.empty() && (control_ & control_keyboard_interrupt) != 0) signal_eventfd(interrupt_.get());
    }
}

void I8042Device::write(std::uint64_t offset, std::span<const std::byte> data) {
    if (data.size() != 1) {
        metrics.missed_write_count.add();
        return;
    }
    const auto value = std::to_integer<std::uint8_t>(data[0]);
    if (offset == command_port && value == command_reset) {
        metrics.reset_count.add();
        reset_();  // without the lock: it may end the machine
        return;
    }
    const std::lock_guard lock(mutex_);
    metrics.write_count.add();
    if (offset == command_port) {
        command(value);
    } else if (offset == data_port) {
        data_written(value);
    }
}

void I8042Device::command(std::uint8_t value) {
    pending_command_ = 0;
    switch (value) {
        case command_read_control:
            put(control_);
            return;
        case command_self_test:
            output_.clear();
            put(0x55);
            return;
        case command_test_keyboard:
            put(0);
            return;
        case command_test_aux:
            put(0xff);  // there is no mouse
            return;
        case command_read_output:
            put(2);
            return;
        case command_write_control:
        case command_write_output:
        case command_write_aux:
            pending_command_ = value;
            return;
        case command_disable_aux:
        case command_enable_aux:
        default:
            return;
    }
}

void I8042Device::data_written(std::uint8_t value) {
    const std::uint8_t command = pending_command_;
    pending_command_ = 0;
    if (command == command_write_control) {
        control_ = value;
        return;
    }
    if (command == command_write_output || command == command_write_aux) return;
    const std::uint8_t earlier = keyboard_command_;
    keyboard_command_ = 0;
    if (earlier != 0) {  // the argument of "set LEDs" and its like
        answer({keyboard_acknowledge});
        return;
    }
    switch (value) {
        case 0xed:  // LEDs
        case 0xf0:  // scan code set
        case 0xf3:  // typematic rate
            keyboard_command_ = value;
            answer({keyboard_acknowledge});
            return;
        case 0xf2:  // identify
            answer({keyboard_acknowledge, 0xab, 0x83});
            return;
        case 0xff:  // reset
            answer({keyboard_acknowledge, 0xaa});
            return;
        default:
            answer({keyboard_acknowledge});
    }
}

}  // namespace wherry::vmm::i8042
