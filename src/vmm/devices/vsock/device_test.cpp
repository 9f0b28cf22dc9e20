// A vsock device restored in another process: what a host's connections do before the guest knows of it.
#include "vmm/devices/vsock/device.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <filesystem>
#include <thread>

#include "vmm/devices/vsock/state.hpp"
#include "vmm/testing/driver.hpp"

namespace wherry::vmm::vsock {
namespace {

class VsockRestoreTest : public ::testing::Test {
  protected:
    VsockRestoreTest() {
        std::filesystem::create_directory(folder);
        for (std::uint64_t i = 0; i < 3; ++i) drivers.emplace_back(*memory, 0x1000 + i * 0x1000);
    }
    void TearDown() override {
        stop();
        std::filesystem::remove_all(folder);
    }
    // Bring-up by a driver with that many event buffers.
    State first_machine(std::uint16_t event_buffers) {
        auto device = *VsockDevice::create(*loop, {.guest_cid = 3, .uds_path = folder + "/first"});
        for (std::size_t i = 0; i < 3; ++i) drivers[i].configure(device->queues()[i].state);
        for (std::uint16_t i = 0; i < event_buffers; ++i) offer_event(i);
        auto activated = device->activate(feature_version_1 | feature_event_index, memory, interrupt);
        EXPECT_TRUE(activated) << activated.error().describe();
        for (std::uint16_t i = 0; i < 8; ++i)
            drivers[0].offer_chain(i, {{.address = receive_address(i), .bytes = 0x1000, .flags = testing::write_flag}});
        State state = device->save();
        device->run_locked([&] { device->reset(); });
        return state;
    }
    void restore(State state) {
        stop();
        state.config.uds_path = folder + "/clone" + std::to_string(++clones);
        path = state.config.uds_path;
        clone = *VsockDevice::create(*loop, state.config);
        auto restored = clone->restore(state, memory, interrupt);
        ASSERT_TRUE(restored) << restored.error().describe();
        thread = std::thread([this] { EXPECT_TRUE(loop->run()); });
    }
    void stop() {
        if (!thread.joinable()) return;
        loop->stop();
        thread.join();
        clone->run_locked([&] { clone->reset(); });
        clone.reset();
        loop = std::move(*EventLoop::create());
    }
    void connect() {
        client = std::move(*connect_unix(path));
        ASSERT_TRUE(write_all(client.get(), "CONNECT 52\n"));
    }
    // The device has the client's connection, and has done with it what it does at once.
    bool has_connection() {
        return eventually([this] { return clone->run_locked([&] { return clone->metrics.conns_added.total() > 0; }); });
    }
    template <class F>
    static bool eventually(F f) {
        for (int i = 0; i < 10'000; ++i) {
            if (f()) return true;
            poll(nullptr, 0, 1);
        }
        return false;
    }
    std::optional<Header> take_packet() {
        const auto used = clone->run_locked([&] { return drivers[0].take_used(); });
        if (!used) return std::nullopt;
        return memory->read<Header>(GuestAddress{receive_address(used->id)});
    }
    std::optional<Header> await_packet() {
        std::optional<Header> packet;
        eventually([&] { return (packet = take_packet()).has_value(); });
        return packet;
    }
    void offer_event(std::uint16_t index) {
        drivers[2].offer_chain(
            index, {{.address = 0x8000 + std::uint64_t{index} * 16, .bytes = 4, .flags = testing::write_flag}});
    }
    static std::uint64_t receive_address(std::uint64_t index) { return 0x10000 + index * 0x1000; }

    const std::string folder = std::filesystem::temp_directory_path() / ("vsock-restore-" + std::to_string(getpid()));
    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    std::shared_ptr<GuestMemory> memory = testing::make_memory();
    testing::CountingInterrupt interrupt;
    std::deque<testing::Driver> drivers;
    std::shared_ptr<VsockDevice> clone;
    std::thread thread;
    std::string path;
    Fd client;
    int clones = 0;
};

TEST_F(VsockRestoreTest, ConnectionsWaitUntilTheGuestHasHeardOfTheReset) {
    restore(first_machine(2));
    ASSERT_EQ(drivers[2].take_used()->bytes, 4U) << "the news";
    EXPECT_EQ(memory->read<std::uint32_t>(GuestAddress{0x8000}), 0U);
    // Notified of the buffer behind the two, though one of them is there.
    EXPECT_EQ(memory->load_acquire(GuestAddress{0x3804 + 8 * 16}), 2U);
    connect();
    ASSERT_TRUE(has_connection());
    clone->notify(2);
    EXPECT_FALSE(take_packet()) << "a notification without a buffer is no answer";
    offer_event(0);
    clone->notify(2);
    const auto request = await_packet();
    ASSERT_TRUE(request);
    EXPECT_EQ(request->operation, operation_request);
    EXPECT_EQ(request->destination_port, 52U);
    // What comes later does not wait, and what a clone of the clone is asked comes from another port: the guest may
    // still hold the old one.
    State state = clone->save();
    EXPECT_FALSE(state.reset_pending);
    restore(std::move(state));
    connect();
    ASSERT_TRUE(has_connection());
    EXPECT_FALSE(take_packet());
    EXPECT_TRUE(clone->save().reset_pending);
    offer_event(1);
    clone->notify(2);
    EXPECT_GT(await_packet()->source_port, request->source_port);
}

TEST_F(VsockRestoreTest, WhatTheGuestBeganBeforeEndsOnBothSides) {
    restore(first_machine(1));
    auto listener = listen_unix(path + "_9", 0600);
    ASSERT_TRUE(listener);
    const auto begin = [&](std::uint32_t port) {
        memory->write(GuestAddress{0x30000}, Header{.source_cid = 3,
                                                    .destination_cid = host_cid,
                                                    .source_port = port,
                                                    .destination_port = 9,
                                                    .type = type_stream,
                                                    .operation = operation_request,
                                                    .buffer_bytes = 65536});
        drivers[1].offer_chain(0, {{.address = 0x30000, .bytes = sizeof(Header)}});
        clone->notify(1);
    };
    const auto expect_packet = [&](std::uint16_t operation, std::uint32_t port) {
        const auto packet = await_packet();
        ASSERT_TRUE(packet);
        EXPECT_EQ(packet->operation, operation);
        EXPECT_EQ(packet->destination_port, port);
    };
    begin(1000);
    expect_packet(operation_response, 1000);
    // SAFETY: makes a descriptor, owned at once.
    const Fd early(accept(listener->get(), nullptr, nullptr));
    offer_event(0);
    begin(1001);  // after it has taken the news, though the device is told of this first
    clone->notify(2);
    expect_packet(operation_reset, 1000);
    expect_packet(operation_response, 1001);
    char byte = 0;
    EXPECT_EQ(read(early.get(), &byte, 1), 0) << "its other end is told";
    // SAFETY: makes a descriptor, owned at once.
    const Fd late(accept(listener->get(), nullptr, nullptr));
    EXPECT_EQ(recv(late.get(), &byte, 1, MSG_DONTWAIT), -1);
    EXPECT_EQ(errno, EAGAIN);
}

TEST_F(VsockRestoreTest, PatienceEnds) {
    restore(first_machine(1));
    connect();
    ASSERT_TRUE(has_connection());
    EXPECT_FALSE(take_packet());
    clone->resumed(std::chrono::milliseconds(1));
    EXPECT_EQ(await_packet()->operation, operation_request);
}

TEST_F(VsockRestoreTest, AClientThatGivesUpIsNeverHeardOf) {
    restore(first_machine(1));
    connect();
    ASSERT_TRUE(has_connection());
    client.reset();
    ASSERT_TRUE(
        eventually([&] { return clone->run_locked([&] { return clone->metrics.conns_removed.total() == 1; }); }));
    offer_event(0);
    clone->notify(2);
    EXPECT_FALSE(take_packet());
}

TEST_F(VsockRestoreTest, AGuestWithoutEventBuffersGetsConnectionsAtOnce) {
    restore(first_machine(0));
    connect();
    EXPECT_EQ(await_packet()->operation, operation_request);
}

TEST_F(VsockRestoreTest, ImpossiblePortsAreRefused) {
    State state = first_machine(0);
    state.config.uds_path = folder + "/other";
    state.next_host_port = 1023;
    auto device = *VsockDevice::create(*loop, state.config);
    EXPECT_FALSE(device->restore(state, memory, interrupt));
}

}  // namespace
}  // namespace wherry::vmm::vsock
