// Serial port, keyboard controller, entropy, balloon and vsock, each by its own queues.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/virtio_balloon.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <thread>

#include "vmm/devices/balloon/device.hpp"
#include "vmm/devices/entropy/device.hpp"
#include "vmm/devices/i8042/device.hpp"
#include "vmm/devices/net/device.hpp"
#include "vmm/devices/serial/device.hpp"
#include "vmm/devices/vsock/device.hpp"
#include "vmm/testing/device_fixture.hpp"

namespace wherry::vmm {
namespace {

std::uint8_t get(BusDevice& device, std::uint64_t offset) {
    std::byte value{};
    device.read(offset, std::span(&value, 1));
    return std::to_integer<std::uint8_t>(value);
}
void set(BusDevice& device, std::uint64_t offset, unsigned value) {
    const auto byte = static_cast<std::byte>(value);
    device.write(offset, std::span(&byte, 1));
}
bool signalled(int eventfd) {
    std::uint64_t count = 0;
    return read(eventfd, &count, sizeof count) == sizeof count;
}

TEST(Serial, SendsReceivesAndInterrupts) {
    auto pipe = make_pipe();
    ASSERT_TRUE(pipe);
    serial::SerialDevice device(std::move(pipe->write), std::move(*make_eventfd()));
    set(device, 0, 'A');
    char c = 0;
    ASSERT_EQ(read(pipe->read.get(), &c, 1), 1);
    EXPECT_EQ(c, 'A');
    EXPECT_EQ(get(device, 5), 0x60);
    EXPECT_FALSE(signalled(device.interrupt_event()));
    set(device, 1, 3);
    EXPECT_TRUE(signalled(device.interrupt_event()));
    EXPECT_EQ(get(device, 2), 2);
    EXPECT_EQ(get(device, 2), 1);
    EXPECT_EQ(device.receive("xy"), 2U);
    EXPECT_TRUE(signalled(device.interrupt_event()));
    EXPECT_EQ(get(device, 2) & 0xf, 4);
    EXPECT_EQ(get(device, 5), 0x61);
    EXPECT_EQ(get(device, 0), 'x');
    EXPECT_EQ(get(device, 0), 'y');
    EXPECT_EQ(get(device, 5), 0x60);
    EXPECT_EQ(device.receive(std::string(100, 'z')), 64U);
    // Divisor latch and loopback.
    set(device, 3, 0x83);
    set(device, 0, 1);
    EXPECT_EQ(get(device, 0), 1);
    set(device, 3, 3);
    set(device, 2, 7);
    set(device, 4, 0x10);
    set(device, 0, 'L');
    EXPECT_EQ(get(device, 0), 'L');
    std::uint32_t wide = 0;
    device.write(0, std::as_bytes(std::span(&wide, 1)));
    EXPECT_EQ(device.metrics.missed_write_count.total(), 1U);
}

TEST(I8042, ResetsAndTypes) {
    int resets = 0;
    i8042::I8042Device device(std::move(*make_eventfd()), [&] { ++resets; });
    set(device, 4, 0xfe);
    EXPECT_EQ(resets, 1);
    set(device, 4, 0xaa);
    EXPECT_EQ(get(device, 4) & 1, 1);
    EXPECT_EQ(get(device, 0), 0x55);
    set(device, 4, 0x60);
    set(device, 0, 1);
    set(device, 4, 0x20);
    EXPECT_EQ(get(device, 0), 1);
    ASSERT_TRUE(device.press_ctrl_alt_del());
    EXPECT_TRUE(signalled(device.interrupt_event()));
    for (int code : {0x14, 0x11, 0xe0, 0x71}) EXPECT_EQ(get(device, 0), code);
    for (int i = 0; i < 100; ++i) set(device, 0, 0xff);
    EXPECT_FALSE(device.press_ctrl_alt_del());
}

class VirtioTest : public testing::DeviceFixture {};

TEST_F(VirtioTest, EntropyFillsBuffers) {
    auto device = *entropy::EntropyDevice::create(*loop, {});
    start(*device, feature_version_1);
    drivers[0].offer_chain(0, {{.address = 0x8000, .bytes = 64, .flags = testing::write_flag}});
    device->notify(0);
    EXPECT_EQ(drivers[0].take_used()->bytes, 64U);
    EXPECT_NE(*memory->read<std::uint64_t>(GuestAddress{0x8000}) | *memory->read<std::uint64_t>(GuestAddress{0x8008}),
              0U);
    EXPECT_EQ(interrupt.used, 1U);
}

TEST_F(VirtioTest, BalloonGivesPagesBack) {
    auto device = *balloon::BalloonDevice::create(
        *loop, {.amount_mib = 0, .deflate_on_oom = false, .stats_polling_interval_s = 1});
    EXPECT_FALSE(device->change_amount(1));
    start(*device, feature_version_1 | (1ULL << VIRTIO_BALLOON_F_STATS_VQ));
    memory->fill(GuestAddress{0x20000}, 0x3000, std::byte{9});
    const std::array<std::uint32_t, 3> pages = {0x21, 0x20, 0xfffffff};  // the last one is nobody's
    memory->write(GuestAddress{0x8000}, pages);
    drivers[0].offer_chain(0, {{.address = 0x8000, .bytes = sizeof pages}});
    device->notify(0);
    ASSERT_TRUE(drivers[0].take_used());
    EXPECT_EQ(memory->read<std::uint8_t>(GuestAddress{0x20000}), 0);
    EXPECT_EQ(memory->read<std::uint8_t>(GuestAddress{0x21fff}), 0);
    EXPECT_EQ(memory->read<std::uint8_t>(GuestAddress{0x22000}), 9);
    EXPECT_EQ(device->metrics.event_fails.total(), 1U);
    ASSERT_TRUE(device->change_amount(2));
    EXPECT_EQ(interrupt.configurations, 1U);
    // Statistics: tag 4 is free memory.
    memory->write(GuestAddress{0x9000}, std::uint16_t{4});
    memory->write(GuestAddress{0x9002}, std::uint64_t{4711});
    drivers[2].offer_chain(0, {{.address = 0x9000, .bytes = 10}});
    device->notify(2);
    EXPECT_FALSE(drivers[2].take_used());  // kept until the next poll
    const auto statistics = device->statistics();
    ASSERT_TRUE(statistics);
    EXPECT_EQ(statistics->values[4], 4711U);
    EXPECT_EQ(statistics->target_pages, 512U);
    EXPECT_FALSE(device->change_interval(0));
    EXPECT_FALSE(device->start_hinting(true));
}

TEST_F(VirtioTest, VsockConnectsBothWays) {
    const std::string folder = std::filesystem::temp_directory_path() / ("vsock-test-" + std::to_string(getpid()));
    std::filesystem::create_directory(folder);
    {
        auto created = vsock::VsockDevice::create(*loop, {.guest_cid = 3, .uds_path = folder + "/v"});
        ASSERT_TRUE(created) << created.error().describe();
        auto device = *created;
        start(*device, feature_version_1);
        std::thread thread([&] { ASSERT_TRUE(loop->run()); });
        const auto offer_receive = [&](std::uint16_t index) {
            drivers[0].offer_chain(
                index,
                {{.address = 0x10000 + std::uint64_t{index} * 0x1000, .bytes = 0x1000, .flags = testing::write_flag}});
            device->notify(0);
        };
        const auto receive = [&]() -> vsock::Header {
            for (int i = 0; i < 5000; ++i) {
                if (const auto used = drivers[0].take_used())
                    return *memory->read<vsock::Header>(GuestAddress{0x10000 + std::uint64_t{used->id} * 0x1000});
                poll(nullptr, 0, 1);
            }
            return {};
        };
        std::uint16_t sent = 0;
        const auto transmit = [&](vsock::Header header, std::string_view data) {
            header.source_cid = 3;
            header.destination_cid = 2;
            header.type = 1;
            header.buffer_bytes = 65536;
            header.bytes = static_cast<std::uint32_t>(data.size());
            memory->write(GuestAddress{0x30000}, header);
            memory->write_bytes(GuestAddress{0x30000 + sizeof header}, data);
            drivers[1].offer_chain(
                0, {{.address = 0x30000, .bytes = static_cast<std::uint32_t>(sizeof header + data.size())}});
            device->notify(1);
            EXPECT_EQ(drivers[1].used_index(), ++sent);
        };
        // From the host.
        offer_receive(0);
        auto client = connect_unix(folder + "/v");
        ASSERT_TRUE(client);
        ASSERT_TRUE(write_all(client->get(), "CONNECT 52\n"));
        const vsock::Header request = receive();
        EXPECT_EQ(request.operation, vsock::operation_request);
        EXPECT_EQ(request.destination_port, 52U);
        transmit({.source_port = 52, .destination_port = request.source_port, .operation = vsock::operation_response},
                 {});
        std::string line(64, '\0');
        line.resize(static_cast<std::size_t>(read(client->get(), line.data(), line.size())));
        EXPECT_EQ(line, "OK " + std::to_string(request.source_port) + "\n");
        transmit({.source_port = 52, .destination_port = request.source_port, .operation = vsock::operation_data},
                 "from the guest");
        line.assign(64, '\0');
        line.resize(static_cast<std::size_t>(read(client->get(), line.data(), line.size())));
        EXPECT_EQ(line, "from the guest");
        offer_receive(1);
        ASSERT_TRUE(write_all(client->get(), "from the host"));
        const vsock::Header data = receive();
        EXPECT_EQ(data.operation, vsock::operation_data);
        EXPECT_EQ(data.bytes, 13U);
        EXPECT_EQ(data.forwarded, 14U);
        offer_receive(2);
        client->reset();
        EXPECT_EQ(receive().operation, vsock::operation_shutdown);
        // From the guest, to nobody.
        offer_receive(3);
        transmit({.source_port = 99, .destination_port = 7, .operation = vsock::operation_request}, {});
        EXPECT_EQ(receive().operation, vsock::operation_reset);
        // And to somebody.
        auto listener = listen_unix(folder + "/v_8", 0600);
        ASSERT_TRUE(listener);
        offer_receive(4);
        transmit({.source_port = 99, .destination_port = 8, .operation = vsock::operation_request}, {});
        EXPECT_EQ(receive().operation, vsock::operation_response);
        // More than its credit allows ends a stream.
        loop->stop();
        thread.join();
        device->run_locked([&] { device->reset(); });
    }
    EXPECT_FALSE(std::filesystem::exists(folder + "/v"));
    std::filesystem::remove_all(folder);
}

TEST_F(VirtioTest, NetMergesReceiveBuffers) {
    auto pair = make_socket_pair(SOCK_DGRAM | SOCK_NONBLOCK);
    ASSERT_TRUE(pair);
    net::Config config;
    config.id = "net";
    config.tap = std::make_shared<net::Tap>();
    config.tap->queues.push_back(std::move(pair->first));
    auto device = *net::NetDevice::create(*loop, config, nullptr);
    start(*device, feature_version_1 | (1ULL << 15U));
    for (std::uint16_t i = 0; i < 4; ++i)
        drivers[0].offer_chain(
            i, {{.address = 0x10000 + std::uint64_t{i} * 0x1000, .bytes = 100, .flags = testing::write_flag}});
    device->notify(0);
    std::string packet(250, 'p');
    ASSERT_EQ(send(pair->second.get(), packet.data(), packet.size(), 0), 250);
    std::thread thread([&] { ASSERT_TRUE(loop->run()); });
    for (int i = 0; i < 5000 && drivers[0].used_index() < 3; ++i) poll(nullptr, 0, 1);
    EXPECT_EQ(drivers[0].take_used()->bytes, 100U);
    EXPECT_EQ(drivers[0].take_used()->bytes, 100U);
    EXPECT_EQ(drivers[0].take_used()->bytes, 50U);
    EXPECT_EQ(memory->read<std::uint16_t>(GuestAddress{0x1000a + 0xf000}), 0);
    EXPECT_EQ(memory->read<std::uint16_t>(GuestAddress{0x1000a}), 3);
    // Out again, with a header in front.
    memory->fill(GuestAddress{0x20000}, 100, std::byte{'q'});
    drivers[1].offer_chain(0, {{.address = 0x20000, .bytes = 100}});
    device->notify(1);
    char out[200];
    EXPECT_EQ(recv(pair->second.get(), out, sizeof out, 0), 100);
    drivers[1].offer_chain(1, {{.address = 0x20000, .bytes = 20}});
    device->notify(1);
    EXPECT_EQ(device->metrics.tx_malformed_frames.total(), 1U);
    loop->stop();
    thread.join();
    device->run_locked([&] { device->reset(); });
}

}  // namespace
}  // namespace wherry::vmm
