// A guest that writes and reads whatever it likes: configuration space by both mechanisms, registers of a disk and an
// entropy device, the vectors' tables, root ports; while devices are plugged and unplugged. Each step is one byte that
// says what, and up to 13 that say where and what.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/log.hpp"
#include "vmm/devices/block/device.hpp"
#include "vmm/devices/entropy/device.hpp"
#include "vmm/pci/root_complex.hpp"
#include "vmm/testing/driver.hpp"
#include "vmm/testing/pci_host.hpp"
#include "vmm/virtio/pci.hpp"

namespace wherry::vmm {
namespace {

constexpr pci::Window window = {0xd0000000, 0x400000};

struct World {
    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    std::shared_ptr<GuestMemory> memory = testing::make_memory(1U << 17U);
    Fd disk;

    World() {
        set_log_level(LogLevel::off);
        // SAFETY: makes a descriptor, owned at once.
        disk = Fd(memfd_create("disk", MFD_CLOEXEC));
        if (ftruncate(disk.get(), 1 << 20) != 0) abort();
    }
    std::shared_ptr<PciTransport> make(pci::Host& host, std::uint32_t address) {
        block::Config config;
        config.path = "/proc/self/fd/" + std::to_string(disk.get());
        return *PciTransport::create(*loop, *block::BlockDevice::create(*loop, config), memory, host, window, address);
    }
};

class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : bytes_(data, size) {}
    bool empty() const { return bytes_.empty(); }
    template <class T>
    T take() {
        T value = 0;
        const std::size_t count = std::min(sizeof value, bytes_.size());
        std::memcpy(&value, bytes_.data(), count);
        bytes_ = bytes_.subspan(count);
        return value;
    }

  private:
    std::span<const std::uint8_t> bytes_;
};

}  // namespace
}  // namespace wherry::vmm

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::vmm;
    static World world;
    testing::RecordingHost host;
    unsigned released = 0;
    {
        auto complex = std::make_shared<pci::RootComplex>(window);
        auto fixed = *PciTransport::create(*world.loop, *entropy::EntropyDevice::create(*world.loop, {}), world.memory,
                                           host, window, 0xd0000000);
        complex->add(1, 0, fixed);
        auto port = std::make_shared<pci::RootPort>(
            host, pci::RootPort::Place{.number = 1, .secondary_bus = 1, .memory = {0xd0100000, 0x100000}},
            [&] { ++released; });
        complex->add_port(16, 0, port);
        auto behind = world.make(host, 0xd0100000);
        port->insert(behind);
        pci::EnhancedConfiguration ecam(complex);
        pci::ConfigurationPorts ports(complex);
        pci::MemoryWindow memory(complex);

        Input input(data, size);
        for (unsigned steps = 0; !input.empty() && steps < 512; ++steps) {
            const auto what = input.take<std::uint8_t>();
            const std::size_t bytes = std::size_t{1} << ((what >> 3U) % 4);
            std::array<std::byte, 8> buffer = {};
            if ((what & 7U) < 6) {
                // Places that mean something come up by themselves: a bus, device, function or BAR and an offset in it.
                const auto place = input.take<std::uint8_t>();
                const auto offset = input.take<std::uint16_t>();
                const auto value = input.take<std::uint64_t>();
                std::memcpy(buffer.data(), &value, sizeof value);
                const auto span = std::span(buffer).first(bytes);
                wherry::vmm::BusDevice* bus = nullptr;
                std::uint64_t at = 0;
                if ((what & 7U) < 2) {
                    constexpr std::array<std::uint64_t, 4> functions = {0, 1U << 15U, 16U << 15U, 1U << 20U};
                    bus = &ecam;
                    at = functions[place % 4] + offset % 0xff8U;
                } else if ((what & 7U) < 4) {
                    bus = &memory;
                    at = (place % 4) * 0x100000ULL + offset;
                } else {
                    bus = &ports;
                    at = place % (9 - std::min<std::size_t>(bytes, 4));
                }
                if ((what & 1U) == 0) {
                    bus->write(at, span);
                } else {
                    bus->read(at, span);
                }
            } else if ((what & 7U) == 6) {
                if (what & 8U) {
                    if (const auto gone = port->unplug()) behind->detach();
                } else if (!port->is_occupied()) {
                    behind = world.make(host, (what & 16U) != 0 ? 0xd0100000 : 0);
                    port->plug(behind);
                }
            } else {
                [[maybe_unused]] const auto asked = port->request_removal();
                if (port->is_released())
                    if (port->unplug()) behind->detach();
            }
        }
        fixed->detach();
        behind->detach();
    }
    // Nothing is left behind, and nothing was taken back that was not given.
    if (!host.doorbells.empty() || host.mistakes != 0) abort();
    return 0;
}
