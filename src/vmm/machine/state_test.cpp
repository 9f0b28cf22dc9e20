// The state of a whole machine over a socket, as a migration would send it.
#include "vmm/machine/state.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/fd.hpp"
#include "vmm/snapshot/codec.hpp"

namespace wherry::vmm {
namespace {

TEST(MachineState, OverASocket) {
    MachineState state;
    state.config.mem_size_mib = 64;
    state.memory = {{GuestAddress{0}, 64U << 20U}};
    state.processors.resize(2);
    state.processors[1].registers.rip = 0x1234;
    state.processors[1].extended_state.resize(4096, std::byte{7});
    state.drives.push_back({.config = {.id = "d", .path = "/disk", .engine = block::IoEngine::async}});
    state.networks.resize(1);
    state.networks[0].config.guest_mac = net::MacAddress{6, 0, 0, 0, 0, 1};
    state.transports.resize(2);
    state.serial.received = {1, 2, 3};
    auto pair = make_socket_pair(SOCK_STREAM);
    ASSERT_TRUE(pair && write_state(pair->first.get(), state));
    auto copy = read_state(pair->second.get());
    ASSERT_TRUE(copy) << copy.error().describe();
    EXPECT_EQ(copy->config, state.config);
    EXPECT_EQ(copy->memory, state.memory);
    EXPECT_EQ(copy->processors[1].registers.rip, 0x1234U);
    EXPECT_EQ(copy->processors[1].extended_state, state.processors[1].extended_state);
    EXPECT_EQ(copy->drives[0].config.engine, block::IoEngine::async);
    EXPECT_EQ(copy->networks[0].config.guest_mac, state.networks[0].config.guest_mac);
    EXPECT_EQ(copy->serial, state.serial);
    const Resources resources = resources_of(*copy);
    EXPECT_EQ(resources.drives.size(), 1U);
    EXPECT_EQ(resources.machine.mem_size_mib, 64U);
    EXPECT_FALSE(resources.vsock);
}

}  // namespace
}  // namespace wherry::vmm
