// Configuration spaces, vectors, and root ports as a guest's hotplug driver uses them.
#include <gtest/gtest.h>
#include <linux/pci_regs.h>

#include <array>
#include <cstring>

#include "vmm/pci/configuration_space.hpp"
#include "vmm/pci/msix.hpp"
#include "vmm/pci/root_complex.hpp"
#include "vmm/pci/root_port.hpp"
#include "vmm/testing/pci_host.hpp"

namespace wherry::vmm::pci {
namespace {

using testing::get_configuration;
using testing::RecordingHost;
using testing::set_configuration;

std::uint32_t read32(const ConfigurationSpace& space, std::uint32_t at) {
    std::uint32_t value = 0;
    space.read(at, std::as_writable_bytes(std::span(&value, 1)));
    return value;
}
void write32(ConfigurationSpace& space, std::uint32_t at, std::uint32_t value) {
    space.write(at, std::as_bytes(std::span(&value, 1)));
}

TEST(ConfigurationSpace, SaysWhatItIsAndKeepsIt) {
    ConfigurationSpace space({.vendor = 0x1af4, .device = 0x1042, .class_code = 0x018000, .revision = 1});
    EXPECT_EQ(read32(space, 0), 0x10421af4U);
    EXPECT_EQ(read32(space, 8), 0x01800001U);
    for (std::uint32_t at = 0; at < ConfigurationSpace::size; at += 4) write32(space, at, 0xffffffff);
    EXPECT_EQ(read32(space, 0), 0x10421af4U);
    EXPECT_EQ(read32(space, 8), 0x01800001U);
    EXPECT_EQ(read32(space, 4) & 0xffffU,
              std::uint32_t{PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE});
    EXPECT_EQ(read32(space, PCI_BASE_ADDRESS_0), 0U);
}

TEST(ConfigurationSpace, TellsTheSizeOfABar) {
    ConfigurationSpace space({.vendor = 1});
    space.set_memory_bar(0, 0x8000);
    write32(space, PCI_BASE_ADDRESS_0, 0xffffffff);
    EXPECT_EQ(read32(space, PCI_BASE_ADDRESS_0), 0xffff8000U);
    write32(space, PCI_BASE_ADDRESS_0, 0xd0012345);
    EXPECT_EQ(space.bar_address(0), 0xd0010000U);
    EXPECT_EQ(read32(space, PCI_BASE_ADDRESS_0 + 4), 0U);
}

TEST(ConfigurationSpace, LinksItsCapabilities) {
    ConfigurationSpace space({.vendor = 1});
    EXPECT_EQ(space.get16(PCI_STATUS) & PCI_STATUS_CAP_LIST, 0);
    const std::array<std::byte, 3> first = {std::byte{1}, std::byte{2}, std::byte{3}};
    const std::uint8_t a = space.add_capability(5, first);
    const std::uint8_t b = space.add_capability(6, {});
    EXPECT_EQ(space.get16(PCI_STATUS) & PCI_STATUS_CAP_LIST, PCI_STATUS_CAP_LIST);
    EXPECT_EQ(space.get8(PCI_CAPABILITY_LIST), a);
    EXPECT_EQ(read32(space, a), 0x02010005U | (std::uint32_t{b} << 8U));
    EXPECT_EQ(read32(space, b), 6U);
    EXPECT_EQ(b % 4, 0);
}

TEST(ConfigurationSpace, TakesAccessesOfAnyKind) {
    ConfigurationSpace space({.vendor = 0x1234});
    std::array<std::byte, 8> wide = {};
    for (const std::uint32_t at : {0U, 1U, 0xfdU, 0xffU, 0x100U, 0xfffU, 0xffffffffU}) {
        wide.fill(std::byte{0xff});
        space.write(at, wide);
        space.read(at, wide);
    }
    EXPECT_EQ(space.get16(PCI_VENDOR_ID), 0x1234);
    space.read(0xfc, wide);
    EXPECT_EQ(wide[7], std::byte{0});
}

TEST(ConfigurationSpace, ARestoredOneTakesNoIdentityFromTheFile) {
    ConfigurationSpace space({.vendor = 0x1234});
    space.set_memory_bar(0, 0x1000);
    ConfigurationSpace::Registers forged;
    forged.fill(std::byte{0xff});
    space.restore(forged);
    EXPECT_EQ(space.get16(PCI_VENDOR_ID), 0x1234);
    EXPECT_EQ(space.bar_address(0), 0xfffff000U);
}

class MsixTest : public ::testing::Test {
  protected:
    void set(std::uint64_t offset, std::uint32_t value) {
        msix.write_table(offset, std::as_bytes(std::span(&value, 1)));
    }
    std::uint32_t get(std::uint64_t offset) {
        std::uint32_t value = 0;
        msix.read_table(offset, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    std::uint64_t pending() {
        std::uint64_t value = 0;
        msix.read_pending(0, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    void program(std::uint64_t vector, std::uint32_t data) {
        set(vector * 16, 0xfee00000);
        set(vector * 16 + 4, 1);
        set(vector * 16 + 8, data);
        set(vector * 16 + 12, 0);
    }
    RecordingHost host;
    Msix msix{host, 3};
};

TEST_F(MsixTest, SendsWhatTheTableSays) {
    program(1, 0x4031);
    msix.signal(1);
    EXPECT_TRUE(host.messages.empty()) << "off";
    msix.set_control(PCI_MSIX_FLAGS_ENABLE);
    EXPECT_TRUE(host.messages.empty()) << "what came while it was off is gone";
    msix.signal(1);
    ASSERT_EQ(host.messages.size(), 1U);
    EXPECT_EQ(host.messages[0].address, 0x1fee00000U);
    EXPECT_EQ(host.messages[0].data, 0x4031U);
    msix.signal(3);
    msix.signal(0xffff);
    EXPECT_EQ(host.messages.size(), 1U);
}

TEST_F(MsixTest, AMaskedVectorWaits) {
    msix.set_control(PCI_MSIX_FLAGS_ENABLE);
    program(2, 7);
    set(2 * 16 + 12, 1);
    msix.signal(2);
    msix.signal(2);
    EXPECT_TRUE(host.messages.empty());
    EXPECT_EQ(pending(), 4U);
    set(2 * 16 + 12, 0);
    EXPECT_EQ(host.messages.size(), 1U) << "two that wait are one";
    EXPECT_EQ(pending(), 0U);
    EXPECT_EQ(get(12), 1U) << "masked from the start";
}

TEST_F(MsixTest, AMaskedFunctionWaits) {
    program(0, 1);
    program(1, 2);
    msix.set_control(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    msix.signal(0);
    msix.signal(1);
    EXPECT_EQ(pending(), 3U);
    set(16 + 12, 1);
    msix.set_control(PCI_MSIX_FLAGS_ENABLE);
    EXPECT_EQ(host.messages.size(), 1U);
    EXPECT_EQ(pending(), 2U);
}

TEST_F(MsixTest, NothingIsOutsideOfTheTable) {
    msix.set_control(PCI_MSIX_FLAGS_ENABLE);
    for (const std::uint64_t offset : {48ULL, 0xff0ULL, ~0ULL - 7}) {
        set(offset, 0xffffffff);
        EXPECT_EQ(get(offset), 0U);
    }
    std::array<std::byte, 2> narrow = {std::byte{1}, std::byte{1}};
    msix.write_table(0, narrow);
    msix.write_table(2, narrow);
    EXPECT_EQ(get(0), 0U);
    std::array<std::byte, 8> wide = {};
    wide[4] = std::byte{9};
    msix.write_table(8, wide);
    EXPECT_EQ(get(12), 1U);
    msix.read_pending(0xff8, wide);
    EXPECT_EQ(wide[0], std::byte{0});
}

TEST_F(MsixTest, GoesThroughASnapshot) {
    program(0, 5);
    msix.set_control(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    msix.signal(0);
    Msix other(host, 3);
    ASSERT_TRUE(other.restore(msix.save()));
    other.set_control(PCI_MSIX_FLAGS_ENABLE);
    ASSERT_EQ(host.messages.size(), 1U);
    EXPECT_EQ(host.messages[0].data, 5U);
    EXPECT_FALSE(Msix(host, 4).restore(msix.save()));
}

// A function that answers with its registers' offsets.
class Dummy final : public Function {
  public:
    explicit Dummy(std::optional<Window> window = std::nullopt) : window_(window) {}
    void read_configuration(std::uint32_t offset, std::span<std::byte> out) override {
        std::memset(out.data(), static_cast<int>(offset), out.size());
    }
    void write_configuration(std::uint32_t offset, std::span<const std::byte>) override { written = offset; }
    std::optional<Window> window() override { return window_; }
    void read_memory(std::uint64_t offset, std::span<std::byte> out) override {
        std::memset(out.data(), static_cast<int>(offset), out.size());
    }
    void write_memory(std::uint64_t offset, std::span<const std::byte>) override { written = offset; }
    std::uint64_t written = 0;

  private:
    std::optional<Window> window_;
};

constexpr std::uint32_t express = 0x40, msi = 0x7c;

class RootPortTest : public ::testing::Test {
  protected:
    std::uint16_t status() { return get_configuration<std::uint16_t>(port, express + PCI_EXP_SLTSTA); }
    void control(std::uint16_t value) { set_configuration<std::uint16_t>(port, express + PCI_EXP_SLTCTL, value); }
    // As Linux' driver of hotplug ports begins.
    void listen() {
        set_configuration<std::uint32_t>(port, msi + PCI_MSI_ADDRESS_LO, 0xfee00000);
        set_configuration<std::uint16_t>(port, msi + PCI_MSI_DATA_64, 0x22);
        set_configuration<std::uint16_t>(port, msi + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE);
        control(listening | PCI_EXP_SLTCTL_PWR_IND_OFF);
    }
    static constexpr std::uint16_t listening = PCI_EXP_SLTCTL_ABPE | PCI_EXP_SLTCTL_HPIE | PCI_EXP_SLTCTL_DLLSCE;

    RecordingHost host;
    unsigned released = 0;
    RootPort port{host, {.number = 3, .secondary_bus = 3, .memory = {0xd0300000, 0x100000}}, [this] { ++released; }};
    std::shared_ptr<Dummy> function = std::make_shared<Dummy>(Window{0xd0300000, 0x1000});
};

TEST_F(RootPortTest, DescribesItself) {
    EXPECT_EQ(get_configuration<std::uint32_t>(port, PCI_CLASS_REVISION) >> 8U, 0x060400U);
    EXPECT_EQ(get_configuration<std::uint8_t>(port, PCI_CAPABILITY_LIST), express);
    EXPECT_EQ(get_configuration<std::uint8_t>(port, express), PCI_CAP_ID_EXP);
    EXPECT_EQ(get_configuration<std::uint8_t>(port, msi), PCI_CAP_ID_MSI);
    EXPECT_EQ(get_configuration<std::uint8_t>(port, PCI_SECONDARY_BUS), 3);
    EXPECT_EQ(get_configuration<std::uint16_t>(port, PCI_MEMORY_BASE), 0xd030);
    EXPECT_EQ(get_configuration<std::uint16_t>(port, PCI_MEMORY_LIMIT), 0xd030);
    set_configuration<std::uint32_t>(port, PCI_PREF_MEMORY_BASE, 0xffffffff);
    EXPECT_EQ(get_configuration<std::uint32_t>(port, PCI_PREF_MEMORY_BASE), 0U);
    EXPECT_EQ(status() & PCI_EXP_SLTSTA_PDS, 0);
}

TEST_F(RootPortTest, PluggingRaisesPresenceAndLink) {
    listen();
    port.plug(function);
    EXPECT_EQ(status() & (PCI_EXP_SLTSTA_PDS | PCI_EXP_SLTSTA_PDC | PCI_EXP_SLTSTA_DLLSC),
              PCI_EXP_SLTSTA_PDS | PCI_EXP_SLTSTA_PDC | PCI_EXP_SLTSTA_DLLSC);
    EXPECT_NE(get_configuration<std::uint16_t>(port, express + PCI_EXP_LNKSTA) & PCI_EXP_LNKSTA_DLLLA, 0);
    ASSERT_EQ(host.messages.size(), 1U);
    EXPECT_EQ(host.messages[0].data, 0x22U);
    set_configuration<std::uint16_t>(port, express + PCI_EXP_SLTSTA, PCI_EXP_SLTSTA_PDC | PCI_EXP_SLTSTA_DLLSC);
    EXPECT_EQ(status(), PCI_EXP_SLTSTA_PDS) << "cleared by ones";
    EXPECT_EQ(port.on_bus(3), function);
    EXPECT_EQ(port.on_bus(0), nullptr);
    EXPECT_EQ(port.behind(0xd0300ffc, 4), function);
    EXPECT_EQ(port.behind(0xd0400000, 4), nullptr);
    set_configuration<std::uint16_t>(port, PCI_COMMAND, 0);
    EXPECT_EQ(port.behind(0xd0300ffc, 4), nullptr);
}

TEST_F(RootPortTest, EventsBeforeTheDriverComeWhenItIsThere) {
    port.plug(function);
    EXPECT_TRUE(host.messages.empty());
    listen();
    EXPECT_EQ(host.messages.size(), 1U);
}

TEST_F(RootPortTest, OneThatWasThereFromTheStartIsNoEvent) {
    port.insert(function);
    listen();
    EXPECT_TRUE(host.messages.empty());
    EXPECT_EQ(status(), PCI_EXP_SLTSTA_PDS);
}

TEST_F(RootPortTest, RemovalEndsWhenTheGuestSaysSo) {
    listen();
    port.insert(function);
    control(listening | PCI_EXP_SLTCTL_PWR_IND_ON);
    ASSERT_TRUE(port.request_removal());
    EXPECT_NE(status() & PCI_EXP_SLTSTA_ABP, 0);
    EXPECT_EQ(host.messages.size(), 1U);
    set_configuration<std::uint16_t>(port, express + PCI_EXP_SLTSTA, PCI_EXP_SLTSTA_ABP);
    control(listening | PCI_EXP_SLTCTL_PWR_IND_BLINK);
    ASSERT_TRUE(port.request_removal()) << "while the guest is at it";
    EXPECT_EQ(status() & PCI_EXP_SLTSTA_ABP, 0) << "a second press would take the first back";
    EXPECT_FALSE(port.is_released());
    control(listening | PCI_EXP_SLTCTL_PWR_IND_OFF);
    EXPECT_EQ(released, 1U);
    EXPECT_TRUE(port.is_released());
    EXPECT_EQ(port.unplug(), function);
    EXPECT_FALSE(port.is_released());
    EXPECT_EQ(status() & PCI_EXP_SLTSTA_PDS, 0);
    EXPECT_EQ(port.unplug(), nullptr);
}

TEST_F(RootPortTest, AGuestThatTurnsASlotOffByItselfKeepsTheFunction) {
    listen();
    port.insert(function);
    control(listening | PCI_EXP_SLTCTL_PWR_IND_ON);
    control(listening | PCI_EXP_SLTCTL_PWR_IND_OFF);
    EXPECT_EQ(released, 0U);
    EXPECT_EQ(port.on_bus(3), function);
}

TEST_F(RootPortTest, AGuestWithoutADriverOfSlotsCannotBeAsked) {
    port.insert(function);
    const auto asked = port.request_removal();
    ASSERT_FALSE(asked);
    EXPECT_EQ(asked.error().code(), Code::conflict);
}

TEST_F(RootPortTest, GoesThroughASnapshotInTheMiddleOfARemoval) {
    listen();
    port.insert(function);
    control(listening | PCI_EXP_SLTCTL_PWR_IND_ON);
    ASSERT_TRUE(port.request_removal());
    RootPort other{host, port.place(), [this] { released += 10; }};
    other.insert(function);
    other.restore(port.save());
    EXPECT_EQ(get_configuration<std::uint16_t>(other, express + PCI_EXP_SLTSTA), status());
    set_configuration<std::uint16_t>(other, express + PCI_EXP_SLTCTL, listening | PCI_EXP_SLTCTL_PWR_IND_OFF);
    EXPECT_EQ(released, 10U);
}

TEST(RootComplex, FindsFunctionsByBothMechanisms) {
    RecordingHost host;
    auto complex = std::make_shared<RootComplex>(Window{0xd0000000, 0x1000000});
    auto fixed = std::make_shared<Dummy>(Window{0xd0000000, 0x1000});
    auto behind = std::make_shared<Dummy>(Window{0xd0200000, 0x1000});
    auto port = std::make_shared<RootPort>(
        host, RootPort::Place{.number = 1, .secondary_bus = 5, .memory = {0xd0200000, 0x100000}}, nullptr);
    complex->add(1, 0, fixed);
    complex->add_port(16, 2, port);
    EnhancedConfiguration ecam(complex);
    const auto at = [&](unsigned bus, unsigned device, unsigned function, std::uint32_t offset) {
        std::uint32_t value = 0;
        ecam.read((std::uint64_t{bus} << 20U) | (device << 15U) | (function << 12U) | offset,
                  std::as_writable_bytes(std::span(&value, 1)));
        return value;
    };
    EXPECT_EQ(at(0, 0, 0, 0), 0x00081b36U);
    EXPECT_EQ(at(0, 1, 0, 0x44), 0x44444444U);
    EXPECT_EQ(at(0, 2, 0, 0), 0xffffffffU);
    EXPECT_EQ(at(5, 0, 0, 0x10), 0xffffffffU) << "an empty slot";
    port->plug(behind);
    EXPECT_EQ(at(5, 0, 0, 0x10), 0x10101010U);
    EXPECT_EQ(at(5, 1, 0, 0x10), 0xffffffffU);
    EXPECT_EQ(at(6, 0, 0, 0x10), 0xffffffffU);

    ConfigurationPorts ports(complex);
    const auto select = [&](std::uint32_t address) { ports.write(0, std::as_bytes(std::span(&address, 1))); };
    const auto data = [&](std::uint64_t offset) {
        std::uint8_t value = 0;
        ports.read(offset, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    };
    select(0x00000844);
    EXPECT_EQ(data(4), 0xff) << "not enabled";
    select(0x80000844);
    EXPECT_EQ(data(6), 0x46);
    select(0x80050010);
    EXPECT_EQ(data(4), 0x10);

    MemoryWindow memory(complex);
    const auto peek = [&](std::uint64_t offset) {
        std::uint8_t value = 0;
        memory.read(offset, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    };
    EXPECT_EQ(peek(0x12), 0x12);
    EXPECT_EQ(peek(0x200034), 0x34);
    EXPECT_EQ(peek(0x300000), 0xff);
    std::uint64_t wide = 0;
    memory.read(0xffc, std::as_writable_bytes(std::span(&wide, 1)));
    EXPECT_EQ(wide, ~0ULL) << "over the end of a BAR";
    memory.write(0x200008, std::as_bytes(std::span(&wide, 1)));
    EXPECT_EQ(behind->written, 8U);
    port->unplug();
    EXPECT_EQ(peek(0x200034), 0xff);
}

}  // namespace
}  // namespace wherry::vmm::pci
