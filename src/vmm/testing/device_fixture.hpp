// For tests: a device with a guest's memory, a driver for each of its queues and an interrupt that counts.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <memory>

#include "vmm/core/event_loop.hpp"
#include "vmm/testing/driver.hpp"

namespace wherry::vmm::testing {

class DeviceFixture : public ::testing::Test {
  protected:
    // Rings of queue N at 0x1000 * (N + 1).
    void start(Device& device, std::uint64_t features) {
        for (std::size_t i = 0; i < device.queues().size(); ++i) {
            drivers.emplace_back(*memory, 0x1000 + i * 0x1000);
            drivers.back().configure(device.queues()[i].state);
        }
        auto activated = device.activate(features, memory, interrupt);
        ASSERT_TRUE(activated) << activated.error().describe();
    }
    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    std::shared_ptr<GuestMemory> memory = make_memory();
    CountingInterrupt interrupt;
    std::deque<Driver> drivers;
};

}  // namespace wherry::vmm::testing
