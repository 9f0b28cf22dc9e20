// A disk behind the registers of virtio-pci, as a driver sees it.
#include "vmm/virtio/pci.hpp"

#include <gtest/gtest.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

#include <array>
#include <cstring>

#include "vmm/devices/block/state.hpp"
#include "vmm/testing/disk.hpp"
#include "vmm/testing/pci_host.hpp"

namespace wherry::vmm {
namespace {

using testing::get_configuration;
using testing::set_configuration;

constexpr std::uint32_t bar = 0xd0010000;
constexpr std::uint64_t isr = 0x1000, configuration = 0x2000, notify = 0x3000, table = 0x4000, pending_bits = 0x5000;

class PciTransportTest : public testing::DiskTest {
  protected:
    void SetUp() override {
        DiskTest::SetUp();
        if (device) transport = *PciTransport::create(*loop, device, memory, host, {0xd0000000, 0x1000000}, bar);
    }
    template <class T>
    T get(std::uint64_t offset) {
        T value = 0;
        transport->read_memory(offset, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    template <class T>
    void set(std::uint64_t offset, T value) {
        transport->write_memory(offset, std::as_bytes(std::span(&value, 1)));
    }
    void status(std::uint8_t value) { set<std::uint8_t>(VIRTIO_PCI_COMMON_STATUS, value); }
    std::uint8_t status() { return get<std::uint8_t>(VIRTIO_PCI_COMMON_STATUS); }
    // The offset of the capability that says of itself `type`, or of the MSI-X capability.
    std::uint32_t virtio_capability(std::uint8_t type) {
        for (std::uint8_t at = get_configuration<std::uint8_t>(*transport, PCI_CAPABILITY_LIST); at != 0;
             at = get_configuration<std::uint8_t>(*transport, at + 1U))
            if (get_configuration<std::uint8_t>(*transport, at) == PCI_CAP_ID_VNDR &&
                get_configuration<std::uint8_t>(*transport, at + 3U) == type)
                return at;
        return 0;
    }
    std::uint32_t capability(std::uint8_t id) {
        for (std::uint8_t at = get_configuration<std::uint8_t>(*transport, PCI_CAPABILITY_LIST); at != 0;
             at = get_configuration<std::uint8_t>(*transport, at + 1U))
            if (get_configuration<std::uint8_t>(*transport, at) == id) return at;
        return 0;
    }
    void enable_msix() {
        for (std::uint64_t vector = 0; vector < 2; ++vector) {
            set<std::uint32_t>(table + vector * 16, 0xfee00000);
            set<std::uint32_t>(table + vector * 16 + 8, static_cast<std::uint32_t>(0x40 + vector));
            set<std::uint32_t>(table + vector * 16 + 12, 0);
        }
        set_configuration<std::uint16_t>(*transport, capability(PCI_CAP_ID_MSIX) + PCI_MSIX_FLAGS,
                                         PCI_MSIX_FLAGS_ENABLE);
        set<std::uint16_t>(VIRTIO_PCI_COMMON_MSIX, 0);
        set<std::uint16_t>(VIRTIO_PCI_COMMON_Q_SELECT, 0);
        set<std::uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX, 1);
    }
    void bring_up() {
        status(1);
        status(3);
        set<std::uint32_t>(VIRTIO_PCI_COMMON_GFSELECT, 1);
        set<std::uint32_t>(VIRTIO_PCI_COMMON_GF, 1);
        status(11);
        set<std::uint16_t>(VIRTIO_PCI_COMMON_Q_SELECT, 0);
        set<std::uint16_t>(VIRTIO_PCI_COMMON_Q_SIZE, 16);
        set<std::uint64_t>(VIRTIO_PCI_COMMON_Q_DESCLO, 0x1000);
        set<std::uint32_t>(VIRTIO_PCI_COMMON_Q_AVAILLO, 0x1400);
        set<std::uint32_t>(VIRTIO_PCI_COMMON_Q_AVAILHI, 0);
        set<std::uint64_t>(VIRTIO_PCI_COMMON_Q_USEDLO, 0x1800);
        set<std::uint16_t>(VIRTIO_PCI_COMMON_Q_ENABLE, 1);
        status(15);
    }
    std::uint8_t read_sector() { return request(0, 0, 512, true); }

    testing::RecordingHost host;
    std::shared_ptr<PciTransport> transport;
};

TEST_F(PciTransportTest, SaysWhatItIs) {
    EXPECT_EQ(get_configuration<std::uint32_t>(*transport, 0), 0x10421af4U);
    EXPECT_EQ(get_configuration<std::uint8_t>(*transport, PCI_REVISION_ID), 1);
    EXPECT_EQ(get_configuration<std::uint8_t>(*transport, PCI_INTERRUPT_PIN), 0);
    for (const int type : {VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_CAP_NOTIFY_CFG, VIRTIO_PCI_CAP_ISR_CFG,
                           VIRTIO_PCI_CAP_DEVICE_CFG, VIRTIO_PCI_CAP_PCI_CFG})
        EXPECT_NE(virtio_capability(static_cast<std::uint8_t>(type)), 0U) << type;
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_NUMQ), 1);
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_Q_SIZE), 256);
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX), VIRTIO_MSI_NO_VECTOR);
    EXPECT_EQ(get<std::uint32_t>(configuration), 128U);  // sectors
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_STATUS), 0) << "fields have their own width";
    set<std::uint32_t>(VIRTIO_PCI_COMMON_DFSELECT, 1);
    EXPECT_EQ(get<std::uint32_t>(VIRTIO_PCI_COMMON_DF), 1U);
    set<std::uint32_t>(VIRTIO_PCI_COMMON_DFSELECT, 7);
    EXPECT_EQ(get<std::uint32_t>(VIRTIO_PCI_COMMON_DF), 0U);
}

TEST_F(PciTransportTest, WorksAndInterruptsByMessages) {
    enable_msix();
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX), 1);
    bring_up();
    ASSERT_TRUE(device->active());
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_Q_ENABLE), 1);
    EXPECT_EQ(read_sector(), 0);
    ASSERT_EQ(host.messages.size(), 1U);
    EXPECT_EQ(host.messages[0].data, 0x41U);
    device->change_limits({});
    ASSERT_TRUE(device->change_path("/proc/self/fd/" + std::to_string(disk.get())));
    ASSERT_EQ(host.messages.size(), 2U);
    EXPECT_EQ(host.messages[1].data, 0x40U);
    EXPECT_EQ(get<std::uint8_t>(VIRTIO_PCI_COMMON_CFGGENERATION), 1);
}

TEST_F(PciTransportTest, WithoutVectorsTheStatusRegisterTells) {
    bring_up();
    EXPECT_EQ(read_sector(), 0);
    EXPECT_TRUE(host.messages.empty());
    EXPECT_EQ(get<std::uint8_t>(isr), 1);
    EXPECT_EQ(get<std::uint8_t>(isr), 0) << "reading clears it";
}

TEST_F(PciTransportTest, AMaskedQueueIsPending) {
    enable_msix();
    bring_up();
    set<std::uint32_t>(table + 16 + 12, 1);
    EXPECT_EQ(read_sector(), 0);
    EXPECT_TRUE(host.messages.empty());
    EXPECT_EQ(get<std::uint64_t>(pending_bits), 2U);
    set<std::uint32_t>(table + 16 + 12, 0);
    EXPECT_EQ(host.messages.size(), 1U);
}

TEST_F(PciTransportTest, VectorsThatAreNotThereAreNone) {
    set<std::uint16_t>(VIRTIO_PCI_COMMON_MSIX, 2);
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_MSIX), VIRTIO_MSI_NO_VECTOR);
    set<std::uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX, 0x7fff);
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX), VIRTIO_MSI_NO_VECTOR);
    set<std::uint16_t>(VIRTIO_PCI_COMMON_Q_SELECT, 9);
    set<std::uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX, 0);
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX), VIRTIO_MSI_NO_VECTOR);
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_Q_SIZE), 0);
    set<std::uint16_t>(VIRTIO_PCI_COMMON_Q_ENABLE, 1);
}

TEST_F(PciTransportTest, DoorbellsFollowTheBarWhileADriverHasTheDevice) {
    EXPECT_TRUE(host.doorbells.empty());
    bring_up();
    ASSERT_EQ(host.doorbells.size(), 1U);
    EXPECT_EQ(host.doorbells.begin()->first, bar + notify);
    set_configuration<std::uint32_t>(*transport, PCI_BASE_ADDRESS_0, 0xffffffff);  // how big is it?
    EXPECT_TRUE(host.doorbells.empty()) << "outside of the window";
    EXPECT_FALSE(transport->window());
    set_configuration<std::uint32_t>(*transport, PCI_BASE_ADDRESS_0, 0xd0020000);
    ASSERT_EQ(host.doorbells.size(), 1U);
    EXPECT_EQ(host.doorbells.begin()->first, 0xd0020000 + notify);
    set_configuration<std::uint16_t>(*transport, PCI_COMMAND, 0);
    EXPECT_TRUE(host.doorbells.empty());
    EXPECT_FALSE(transport->window());
    set_configuration<std::uint16_t>(*transport, PCI_COMMAND, PCI_COMMAND_MEMORY);
    EXPECT_EQ(host.doorbells.size(), 1U);
    status(0);
    EXPECT_TRUE(host.doorbells.empty());
    EXPECT_EQ(host.mistakes, 0U);
}

TEST_F(PciTransportTest, TwoBarsInOnePlaceCostTheSecondItsDoorbells) {
    auto other = *block::BlockDevice::create(*loop, device->config());
    auto second = *PciTransport::create(*loop, other, memory, host, {0xd0000000, 0x1000000}, bar);
    bring_up();
    std::swap(transport, second);
    std::swap(device, other);
    bring_up();
    EXPECT_TRUE(device->active());
    EXPECT_EQ(host.doorbells.size(), 1U);
    transport->detach();
    EXPECT_EQ(host.doorbells.size(), 1U);
    EXPECT_EQ(host.mistakes, 0U);
}

TEST_F(PciTransportTest, RegistersAreReachedThroughConfigurationSpace) {
    const std::uint32_t at = virtio_capability(VIRTIO_PCI_CAP_PCI_CFG);
    const auto aim = [&](std::uint32_t offset, std::uint32_t bytes) {
        set_configuration<std::uint32_t>(*transport, at + 8, offset);
        set_configuration<std::uint32_t>(*transport, at + 12, bytes);
    };
    aim(VIRTIO_PCI_COMMON_STATUS, 1);
    set_configuration<std::uint8_t>(*transport, at + 16, 3);
    EXPECT_EQ(status(), 3);
    EXPECT_EQ(get_configuration<std::uint8_t>(*transport, at + 16), 3);
    aim(configuration, 4);
    EXPECT_EQ(get_configuration<std::uint32_t>(*transport, at + 16), 128U);
    for (const auto& [offset, bytes] : std::initializer_list<std::pair<std::uint32_t, std::uint32_t>>{
             {0xffffffff, 4}, {0x8000, 1}, {0x7ffe, 4}, {2, 4}, {0, 3}, {0, 0xffffffff}}) {
        aim(offset, bytes);
        set_configuration<std::uint32_t>(*transport, at + 16, 0xffffffff);
        get_configuration<std::uint32_t>(*transport, at + 16);
    }
    set_configuration<std::uint8_t>(*transport, at + 4, 3);  // another BAR
    aim(VIRTIO_PCI_COMMON_STATUS, 1);
    set_configuration<std::uint8_t>(*transport, at + 16, 15);
    EXPECT_EQ(status(), 3);
}

TEST_F(PciTransportTest, ABrokenGuestMustReset) {
    enable_msix();
    bring_up();
    driver.set_descriptor(0, {.address = ~0ULL, .bytes = 16});
    driver.offer(0);
    device->notify(0);
    EXPECT_EQ(status() & 64U, 64U);
    ASSERT_EQ(host.messages.size(), 1U);
    EXPECT_EQ(host.messages[0].data, 0x40U);
    status(0);
    EXPECT_EQ(status(), 0);
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_MSIX), VIRTIO_MSI_NO_VECTOR);
}

TEST_F(PciTransportTest, GoesThroughASnapshot) {
    enable_msix();
    bring_up();
    set<std::uint32_t>(table + 16 + 12, 1);
    EXPECT_EQ(read_sector(), 0);
    const PciState state = transport->save();
    const block::State disk_state = *device->save();
    transport->detach();
    auto other = *block::BlockDevice::create(*loop, device->config());
    transport = *PciTransport::create(*loop, other, memory, host, {0xd0000000, 0x1000000}, 0);
    device = other;
    ASSERT_TRUE(transport->restore(state));
    ASSERT_TRUE(device->restore(disk_state, memory, *transport));
    EXPECT_TRUE(host.doorbells.empty());
    transport->raise_pending();
    EXPECT_EQ(host.doorbells.size(), 1U);
    EXPECT_EQ(transport->window()->start, bar);
    EXPECT_TRUE(host.messages.empty());
    EXPECT_EQ(get<std::uint64_t>(pending_bits), 2U);
    set<std::uint32_t>(table + 16 + 12, 0);
    ASSERT_EQ(host.messages.size(), 1U);
    EXPECT_EQ(read_sector(), 0);
    EXPECT_EQ(host.messages.size(), 2U);
    EXPECT_EQ(host.messages[1].data, 0x41U);
}

TEST_F(PciTransportTest, RefusesStatesOfOtherDevices) {
    PciState state = transport->save();
    state.queue_vectors.push_back(0);
    EXPECT_FALSE(transport->restore(state));
    state = transport->save();
    state.msix.vectors.pop_back();
    EXPECT_FALSE(transport->restore(state));
    state = transport->save();
    state.registers.fill(std::byte{0xff});
    state.configuration_vector = 77;
    state.transport.queue_select = 0xffffffff;
    state.queue_vectors[0] = 2;
    ASSERT_TRUE(transport->restore(state));
    EXPECT_EQ(get_configuration<std::uint32_t>(*transport, 0), 0x10421af4U);
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_MSIX), VIRTIO_MSI_NO_VECTOR);
    EXPECT_EQ(get<std::uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX), VIRTIO_MSI_NO_VECTOR);
    EXPECT_FALSE(transport->window());
}

TEST_F(PciTransportTest, ADetachedOneStaysDead) {
    enable_msix();
    bring_up();
    EXPECT_TRUE(transport->is_driven());
    transport->detach();
    EXPECT_FALSE(device->active());
    EXPECT_FALSE(transport->is_driven());
    EXPECT_TRUE(host.doorbells.empty());
    EXPECT_FALSE(transport->window());
    // A processor that was on its way here.
    bring_up();
    EXPECT_FALSE(device->active());
    set_configuration<std::uint16_t>(*transport, PCI_COMMAND, PCI_COMMAND_MEMORY);
    EXPECT_TRUE(host.doorbells.empty());
    transport->detach();
}

}  // namespace
}  // namespace wherry::vmm
