// State files of anybody's making: the envelope, the codec, and devices restored from whatever it says, which then work
// on. The first byte says whether the rest is a whole file, a state without its envelope, or changes to a state of a
// machine that works, and its memory.
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/log.hpp"
#include "vmm/machine/state.hpp"
#include "vmm/memory/device_memory.hpp"
#include "vmm/snapshot/codec.hpp"
#include "vmm/snapshot/file.hpp"
#include "vmm/testing/driver.hpp"

namespace wherry::vmm {
namespace {

struct World {
    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    std::shared_ptr<GuestMemory> memory = testing::make_memory(1U << 17U);
    testing::CountingInterrupt interrupt;
    std::string folder = std::filesystem::temp_directory_path() / ("snapshot-fuzz-" + std::to_string(getpid()));
    std::string disk = folder + "/disk";
    Fd file{memfd_create("state", MFD_CLOEXEC)};
    std::string good;  // the state of a machine with one of each device, as bytes

    World() {
        set_log_level(LogLevel::off);
        std::filesystem::create_directories(folder);
        if (!write_file_atomic(disk, std::string(4096, 'd'), 0600, Durability::none)) abort();
        memory->device_memory().set_space({GuestAddress{4ULL << 30U}, 16ULL << 30U});
        make_good();
    }
    void make_good();
    ~World() { std::filesystem::remove_all(folder); }
};

// What a device says of itself while a driver has it.
template <class Device>
auto saved_of(World& world, std::shared_ptr<Device> device) {
    for (std::size_t i = 0; i < device->queues().size(); ++i)
        testing::Driver(*world.memory, i * 0x1000).configure(device->queues()[i].state);
    if (!device->activate(device->offered_features() | feature_version_1, world.memory, world.interrupt)) abort();
    auto state = device->save();
    device->run_locked([&] { device->reset(); });
    return state;
}

std::shared_ptr<net::Tap> make_tap() {
    auto pair = make_socket_pair(SOCK_DGRAM | SOCK_NONBLOCK);
    if (!pair) abort();
    auto tap = std::make_shared<net::Tap>();
    tap->queues.push_back(std::move(pair->first));
    return tap;
}

void World::make_good() {
    MachineState state;
    state.processors.resize(1);
    state.entropy = saved_of(*this, *entropy::EntropyDevice::create(*loop, {}));
    state.balloon = saved_of(*this, *balloon::BalloonDevice::create(*loop, {.amount_mib = 1,
                                                                            .deflate_on_oom = true,
                                                                            .stats_polling_interval_s = 1,
                                                                            .free_page_hinting = true,
                                                                            .free_page_reporting = true}));
    for (const auto engine : {block::IoEngine::sync, block::IoEngine::async}) {
        auto created = block::BlockDevice::create(*loop, {.id = "d", .path = disk, .engine = engine});
        if (created) state.drives.push_back(*saved_of(*this, *created));
    }
    net::Config network;
    network.tap = make_tap();
    state.networks.push_back(saved_of(*this, *net::NetDevice::create(*loop, network, nullptr)));
    state.vsock = saved_of(*this, *vsock::VsockDevice::create(*loop, {.guest_cid = 3, .uds_path = folder + "/good"}));
    state.pmems.push_back(*saved_of(*this, *pmem::PmemDevice::create(*loop, {.id = "p", .path = disk}, memory)));
    const auto plugged = testing::make_memory();
    plugged->device_memory().set_space({GuestAddress{4ULL << 30U}, 16ULL << 30U});
    state.memory_hotplug =
        saved_of(*this, *mem::MemDevice::create(*loop, {.total_size_mib = 256}, HugePages::none, plugged));
    state.memory_hotplug->plugged = {{state.memory_hotplug->start, 4U << 20U}};
    snapshot::Writer writer;
    writer(state);
    good = writer.bytes();
}

// A device made from its state, if it takes it: then it works on it, and its state can be saved.
template <class Device, class State>
void revive(World& world, Result<std::shared_ptr<Device>> created, const State& state) {
    if (!created) return;
    Device& device = **created;
    if (device.restore(state, world.memory, world.interrupt)) {
        for (std::size_t i = 0; i < device.queues().size(); ++i) device.notify(static_cast<std::uint16_t>(i));
        snapshot::Writer writer;
        if constexpr (requires { device.save().value(); }) {
            if (const auto saved = device.save()) writer(*saved);
        } else {
            writer(device.save());
        }
    }
    device.run_locked([&] { device.reset(); });
}

void revive_all(World& world, MachineState& state) {
    constexpr std::size_t some = 4;
    if (state.entropy)
        revive(world, entropy::EntropyDevice::create(*world.loop, state.entropy->config), *state.entropy);
    if (state.balloon)
        revive(world, balloon::BalloonDevice::create(*world.loop, state.balloon->config), *state.balloon);
    for (std::size_t i = 0; i < std::min(state.drives.size(), some); ++i) {
        block::State& drive = state.drives[i];
        drive.config.path = world.disk;
        revive(world, block::BlockDevice::create(*world.loop, drive.config), drive);
    }
    for (std::size_t i = 0; i < std::min(state.networks.size(), some); ++i) {
        net::State& network = state.networks[i];
        network.config.queue_pairs = 1;
        network.config.tap = make_tap();
        revive(world, net::NetDevice::create(*world.loop, network.config, nullptr), network);
    }
    if (state.vsock) {
        state.vsock->config.uds_path = world.folder + "/vsock";
        revive(world, vsock::VsockDevice::create(*world.loop, state.vsock->config), *state.vsock);
    }
    for (std::size_t i = 0; i < std::min(state.pmems.size(), some); ++i) {
        pmem::State& pmem = state.pmems[i];
        pmem.config.path = world.disk;
        for (std::string& file : pmem.config.files) file = world.disk;
        revive(world, pmem::PmemDevice::create(*world.loop, pmem.config, world.memory, pmem.range), pmem);
    }
    // A machine's memory has one such range for all its life.
    if (state.memory_hotplug && state.memory_hotplug->config.total_size_mib <= 512) {
        const mem::State& plugged = *state.memory_hotplug;
        const auto memory = std::exchange(world.memory, testing::make_memory(1U << 17U));
        revive(world, mem::MemDevice::create(*world.loop, plugged.config, HugePages::none, world.memory, plugged.start),
               plugged);
        world.memory = memory;
    }
    auto event = make_eventfd();
    auto other = make_eventfd();
    if (!event || !other) abort();
    serial::SerialDevice serial{Fd(), std::move(*event)};
    if (serial.restore(state.serial)) serial.raise_pending();
    i8042::I8042Device keyboard(std::move(*other), [] {});
    if (keyboard.restore(state.keyboard)) keyboard.raise_pending();
    std::byte byte{};
    for (std::uint64_t offset = 0; offset < 8; ++offset) {
        serial.read(offset, std::span(&byte, 1));
        keyboard.read(offset % 5, std::span(&byte, 1));
    }
}

// Changes of the good state, each a place in it and the byte there, until there are 64 or one is at 0xffff; the rest is
// the guest's memory.
std::string change_good(World& world, std::string_view& bytes) {
    std::string state = world.good;
    for (int i = 0; i < 64 && bytes.size() >= 3; ++i) {
        const std::size_t place =
            static_cast<std::size_t>(static_cast<std::uint8_t>(bytes[0]) | static_cast<std::uint8_t>(bytes[1]) << 8U);
        const char value = bytes[2];
        bytes.remove_prefix(3);
        if (place == 0xffff) break;
        state[place % state.size()] = value;
    }
    return state;
}

enum class Input : unsigned char { state, file, changes };

void run(World& world, std::string_view bytes, Input input) {
    world.memory->fill(GuestAddress{0}, 1U << 17U, std::byte{0});
    MachineState state;
    if (input == Input::changes) {
        const std::string changed = change_good(world, bytes);
        world.memory->write_bytes(GuestAddress{0}, bytes.substr(0, 1U << 17U));
        snapshot::Reader reader(changed);
        reader(state);
        if (!reader.finish()) return;
    } else if (input == Input::file) {
        if (ftruncate(world.file.get(), 0) != 0 || lseek(world.file.get(), 0, SEEK_SET) != 0 ||
            !write_all(world.file.get(), bytes) || lseek(world.file.get(), 0, SEEK_SET) != 0)
            abort();
        auto read = read_state(world.file.get());
        if (!read) return;
        state = std::move(*read);
    } else {
        snapshot::Reader reader(bytes);
        reader(state);
        if (!reader.finish()) return;
    }
    // What was read is written as it was.
    snapshot::Writer writer;
    writer(state);
    MachineState copy;
    snapshot::Reader again(writer.bytes());
    again(copy);
    if (!again.finish()) abort();
    revive_all(world, state);
}

}  // namespace
}  // namespace wherry::vmm

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static wherry::vmm::World world;
    if (size == 0) return 0;
    // SAFETY: bytes are chars.
    wherry::vmm::run(world, {reinterpret_cast<const char*>(data) + 1, size - 1},
                     static_cast<wherry::vmm::Input>(data[0] % 3));
    return 0;
}
