#include "vmm/pci/root_port.hpp"

#include <linux/pci_regs.h>

#include <array>
#include <utility>

#include "base/clock.hpp"
#include "vmm/pci/identities.hpp"

namespace wherry::vmm::pci {
namespace {

// Longer than a guest thinks about the attention button: pressed again in that time, it would do nothing.
constexpr std::int64_t patience_ns = 10'000'000'000;

constexpr std::uint32_t class_pci_bridge = 0x060400;

constexpr std::uint16_t slot_events = PCI_EXP_SLTSTA_ABP | PCI_EXP_SLTSTA_PFD | PCI_EXP_SLTSTA_MRLSC |
                                      PCI_EXP_SLTSTA_PDC | PCI_EXP_SLTSTA_CC | PCI_EXP_SLTSTA_DLLSC;
// Those that Slot Control can turn into interrupts; the bits stand at the same places but for the last.
constexpr std::uint16_t control_mask = 0x1fff;

std::uint16_t enabled_events(std::uint16_t control) {
    std::uint16_t events =
        control & (PCI_EXP_SLTCTL_ABPE | PCI_EXP_SLTCTL_PFDE | PCI_EXP_SLTCTL_MRLSCE | PCI_EXP_SLTCTL_PDCE);
    if ((control & PCI_EXP_SLTCTL_DLLSCE) != 0) events |= PCI_EXP_SLTSTA_DLLSC;
    return events;
}

}  // namespace

RootPort::RootPort(Host& host, const Place& place, std::function<void()> released)
    : host_(host),
      place_(place),
      released_(std::move(released)),
      space_({.vendor = identities::red_hat,
              .device = identities::root_port,
              .class_code = class_pci_bridge,
              .header_type = PCI_HEADER_TYPE_BRIDGE | 0x80U}) {
    space_.set16(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    space_.set8(PCI_SECONDARY_BUS, place.secondary_bus);
    space_.set8(PCI_SUBORDINATE_BUS, place.secondary_bus);
    for (const int at : {PCI_PRIMARY_BUS, PCI_SECONDARY_BUS, PCI_SUBORDINATE_BUS})
        space_.allow8(static_cast<std::size_t>(at), 0xff);
    space_.set16(PCI_MEMORY_BASE, static_cast<std::uint16_t>(place.memory.start >> 16U));
    space_.set16(PCI_MEMORY_LIMIT,
                 static_cast<std::uint16_t>((place.memory.start + place.memory.bytes - 1) >> 16U) & 0xfff0U);
    space_.allow16(PCI_MEMORY_BASE, 0xfff0);
    space_.allow16(PCI_MEMORY_LIMIT, 0xfff0);

    std::array<std::byte, 0x3a> express = {};
    express_ = space_.add_capability(PCI_CAP_ID_EXP, express);
    space_.set16(express_ + PCI_EXP_FLAGS, 2U | (PCI_EXP_TYPE_ROOT_PORT << 4U) | PCI_EXP_FLAGS_SLOT);
    space_.set32(express_ + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER);
    space_.allow16(express_ + PCI_EXP_DEVCTL, 0x000f);
    // One lane at 2.5 GT/s that tells whether it is up; without that, guests wait for seconds.
    space_.set32(express_ + PCI_EXP_LNKCAP,
                 PCI_EXP_LNKCAP_SLS_2_5GB | (1U << 4U) | PCI_EXP_LNKCAP_DLLLARC | (std::uint32_t{place.number} << 24U));
    space_.set32(express_ + PCI_EXP_LNKCAP2, PCI_EXP_LNKCAP2_SLS_2_5GB);
    // No power controller: with one, Linux waits a second after each removal and ignores what happens meanwhile.
    space_.set32(express_ + PCI_EXP_SLTCAP, PCI_EXP_SLTCAP_ABP | PCI_EXP_SLTCAP_AIP | PCI_EXP_SLTCAP_PIP |
                                                PCI_EXP_SLTCAP_HPS | PCI_EXP_SLTCAP_HPC | PCI_EXP_SLTCAP_NCCS |
                                                (std::uint32_t{place.number} << 19U));
    space_.set16(express_ + PCI_EXP_SLTCTL, PCI_EXP_SLTCTL_ATTN_IND_OFF | PCI_EXP_SLTCTL_PWR_IND_OFF);
    space_.allow16(express_ + PCI_EXP_SLTCTL, control_mask);
    space_.clear_by_ones16(express_ + PCI_EXP_SLTSTA, slot_events);
    show_link(false);

    std::array<std::byte, 12> msi = {};  // one vector, 64-bit address
    msi_ = space_.add_capability(PCI_CAP_ID_MSI, msi);
    space_.set16(msi_ + PCI_MSI_FLAGS, PCI_MSI_FLAGS_64BIT);
    space_.allow16(msi_ + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE);
    space_.allow32(msi_ + PCI_MSI_ADDRESS_LO, ~3U);
    space_.allow32(msi_ + PCI_MSI_ADDRESS_HI, ~0U);
    space_.allow16(msi_ + PCI_MSI_DATA_64, 0xffff);
}

void RootPort::show_link(bool is_up) {
    const std::uint16_t status = space_.get16(express_ + PCI_EXP_SLTSTA);
    const std::uint16_t present = PCI_EXP_SLTSTA_PDS;
    space_.set16(express_ + PCI_EXP_SLTSTA,
                 static_cast<std::uint16_t>(is_up ? status | present : status & ~unsigned{present}));
    const unsigned speed_and_width = PCI_EXP_LNKSTA_CLS_2_5GB | (1U << PCI_EXP_LNKSTA_NLW_SHIFT);
    space_.set16(express_ + PCI_EXP_LNKSTA,
                 static_cast<std::uint16_t>(is_up ? speed_and_width | PCI_EXP_LNKSTA_DLLLA : PCI_EXP_LNKSTA_CLS_2_5GB));
}

void RootPort::interrupt() {
    const std::uint16_t control = space_.get16(express_ + PCI_EXP_SLTCTL);
    const std::uint16_t status = space_.get16(express_ + PCI_EXP_SLTSTA);
    if ((control & PCI_EXP_SLTCTL_HPIE) == 0 || (status & enabled_events(control)) == 0) return;
    if ((space_.get16(msi_ + PCI_MSI_FLAGS) & PCI_MSI_FLAGS_ENABLE) == 0) return;
    host_.send({.address = space_.get32(msi_ + PCI_MSI_ADDRESS_LO) |
                           (std::uint64_t{space_.get32(msi_ + PCI_MSI_ADDRESS_HI)} << 32U),
                .data = space_.get16(msi_ + PCI_MSI_DATA_64)});
}

void RootPort::raise(std::uint16_t events) {
    space_.set16(express_ + PCI_EXP_SLTSTA,
                 static_cast<std::uint16_t>(space_.get16(express_ + PCI_EXP_SLTSTA) | events));
    interrupt();
}

bool RootPort::is_occupied() {
    const std::lock_guard lock(mutex_);
    return function_ != nullptr;
}

void RootPort::insert(std::shared_ptr<Function> function) {
    const std::lock_guard lock(mutex_);
    function_ = std::move(function);
    show_link(true);
}

void RootPort::plug(std::shared_ptr<Function> function) {
    const std::lock_guard lock(mutex_);
    function_ = std::move(function);
    is_removing_ = false;
    show_link(true);
    raise(PCI_EXP_SLTSTA_PDC | PCI_EXP_SLTSTA_DLLSC);
}

Result<> RootPort::request_removal() {
    const std::lock_guard lock(mutex_);
    const std::uint16_t control = space_.get16(express_ + PCI_EXP_SLTCTL);
    const std::uint16_t status = space_.get16(express_ + PCI_EXP_SLTSTA);
    if ((control & PCI_EXP_SLTCTL_HPIE) == 0 || (control & PCI_EXP_SLTCTL_ABPE) == 0)
        return fail(Code::conflict, "the guest does not listen to its hotplug slots: let it release the device first");
    const bool is_unseen = (status & PCI_EXP_SLTSTA_ABP) != 0;
    const bool is_blinking = (control & PCI_EXP_SLTCTL_PIC) == PCI_EXP_SLTCTL_PWR_IND_BLINK;
    const std::int64_t now = monotonic_ns();
    if (is_removing_ && (is_unseen || is_blinking || now - pressed_ns_ < patience_ns)) return {};
    is_removing_ = true;
    pressed_ns_ = now;
    raise(PCI_EXP_SLTSTA_ABP);
    return {};
}

bool RootPort::is_released() {
    const std::lock_guard lock(mutex_);
    return is_removing_ && (space_.get16(express_ + PCI_EXP_SLTCTL) & PCI_EXP_SLTCTL_PIC) == PCI_EXP_SLTCTL_PWR_IND_OFF;
}

std::shared_ptr<Function> RootPort::unplug() {
    const std::lock_guard lock(mutex_);
    is_removing_ = false;
    if (!function_) return nullptr;
    show_link(false);
    raise(PCI_EXP_SLTSTA_PDC | PCI_EXP_SLTSTA_DLLSC);
    return std::exchange(function_, nullptr);
}

std::shared_ptr<Function> RootPort::on_bus(std::uint8_t bus) {
    const std::lock_guard lock(mutex_);
    return bus != 0 && bus == space_.get8(PCI_SECONDARY_BUS) ? function_ : nullptr;
}

std::shared_ptr<Function> RootPort::behind(std::uint64_t address, std::uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    if ((space_.get16(PCI_COMMAND) & PCI_COMMAND_MEMORY) == 0) return nullptr;
    const std::uint64_t first = std::uint64_t{space_.get16(PCI_MEMORY_BASE)} << 16U;
    const std::uint64_t last = (std::uint64_t{space_.get16(PCI_MEMORY_LIMIT)} << 16U) | 0xfffffU;
    return address >= first && address + bytes - 1 <= last ? function_ : nullptr;
}

void RootPort::read_configuration(std::uint32_t offset, std::span<std::byte> out) {
    const std::lock_guard lock(mutex_);
    space_.read(offset, out);
}

void RootPort::write_configuration(std::uint32_t offset, std::span<const std::byte> data) {
    bool is_released = false;
    {
        const std::lock_guard lock(mutex_);
        const auto indicator = [this] { return space_.get16(express_ + PCI_EXP_SLTCTL) & PCI_EXP_SLTCTL_PIC; };
        const auto enabled = [this] {
            const bool has_msi = (space_.get16(msi_ + PCI_MSI_FLAGS) & PCI_MSI_FLAGS_ENABLE) != 0;
            const std::uint16_t control = space_.get16(express_ + PCI_EXP_SLTCTL);
            const bool listens = has_msi && (control & PCI_EXP_SLTCTL_HPIE) != 0;
            return listens ? enabled_events(control) : std::uint16_t{0};
        };
        const auto indicator_before = indicator();
        const std::uint16_t enabled_before = enabled();
        space_.write(offset, data);
        // Events that came before anybody listened to them.
        if ((enabled() & ~unsigned{enabled_before}) != 0) interrupt();
        is_released = is_removing_ && function_ != nullptr && indicator() == PCI_EXP_SLTCTL_PWR_IND_OFF &&
                      indicator_before != PCI_EXP_SLTCTL_PWR_IND_OFF;
    }
    if (is_released && released_) released_();
}

RootPortState RootPort::save() {
    const std::lock_guard lock(mutex_);
    return {.registers = space_.registers(), .is_removing = is_removing_};
}

void RootPort::restore(const RootPortState& state) {
    const std::lock_guard lock(mutex_);
    space_.restore(state.registers);
    is_removing_ = state.is_removing && function_ != nullptr;
    pressed_ns_ = monotonic_ns();
}

}  // namespace wherry::vmm::pci
