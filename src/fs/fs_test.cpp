// A monitor's device and the backend, face to face, without the processes around them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <thread>

#include "fs/backend.hpp"
#include "fs/jail.hpp"
#include "fs/options.hpp"
#include "vmm/devices/fs/device.hpp"
#include "vmm/testing/driver.hpp"
#include "vmm/virtio/mmio.hpp"

namespace wherry::fs {
namespace {

using vmm::GuestAddress;

// A folder and a backend on a thread of its own.
class World {
  public:
    World() {
        make_folder();
        auto pair = *make_socket_pair(SOCK_STREAM);
        monitor = std::move(pair.first);
        other_ = *pair.second.duplicate();
        thread_ = std::thread([this, socket = std::move(pair.second)]() mutable { serve(std::move(socket)); });
    }
    // For who connects to a path.
    explicit World(const std::string& path) {
        make_folder();
        thread_ = std::thread([this, listener = *listen_unix(path, 0600, 1)] {
            pollfd wait = {.fd = listener.get(), .events = POLLIN, .revents = 0};
            if (poll(&wait, 1, 30'000) == 1) serve(Fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)));
        });
    }
    // The connection ends, as when the process is killed.
    void end() { ::shutdown(other_.get(), SHUT_RDWR); }
    ~World() {
        monitor.reset();
        join();
        std::filesystem::remove_all(folder);
    }
    World(const World&) = delete;
    World& operator=(const World&) = delete;
    void join() {
        if (thread_.joinable()) thread_.join();
        other_.reset();
    }

    std::filesystem::path folder;
    Fd monitor;
    bool ended_well = false;

  private:
    void make_folder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "fs-test-XXXXXX").string();
        folder = mkdtemp(pattern.data());
    }
    void serve(Fd socket) {
        auto loop = *vmm::EventLoop::create();
        auto files = *fuse::FileSystem::create(*open_file(folder.string(), O_PATH | O_DIRECTORY),
                                               *open_file("/proc/self/fd", O_PATH | O_DIRECTORY), {.descriptors = 512});
        auto backend = *Backend::create(*loop, std::move(socket), *files);
        EXPECT_TRUE(loop->run());
        ended_well = backend->result().has_value();
    }
    Fd other_;
    std::thread thread_;
};

class LookUp {
  public:
    LookUp(vmm::GuestMemory& memory, std::uint64_t at) : memory_(memory), at_(at) {}
    // A request without arguments at an address; its reply goes behind it.
    void offer(vmm::testing::Driver& driver, std::uint32_t opcode, std::string_view arguments) {
        fuse_in_header header = {};
        header.len = static_cast<std::uint32_t>(sizeof header + arguments.size());
        header.opcode = opcode;
        header.unique = 7;
        header.nodeid = 1;
        memory_.write(GuestAddress{at_}, header);
        memory_.write_bytes(GuestAddress{at_ + sizeof header}, arguments);
        driver.offer_chain(0, {{.address = at_, .bytes = header.len},
                               {.address = at_ + 0x1000, .bytes = 0x1000, .flags = vmm::testing::write_flag}});
    }
    fuse_out_header reply() const { return *memory_.read<fuse_out_header>(GuestAddress{at_ + 0x1000}); }

  private:
    vmm::GuestMemory& memory_;
    std::uint64_t at_;
};

std::string initialization() {
    fuse_init_in in = {};
    in.major = FUSE_KERNEL_VERSION;
    in.minor = FUSE_KERNEL_MINOR_VERSION;
    // SAFETY: the bytes of the structure.
    return {reinterpret_cast<const char*>(&in), sizeof in};
}

bool readable(int fd) {
    pollfd wait = {.fd = fd, .events = POLLIN, .revents = 0};
    return poll(&wait, 1, 30'000) == 1;
}

// The registers of section 4.2, as a driver writes them.
void set(vmm::MmioTransport& transport, std::uint64_t offset, std::uint32_t value) {
    transport.write(offset, std::as_bytes(std::span(&value, 1)));
}
std::uint32_t get(vmm::MmioTransport& transport, std::uint64_t offset) {
    std::uint32_t value = 0;
    transport.read(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
}

void drive(vmm::MmioTransport& transport) {
    set(transport, 0x070, 1 | 2);
    set(transport, 0x024, 1);
    set(transport, 0x020, 1);  // version 1
    set(transport, 0x070, 1 | 2 | 8);
    set(transport, 0x030, 1);
    set(transport, 0x038, 16);
    set(transport, 0x080, 0x4000);
    set(transport, 0x090, 0x4400);
    set(transport, 0x0a0, 0x4800);
    set(transport, 0x044, 1);
    set(transport, 0x070, 1 | 2 | 8 | 4);
}

// The monitor's device thread, from the first wait on.
class DeviceThread {
  public:
    explicit DeviceThread(vmm::EventLoop& loop) : loop_(loop) {}
    ~DeviceThread() {
        loop_.stop();
        if (thread_.joinable()) thread_.join();
    }
    DeviceThread(const DeviceThread&) = delete;
    DeviceThread& operator=(const DeviceThread&) = delete;
    void run_until(const std::function<bool()>& done) {
        if (!thread_.joinable()) thread_ = std::thread([this] { EXPECT_TRUE(loop_.run()); });
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
        while (!done()) {
            ASSERT_LT(std::chrono::steady_clock::now(), end);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }

  private:
    vmm::EventLoop& loop_;
    std::thread thread_;
};

class FaceToFace : public ::testing::Test {
  public:
    FaceToFace() {
        loop = *vmm::EventLoop::create();
        thread = std::make_unique<DeviceThread>(*loop);
        memory = vmm::testing::make_memory();
        auto made =
            vmm::fs::FsDevice::create(*loop, {.id = "f", .tag = "tag", .socket = {}}, *world.monitor.duplicate());
        EXPECT_TRUE(made);
        world.monitor.reset();
        device = *made;
        transport = *vmm::MmioTransport::create(*loop, device, memory, *vmm::make_eventfd());
    }
    ~FaceToFace() override {
        thread.reset();
        const std::lock_guard lock(device->mutex());
        device->reset();
    }

  protected:
    void drive() { wherry::fs::drive(*transport); }
    void run_until(const std::function<bool()>& done) { thread->run_until(done); }
    // The first request that the monitor answers, in the place of a process that is gone.
    void expect_refused(vmm::testing::Driver& driver, const LookUp& request) {
        run_until([&] { return device->metrics.refused_count.total() == 1; });
        ASSERT_TRUE(driver.take_used());
        EXPECT_EQ(request.reply().error, -ENOTCONN);
    }
    World world;
    std::unique_ptr<vmm::EventLoop> loop;
    std::unique_ptr<DeviceThread> thread;
    std::shared_ptr<vmm::GuestMemory> memory;
    std::shared_ptr<vmm::fs::FsDevice> device;
    std::shared_ptr<vmm::MmioTransport> transport;
};

TEST_F(FaceToFace, ARequestIsServedAndInterrupts) {
    std::ofstream(world.folder / "file") << "x";
    EXPECT_EQ(get(*transport, 0x008), 26U);
    EXPECT_EQ(get(*transport, 0x100), 0x00676174U);  // "tag"
    drive();
    ASSERT_EQ(get(*transport, 0x070) & vmm::status_needs_reset, 0U);
    vmm::testing::Driver driver(*memory, 0x4000);
    LookUp request(*memory, 0x8000);
    request.offer(driver, FUSE_INIT, initialization());
    set(*transport, 0x050, 1);  // as KVM's eventfd would
    ASSERT_TRUE(readable(transport->interrupt_event()));
    EXPECT_EQ(get(*transport, 0x060) & 1U, 1U) << "the driver has to look at its queues";
    vmm::drain_eventfd(transport->interrupt_event());
    ASSERT_TRUE(driver.take_used());
    EXPECT_EQ(request.reply().error, 0);
    request.offer(driver, FUSE_LOOKUP, std::string_view("file\0", 5));
    set(*transport, 0x050, 1);
    ASSERT_TRUE(readable(transport->interrupt_event()));
    const auto used = driver.take_used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->bytes, sizeof(fuse_out_header) + sizeof(fuse_entry_out));
    EXPECT_EQ(request.reply().error, 0);
}

TEST_F(FaceToFace, AResetStopsTheQueueAndADriverStartsAgain) {
    for (int round = 0; round < 3; ++round) {
        memory->fill(GuestAddress{0x4000}, 0x1000, std::byte{0});
        drive();
        vmm::testing::Driver driver(*memory, 0x4000);
        LookUp request(*memory, 0x8000);
        request.offer(driver, FUSE_INIT, initialization());
        set(*transport, 0x050, 1);
        ASSERT_TRUE(readable(transport->interrupt_event()));
        vmm::drain_eventfd(transport->interrupt_event());
        ASSERT_TRUE(driver.take_used());
        set(*transport, 0x070, 0);
        // The other process has let go of the memory: what is offered now is not taken.
        request.offer(driver, FUSE_LOOKUP, std::string_view("x\0", 2));
        set(*transport, 0x050, 1);
        EXPECT_FALSE(driver.take_used());
    }
}

TEST_F(FaceToFace, ABrokenRingEndsTheBackendAndTheDeviceAsksForAReset) {
    drive();
    vmm::testing::Driver driver(*memory, 0x4000);
    driver.offer_chain(0, {{.address = 1ULL << 40U, .bytes = 100}});
    set(*transport, 0x050, 1);
    world.join();
    EXPECT_FALSE(world.ended_well);
    // The monitor's loop sees the end of the connection, and then why.
    run_until([&] { return (get(*transport, 0x070) & vmm::status_needs_reset) != 0; });
    EXPECT_EQ(device->metrics.backend_gone_count.total(), 1U);
    // A new driver is told so for each request.
    set(*transport, 0x070, 0);
    memory->fill(GuestAddress{0x4000}, 0x1000, std::byte{0});
    drive();
    EXPECT_EQ(get(*transport, 0x070) & vmm::status_needs_reset, 0U);
    vmm::testing::Driver again(*memory, 0x4000);
    LookUp request(*memory, 0x8000);
    request.offer(again, FUSE_INIT, initialization());
    expect_refused(again, request);
}

// Requests that were taken, answered, answered without telling, and not looked at when the process died.
TEST_F(FaceToFace, WhatIsInFlightIsRefusedAndNothingElse) {
    drive();
    vmm::testing::Driver driver(*memory, 0x4000);
    LookUp request(*memory, 0x8000);
    request.offer(driver, FUSE_INIT, initialization());
    set(*transport, 0x050, 1);
    ASSERT_TRUE(readable(transport->interrupt_event()));
    ASSERT_TRUE(driver.take_used());
    world.end();
    world.join();
    // Not seen by anybody, and seen by the monitor.
    request.offer(driver, FUSE_LOOKUP, std::string_view("file\0", 5));
    expect_refused(driver, request);
    EXPECT_FALSE(driver.take_used());
    request.offer(driver, FUSE_FORGET, {});
    set(*transport, 0x050, 1);
    run_until([&] { return device->metrics.refused_count.total() == 2; });
    const auto forgotten = driver.take_used();
    ASSERT_TRUE(forgotten);
    EXPECT_EQ(forgotten->bytes, 0U);
    EXPECT_EQ(get(*transport, 0x070) & vmm::status_needs_reset, 0U);
}

// It ends while a driver starts the device: the driver is served, by the monitor.
TEST_F(FaceToFace, AProcessThatEndsBeforeItStarts) {
    world.end();
    world.join();
    drive();
    EXPECT_EQ(device->metrics.activate_fails.total(), 1U);
    EXPECT_EQ(get(*transport, 0x070) & vmm::status_needs_reset, 0U);
    vmm::testing::Driver driver(*memory, 0x4000);
    LookUp request(*memory, 0x8000);
    request.offer(driver, FUSE_INIT, initialization());
    expect_refused(driver, request);
}

TEST(Notes, SayWhatIsLeft) {
    auto mine = *vmm::vhost_user::Inflight::create(2, 64);
    auto theirs = *vmm::vhost_user::Inflight::map(Fd(dup(mine.file())), mine.description());
    mine.begin(1, 0xfffe);
    theirs.taken(1, 3);
    theirs.taken(1, 63);
    theirs.taken(1, 5);
    theirs.taken(1, 64);  // there is no such descriptor
    theirs.answering(1, 63);
    theirs.answered(1, 63, 0xffff);
    EXPECT_EQ(mine.left(1, 0xffff), (std::vector<std::uint16_t>{3, 5}));
    // The end came between showing an answer and noting it, and before showing it.
    theirs.answering(1, 5);
    EXPECT_EQ(mine.left(1, 0xffff), (std::vector<std::uint16_t>{3, 5}));
    EXPECT_EQ(mine.left(1, 0), (std::vector<std::uint16_t>{3}));
    EXPECT_EQ(mine.left(0, 0), std::vector<std::uint16_t>{});
    mine.begin(1, 7);
    EXPECT_EQ(mine.left(1, 7), std::vector<std::uint16_t>{});
    auto wrong = mine.description();
    wrong.bytes += 64;
    EXPECT_FALSE(vmm::vhost_user::Inflight::map(Fd(dup(mine.file())), wrong));
    wrong = mine.description();
    wrong.queues = 3;
    EXPECT_FALSE(vmm::vhost_user::Inflight::map(Fd(dup(mine.file())), wrong));
    wrong.queues = 0;
    EXPECT_FALSE(vmm::vhost_user::Inflight::map(Fd(dup(mine.file())), wrong));
    EXPECT_NE(ftruncate(mine.file(), 64), 0) << "nobody makes it smaller";
}

// The monitor looks for another process at the same socket, and goes on with that.
TEST(AnotherProcess, GoesOnWhereTheQueuesAre) {
    World first;
    std::optional<World> second;  // outlives the device
    const auto loop = *vmm::EventLoop::create();
    const auto memory = vmm::testing::make_memory();
    std::string pattern = (std::filesystem::temp_directory_path() / "fs-test-XXXXXX").string();
    const std::filesystem::path folder = mkdtemp(pattern.data());
    const std::string path = (folder / "socket").string();
    const auto device =
        *vmm::fs::FsDevice::create(*loop, {.id = "f", .tag = "tag", .socket = path}, *first.monitor.duplicate());
    first.monitor.reset();
    const auto transport = *vmm::MmioTransport::create(*loop, device, memory, *vmm::make_eventfd());
    DeviceThread thread(*loop);
    drive(*transport);
    vmm::testing::Driver driver(*memory, 0x4000);
    LookUp request(*memory, 0x8000);
    const auto ask = [&](std::uint32_t opcode, std::string_view arguments, const std::function<bool()>& done) {
        request.offer(driver, opcode, arguments);
        set(*transport, 0x050, 1);
        thread.run_until(done);
        return driver.take_used().has_value() ? request.reply().error : 1;
    };
    const auto interrupted = [&] {
        pollfd wait = {.fd = transport->interrupt_event(), .events = POLLIN, .revents = 0};
        if (poll(&wait, 1, 0) != 1) return false;
        vmm::drain_eventfd(transport->interrupt_event());
        return true;
    };
    EXPECT_EQ(ask(FUSE_INIT, initialization(), interrupted), 0);
    first.end();
    first.join();
    EXPECT_EQ(ask(FUSE_GETATTR, std::string(sizeof(fuse_getattr_in), '\0'),
                  [&] { return device->metrics.refused_count.total() == 1; }),
              -ENOTCONN);
    second.emplace(path);
    std::ofstream(second->folder / "file") << "x";
    thread.run_until([&] { return device->metrics.backend_back_count.total() == 1; });
    interrupted();
    EXPECT_EQ(ask(FUSE_LOOKUP, std::string_view("file\0", 5), interrupted), 0);
    EXPECT_EQ(get(*transport, 0x070) & vmm::status_needs_reset, 0U);
    std::filesystem::remove_all(folder);
    const std::lock_guard lock(device->mutex());
    device->reset();
}

// As on a transport that keeps notifications and wants to hear of interrupts itself (PCI's messages).
TEST(Fallback, TheMonitorPassesKicksAndCallsOn) {
    class Ending final : public vmm::Interrupt {
      public:
        explicit Ending(vmm::EventLoop& loop) : loop_(loop) {}
        void queue_used(std::uint16_t queue) override {
            last = queue;
            loop_.stop();
        }
        void configuration_changed() override {}
        void needs_reset() override {}
        unsigned last = 99;

      private:
        vmm::EventLoop& loop_;
    };
    World world;
    const auto loop = *vmm::EventLoop::create();
    const auto memory = vmm::testing::make_memory();
    const auto device =
        *vmm::fs::FsDevice::create(*loop, {.id = "f", .tag = "tag", .socket = {}}, *world.monitor.duplicate());
    world.monitor.reset();
    Ending interrupt(*loop);
    vmm::testing::Driver driver(*memory, 0x4000);
    LookUp request(*memory, 0x8000);
    request.offer(driver, FUSE_INIT, initialization());
    {
        const std::lock_guard lock(device->mutex());
        driver.configure(device->queues()[1].state);
        ASSERT_TRUE(device->activate(vmm::feature_version_1, memory, interrupt));
    }
    EXPECT_TRUE(loop->run());
    EXPECT_EQ(interrupt.last, 1U);
    EXPECT_TRUE(driver.take_used());
    const std::lock_guard lock(device->mutex());
    device->reset();
}

// A file's content goes into pages that the guest has used, but this process has not.
TEST(SharedMemory, IsWrittenWithFewFaults) {
    constexpr std::uint64_t bytes = 1U << 20U;
    const auto memory = vmm::testing::make_memory(bytes);
    memory->fill(GuestAddress{0}, bytes, std::byte{1});
    const auto again = *vmm::GuestMemory::map(*memory->shared_ranges());
    vmm::GuestBuffers buffers;
    ASSERT_TRUE(buffers.append(*again, GuestAddress{0x1000}, bytes - 0x1000));
    // SAFETY: makes a descriptor, owned at once.
    const Fd file(memfd_create("file", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(file.get(), bytes), 0);
    rusage before = {}, after = {};
    getrusage(RUSAGE_THREAD, &before);
    ASSERT_EQ(buffers.read_part(file.get(), 0, 0, bytes - 0x1000), static_cast<std::int64_t>(bytes - 0x1000));
    getrusage(RUSAGE_THREAD, &after);
    EXPECT_LT(after.ru_minflt - before.ru_minflt, 100) << "of 255 pages";
    EXPECT_EQ(memory->read<std::uint32_t>(GuestAddress{0xffc}), 0x01010101U);
    EXPECT_EQ(memory->read<std::uint32_t>(GuestAddress{0x1000}), 0U);
    EXPECT_EQ(memory->read<std::uint32_t>(GuestAddress{bytes - 4}), 0U);
}

TEST(SharedMemory, IsProvenBeforeItIsMapped) {
    const auto memory = vmm::testing::make_memory(1U << 16U);
    const auto shared = *memory->shared_ranges();
    ASSERT_EQ(shared.size(), 1U);
    auto again = vmm::GuestMemory::map(shared);
    ASSERT_TRUE(again);
    memory->write(GuestAddress{0x100}, std::uint32_t{0x12345678});
    EXPECT_EQ((*again)->read<std::uint32_t>(GuestAddress{0x100}), 0x12345678U);
    auto wrong = shared;
    wrong[0].file_offset = 4096;
    EXPECT_FALSE(vmm::GuestMemory::map(wrong));
    wrong = shared;
    wrong.push_back(shared[0]);
    EXPECT_FALSE(vmm::GuestMemory::map(wrong));
    wrong = shared;
    wrong[0].range.bytes = 0;
    EXPECT_FALSE(vmm::GuestMemory::map(wrong));
    wrong[0].range = {GuestAddress{UINT64_MAX - 4095}, 8192};
    EXPECT_FALSE(vmm::GuestMemory::map(wrong));
    const vmm::GuestRange range{GuestAddress{0}, 1U << 21U};
    const auto transparent = *vmm::GuestMemory::create(std::span(&range, 1), vmm::HugePages::transparent);
    EXPECT_FALSE(transparent->shared_ranges());
}

TEST(Options, AreParsed) {
    const auto parse = [](std::vector<const char*> arguments) { return parse_options(arguments); };
    const auto options = parse({"--shared-dir=/x", "--socket", "/s", "--cache", "always", "--map-uid", "0:1:2",
                                "--map-uid", "5:6:7", "--read-only"});
    ASSERT_TRUE(options);
    EXPECT_EQ(options->uid_ranges.size(), 2U);
    EXPECT_TRUE(options->is_read_only);
    EXPECT_EQ(options->cache, fuse::CacheMode::always);
    EXPECT_FALSE(parse({"--shared-dir", "/x", "--socket", "/s", "--fd", "3"}));
    EXPECT_FALSE(parse({"--shared-dir", "/x", "--socket", "/s", "--socket", "/t"}));
    EXPECT_FALSE(parse({"--shared-dir", "/x", "--socket", "/s", "--uid", "4294967295"}));
    EXPECT_LT(allowed_system_calls().instructions.size(), 500U);
}

}  // namespace
}  // namespace wherry::fs
