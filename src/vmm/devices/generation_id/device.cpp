#include "vmm/devices/generation_id/device.hpp"

#include <array>
#include <atomic>
#include <cstddef>

#include "base/id.hpp"
#include "vmm/core/event_loop.hpp"

namespace wherry::vmm::generation_id {
namespace {

// struct vmclock_abi (linux/vmclock-abi.h, version 1; its specification is UAPI.13, whose bits of flags are those of an
// earlier header). Up to time_type it is constant.
struct ClockPage {
    std::uint32_t magic;
    std::uint32_t bytes;
    std::uint16_t version;
    std::uint8_t counter_id;
    std::uint8_t time_type;
    std::uint32_t sequence;  // odd: being changed
    std::uint64_t disruption_marker;
    std::uint64_t flags;
    std::uint8_t padding[2];
    std::uint8_t clock_status;
    std::uint8_t smearing_hint;
    std::uint16_t tai_offset_seconds;
    std::uint8_t leap_indicator;
    std::uint8_t counter_period_shift;
    // The clock: its counter, period and errors, time and errors. Zero, as there is none.
    std::uint64_t clock[8];
    std::uint64_t generation;
};
static_assert(offsetof(ClockPage, sequence) == 0x0c && offsetof(ClockPage, clock_status) == 0x22 &&
              offsetof(ClockPage, clock) == 0x28 && offsetof(ClockPage, generation) == 0x68 &&
              sizeof(ClockPage) == 0x70);

constexpr std::uint32_t clock_magic = 0x4b4c4356;  // "VCLK"
constexpr std::uint8_t no_counter = 0xff, status_unknown = 0;
constexpr std::uint64_t flag_generation_present = 1U << 8U, flag_notification_present = 1U << 9U;

}  // namespace

Result<std::unique_ptr<GenerationIdDevice>> GenerationIdDevice::create(std::shared_ptr<GuestMemory> memory,
                                                                       GuestAddress id_page, GuestAddress clock_page,
                                                                       Fd interrupt) {
    std::unique_ptr<GenerationIdDevice> device(new GenerationIdDevice);
    device->memory_ = std::move(memory);
    device->id_page_ = id_page;
    device->clock_page_ = clock_page;
    device->interrupt_ = std::move(interrupt);
    TRY(device->write());
    return device;
}

Result<> GenerationIdDevice::write() {
    std::array<std::byte, 16> id = {};
    fill_random(id);
    // Both markers are of this guest's own past: no value in it comes twice.
    ClockPage page = {.magic = clock_magic,
                      .bytes = 4096,
                      .version = 1,
                      .counter_id = no_counter,
                      .time_type = 0,
                      .sequence = static_cast<std::uint32_t>(disruptions_ * 2),
                      .disruption_marker = disruptions_,
                      .flags = flag_generation_present | flag_notification_present,
                      .padding = {},
                      .clock_status = status_unknown,
                      .smearing_hint = 0,
                      .tai_offset_seconds = 0,
                      .leap_indicator = 0,
                      .counter_period_shift = 0,
                      .clock = {},
                      .generation = disruptions_};
    const GuestAddress sequence = clock_page_ + offsetof(ClockPage, sequence);
    const std::uint32_t consistent = page.sequence;
    --page.sequence;  // while it is written, which a processor that runs must not take for whole
    bool written = memory_->write(sequence, page.sequence);
    std::atomic_thread_fence(std::memory_order_release);
    written = written && memory_->write(clock_page_, page);
    std::atomic_thread_fence(std::memory_order_release);
    written = written && memory_->write(sequence, consistent) && memory_->write_bytes(id_page_, id);
    if (!written) return fail(Code::out_of_range, "the guest has too little memory for its generation id");
    return {};
}

Result<> GenerationIdDevice::change() {
    ++disruptions_;
    TRY(write());
    signal_eventfd(interrupt_.get());
    return {};
}

}  // namespace wherry::vmm::generation_id
