// For tests of transports: a disk of 64 KiB, and a driver's requests to it.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/fd.hpp"
#include "vmm/devices/block/device.hpp"
#include "vmm/testing/driver.hpp"

namespace wherry::vmm::testing {

class DiskTest : public ::testing::Test {
  protected:
    void SetUp() override {
        // SAFETY: makes a descriptor, owned at once.
        disk = Fd(memfd_create("disk", MFD_CLOEXEC));
        ASSERT_EQ(ftruncate(disk.get(), 1 << 16), 0);
        block::Config config;
        config.id = "disk";
        config.path = "/proc/self/fd/" + std::to_string(disk.get());
        config.cache = block::CacheType::writeback;
        auto created = block::BlockDevice::create(*loop, config);
        ASSERT_TRUE(created) << created.error().describe();
        device = *created;
    }
    // A request of one data buffer at 0x9000; its status.
    std::uint8_t request(std::uint32_t type, std::uint64_t sector, std::uint32_t bytes, bool is_read) {
        memory->write(GuestAddress{0x8000}, type);
        memory->write(GuestAddress{0x8008}, sector);
        memory->write(GuestAddress{0xa000}, std::uint8_t{0xff});
        if (bytes > 0) {
            driver.offer_chain(0,
                               {{.address = 0x8000, .bytes = 16},
                                {.address = 0x9000, .bytes = bytes, .flags = is_read ? write_flag : std::uint16_t{0}},
                                {.address = 0xa000, .bytes = 1, .flags = write_flag}});
        } else {
            driver.offer_chain(
                0, {{.address = 0x8000, .bytes = 16}, {.address = 0xa000, .bytes = 1, .flags = write_flag}});
        }
        device->notify(0);
        return *memory->read<std::uint8_t>(GuestAddress{0xa000});
    }

    std::shared_ptr<GuestMemory> memory = make_memory();
    Driver driver{*memory, 0x1000};
    Fd disk;
    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    std::shared_ptr<block::BlockDevice> device;
};

}  // namespace wherry::vmm::testing
