// virtio-pmem: windows, flushes, limits, the partition table, save and restore.
#include "vmm/devices/pmem/device.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <future>
#include <mutex>
#include <thread>

#include "vmm/devices/pmem/partitions.hpp"
#include "vmm/devices/pmem/state.hpp"
#include "vmm/snapshot/codec.hpp"
#include "vmm/testing/driver.hpp"

namespace wherry::vmm::pmem {
namespace {

using testing::Driver;
constexpr std::uint64_t mib = 1U << 20U;
constexpr GuestAddress space_start{1ULL << 32U};

// Says when something happened: flushes are answered on the device thread.
class AwaitedInterrupt final : public Interrupt {
  public:
    void queue_used(std::uint16_t) override { count(used); }
    void configuration_changed() override {}
    void needs_reset() override { count(resets); }
    std::mutex mutex;
    std::condition_variable changed;
    unsigned used = 0, resets = 0;

  private:
    void count(unsigned& what) {
        const std::lock_guard lock(mutex);
        ++what;
        changed.notify_all();
    }
};

class PmemTest : public ::testing::Test {
  protected:
    PmemTest() { memory->device_memory().set_space({space_start, 4096 * mib}); }
    void TearDown() override {
        loop->stop();
        device_thread.join();
        std::filesystem::remove_all(folder);
    }

    std::string make_file(const std::string& name, std::string_view contents) {
        std::filesystem::create_directories(folder);
        const std::string path = folder / name;
        EXPECT_TRUE(write_file_atomic(path, contents, 0600, Durability::none));
        return path;
    }
    // Runs f on the device thread and waits for it, and for all that was posted there before.
    void run_on_loop(const std::function<void()>& f) {
        std::promise<void> done;
        loop->post([&] {
            f();
            done.set_value();
        });
        done.get_future().wait();
    }
    // A device that ends on the device thread, as all do: a callback of its may be under way there.
    Result<std::shared_ptr<PmemDevice>> make(const Config& config, std::optional<GuestRange> place = std::nullopt) {
        auto device = TRY(PmemDevice::create(*loop, config, memory, place));
        PmemDevice* const plain = device.get();
        return std::shared_ptr<PmemDevice>(
            plain, [this, device = std::move(device)](PmemDevice*) mutable { run_on_loop([&] { device.reset(); }); });
    }
    void start(Device& device) {
        drivers.clear();
        drivers.emplace_back(*memory, 0x1000);
        drivers[0].configure(device.queues()[0].state);
        auto activated = device.activate(feature_version_1, memory, interrupt);
        ASSERT_TRUE(activated) << activated.error().describe();
        run_on_loop([] {});  // it has seen the queue empty
    }
    // A flush from descriptors 2n and 2n + 1; its answer is at 0x9000 + 16n.
    void ask(std::uint16_t number = 0, std::uint32_t type = 0) {
        memory->write(GuestAddress{0x8000}, type);
        memory->write(GuestAddress{0x9000} + std::uint64_t{number} * 16, std::uint32_t{77});
        drivers[0].offer_chain(
            static_cast<std::uint16_t>(number * 2),
            {{.address = 0x8000, .bytes = 4},
             {.address = 0x9000 + std::uint64_t{number} * 16, .bytes = 4, .flags = testing::write_flag}});
    }
    std::uint32_t answer(std::uint16_t number = 0) {
        return *memory->read<std::uint32_t>(GuestAddress{0x9000} + std::uint64_t{number} * 16);
    }
    void await(unsigned count) {
        std::unique_lock lock(interrupt.mutex);
        ASSERT_TRUE(interrupt.changed.wait_for(lock, std::chrono::seconds(30),
                                               [&] { return drivers[0].used_index() == count; }));
    }
    std::string text(GuestAddress address, std::size_t size) {
        std::string out(size, '?');
        EXPECT_TRUE(memory->read_bytes(address, std::as_writable_bytes(std::span(out))));
        return out;
    }

    std::filesystem::path folder = std::filesystem::temp_directory_path() / ("pmem-test-" + std::to_string(getpid()));
    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    std::shared_ptr<GuestMemory> memory = testing::make_memory();
    AwaitedInterrupt interrupt;
    std::deque<Driver> drivers;
    std::thread device_thread{[this] { EXPECT_TRUE(loop->run()); }};
};

TEST_F(PmemTest, AFileIsAWindowOfWholeHugePages) {
    const auto path = make_file("file", "five!");
    {
        auto device = make({.id = "p", .path = path});
        ASSERT_TRUE(device) << device.error().describe();
        const auto configuration = (*device)->configuration();
        ASSERT_EQ(configuration.size(), 16U);
        std::array<std::uint64_t, 2> layout = {};
        std::memcpy(layout.data(), configuration.data(), 16);
        EXPECT_EQ(layout[0], space_start.value);
        EXPECT_EQ(layout[1], 2 * mib);
        EXPECT_EQ(text(space_start, 5), "five!");
    }
    EXPECT_FALSE(memory->contains(space_start, 1, Access::read)) << "the window goes with its device";
}

TEST_F(PmemTest, FilesThatAreNoneAreRefused) {
    EXPECT_FALSE(make({.id = "p", .path = "/nowhere"}));
    EXPECT_FALSE(make({.id = "p", .path = "/dev/null"}));
    EXPECT_FALSE(make({.id = "p", .path = "/tmp"}));
    EXPECT_FALSE(make({.id = "p", .path = make_file("empty", "")}));
    EXPECT_FALSE(make({.id = "p", .files = {make_file("a", "a")}})) << "not read-only";
    EXPECT_EQ(*memory->device_memory().place(2 * mib, window_alignment), space_start) << "nothing stays behind";
    // More than there are addresses for.
    const auto large = make_file("large", "x");
    ASSERT_EQ(truncate(large.c_str(), 8192 * mib), 0);
    const auto refused = make({.id = "p", .path = large});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Code::out_of_range);
}

TEST_F(PmemTest, FlushesAreAnswered) {
    for (const bool is_read_only : {false, true}) {
        auto device = *make({.id = "p", .path = make_file("f", "x"), .is_read_only = is_read_only});
        start(*device);
        for (std::uint16_t i = 0; i < 5; ++i) ask(i);
        device->notify(0);
        await(5);
        for (std::uint16_t i = 0; i < 5; ++i) EXPECT_EQ(answer(i), 0U);
        EXPECT_EQ(device->metrics.flush_count.total(), 1U) << "one flush for all that waited";
        device->run_locked([&] { device->reset(); });
        memory->fill(GuestAddress{0x1000}, 0x1000, std::byte{0});
    }
}

TEST_F(PmemTest, OtherRequestsAreRefusedAndShortOnesBreakTheDevice) {
    auto device = *make({.id = "p", .path = make_file("f", "x")});
    start(*device);
    ask(0, 1);
    device->notify(0);
    EXPECT_EQ(answer(), 1U);
    EXPECT_EQ(interrupt.resets, 0U);
    drivers[0].offer_chain(0, {{.address = 0x8000, .bytes = 4}});
    device->notify(0);
    EXPECT_EQ(interrupt.resets, 1U);
}

TEST_F(PmemTest, FlushesAreLimited) {
    auto device =
        *make({.id = "p",
               .path = make_file("f", "x"),
               .limits = {.bandwidth = {}, .operations = BucketConfig{.size = 1, .refill_time_ms = 3'600'000}}});
    start(*device);
    ask(0);
    device->notify(0);
    await(1);
    ask(1);
    device->notify(0);
    EXPECT_EQ(answer(1), 77U);
    EXPECT_EQ(device->metrics.rate_limiter_throttled_events.total(), 1U);
    device->change_limits({.bandwidth = {}, .operations = BucketConfig{}});
    await(2);
    EXPECT_EQ(answer(1), 0U);
}

TEST_F(PmemTest, AQueueThatIsFilledAgainAndAgainHoldsNoMoreThanItsSize) {
    auto device =
        *make({.id = "p",
               .path = make_file("f", "x"),
               .limits = {.bandwidth = {}, .operations = BucketConfig{.size = 1, .refill_time_ms = 3'600'000}}});
    start(*device);
    ask();
    device->notify(0);
    await(1);
    for (int i = 0; i < 1000; ++i) {
        drivers[0].offer(0);
        device->notify(0);
    }
    // Beyond what waits, the device stops taking; the ring then says that there is more than it has room for.
    EXPECT_LE(device->queues()[0].state.next_available, 1U + 2 * 64U);
}

std::uint64_t number(const std::string& table, std::size_t at, unsigned bytes) {
    std::uint64_t value = 0;
    std::memcpy(&value, table.data() + at, bytes);
    return value;
}

TEST_F(PmemTest, ManyFilesAreOneWindowWithAPartitionEach) {
    Config config{.id = "layers", .is_read_only = true};
    for (int i = 0; i < 127; ++i)
        config.files.push_back(make_file("layer" + std::to_string(i), "layer " + std::to_string(i)));
    auto device = *make(config);
    EXPECT_EQ(device->range().bytes, 129 * 2 * mib);
    const GuestAddress start = device->range().start;
    for (std::uint64_t i = 0; i < 127; ++i)
        EXPECT_EQ(text(start + (i + 1) * 2 * mib, 7 + (i > 9 ? 1 : 0) + (i > 99 ? 1 : 0)),
                  "layer " + std::to_string(i));
    const std::string head = text(start, table_bytes);
    EXPECT_EQ(number(head, 510, 2), 0xaa55U);
    EXPECT_EQ(head.substr(512, 8), "EFI PART");
    EXPECT_EQ(number(head, 512 + 24, 8), 1U);
    EXPECT_EQ(number(head, 512 + 32, 8), device->range().bytes / 512 - 1);
    EXPECT_EQ(number(head, 1024 + 2 * 128 + 32, 8), 3 * 4096U);      // the third one's first sector
    EXPECT_EQ(number(head, 1024 + 2 * 128 + 40, 8), 3 * 4096U + 7);  // and its last: a page
    EXPECT_EQ(head[1024 + 2 * 128 + 56], 'l');
    EXPECT_EQ(text(GuestAddress{device->range().end().value - 512}, 8), "EFI PART");
    EXPECT_FALSE(memory->write_bytes(start, "x"));
}

TEST(PartitionTable, IsTheSameForTheSameWindow) {
    const std::vector<Partition> partitions = {{.offset = 2 * mib, .bytes = 5000, .name = "a b"}};
    const auto one = make_partition_table(partitions, 6 * mib, "id"),
               two = make_partition_table(partitions, 6 * mib, "id");
    EXPECT_EQ(one.head, two.head);
    EXPECT_EQ(one.tail, two.tail);
    EXPECT_NE(one.head, make_partition_table(partitions, 6 * mib, "other").head);
    EXPECT_LE(one.head.size(), table_bytes);
}

TEST_F(PmemTest, GoesOnAfterASnapshot) {
    auto first = *make({.id = "p", .path = make_file("f", "x")});
    start(*first);
    ask();
    first->notify(0);
    auto saved = first->save();
    ASSERT_TRUE(saved) << saved.error().describe();
    EXPECT_EQ(drivers[0].used_index(), 1U) << "what is on its way arrives before";
    snapshot::Writer writer;
    writer(*saved);
    State state;
    snapshot::Reader reader(writer.bytes());
    reader(state);
    ASSERT_TRUE(reader.finish());
    first.reset();
    auto second = make(state.config, state.range);
    ASSERT_TRUE(second) << second.error().describe();
    auto restored = (*second)->restore(state, memory, interrupt);
    ASSERT_TRUE(restored) << restored.error().describe();
    ask(1);
    (*second)->notify(0);
    await(2);
    EXPECT_EQ(answer(1), 0U);
    second->reset();
    // Another size, another place.
    state.range.bytes *= 2;
    EXPECT_FALSE(make(state.config, state.range));
    auto third = *make(state.config);
    EXPECT_FALSE(third->restore(state, memory, interrupt));
}

}  // namespace
}  // namespace wherry::vmm::pmem
