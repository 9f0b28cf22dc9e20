#include "vmm/machine/machine.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <array>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "vmm/arch/x86_64/platform.hpp"
#include "vmm/devices/boot_timer/device.hpp"
#include "vmm/devices/power/device.hpp"
#include "vmm/memory/device_memory.hpp"

namespace wherry::vmm {
namespace {

// What Firecracker gives a kernel when nobody says otherwise.
constexpr std::string_view default_command_line =
    "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";

}  // namespace

Machine::~Machine() {
    if (vcpus_) vcpus_->stop();
    // Devices refer to their transports until they are reset.
    pci_.reset();
    for (auto& transport : transports_) {
        const std::lock_guard lock(transport->device().mutex());
        transport->device().reset();
    }
}

Result<std::unique_ptr<Machine>> Machine::create(EventLoop& loop, const Resources& resources, const StartInfo& start,
                                                 const std::shared_ptr<mmds::Service>& mmds, const Callbacks& callbacks,
                                                 Preparation prepared) {
    std::unique_ptr<Machine> machine(new Machine);
    machine->remember(resources, start);
    const kvm::System& system = machine->system_.emplace(std::move(prepared.system));
    machine->memory_ = std::move(prepared.memory);
    machine->vm_ = std::move(prepared.vm);
    TRY(machine->memory_->attach(*machine->vm_, 0, resources.machine.track_dirty_pages));
    TRY(x86_64::create_platform(*machine->vm_));
    machine->memory_->device_memory().set_space(
        x86_64::device_memory_space(resources.machine.mem_size_mib << 20U, TRY(kvm::supported_cpuid(system))));
    TRY(machine->add_platform_devices(loop, resources, start, callbacks));
    if (resources.has_pci) TRY(machine->add_pci(loop, callbacks));
    TRY(machine->add_virtio_devices(loop, resources, mmds));
    TRY(machine->boot(resources, prepared.kernel, prepared.initrd, callbacks));
    return machine;
}

void Machine::remember(const Resources& resources, const StartInfo& start) {
    config_ = resources.machine;
    boot_ = resources.boot;
    serial_config_ = resources.serial;
    has_boot_timer_ = start.boot_timer;
}

Result<Fd> Machine::make_interrupt(std::uint32_t irq) {
    Fd event = TRY(make_eventfd());
    TRY(vm_->add_irq_event(event.get(), irq));
    return event;
}

Result<> Machine::add_platform_devices(EventLoop& loop, const Resources& resources, const StartInfo& start,
                                       const Callbacks& callbacks) {
    Fd output;
    const bool to_file = resources.serial && resources.serial->output_path;
    if (to_file) {
        output = TRY(open_file(*resources.serial->output_path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, 0644),
                     "serial output");
    } else {
        // SAFETY: a descriptor of our own for the same file; an absent stdout leaves it empty.
        output = Fd(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
    }
    RateLimiterConfig limits;
    if (resources.serial) limits.bandwidth = resources.serial->rate_limiter;
    serial_ = std::make_shared<serial::SerialDevice>(std::move(output), TRY(make_interrupt(x86_64::serial_irq)),
                                                     RateLimiter(limits, monotonic_ns()));
    TRY(ports_.add(x86_64::serial_port, 8, serial_));
    if (!to_file) TRY(watch_input(loop));

    const auto over = [ended = callbacks.ended](const char* event) {
        return [ended, event] {
            log_info(event);
            ended(ExitCode::ok);
        };
    };
    keyboard_ = std::make_shared<i8042::I8042Device>(TRY(make_interrupt(x86_64::keyboard_irq)), over("guest.reset"));
    TRY(ports_.add(x86_64::keyboard_port, 5, keyboard_));
    TRY(ports_.add(x86_64::power_port, 3,
                   std::make_shared<power::PowerDevice>(over("guest.power_off"), over("guest.reset"))));
    if (start.boot_timer)
        TRY(registers_.add(x86_64::boot_timer_address, mmio_bytes,
                           std::make_shared<boot_timer::BootTimerDevice>(start.start_us, start.start_cpu_us)));
    generation_id_ = TRY(generation_id::GenerationIdDevice::create(memory_, x86_64::generation_id_address,
                                                                   x86_64::clock_page_address,
                                                                   TRY(make_interrupt(x86_64::notification_irq))));
    return {};
}

Result<> Machine::watch_input(EventLoop& loop) {
    serial::SerialDevice* serial = serial_.get();
    auto watch = loop.watch(STDIN_FILENO, EPOLLIN, [this, serial](std::uint32_t events) {
        std::array<char, 64> bytes = {};
        const std::size_t room = std::min(serial->room(), bytes.size());
        if (room == 0) {  // until the guest has read
            input_watch_.set_events(0);
            if ((events & (EPOLLHUP | EPOLLERR)) != 0) input_watch_.reset();
            return;
        }
        const ssize_t n = ::read(STDIN_FILENO, bytes.data(), room);
        if (n > 0) {
            serial->receive({bytes.data(), static_cast<std::size_t>(n)});
        } else {
            input_watch_.reset();
        }
    });
    if (!watch) return {};  // stdin is closed, or a file that epoll does not take: no input then
    input_watch_ = std::move(*watch);
    serial->on_drained([this, &loop] { loop.post([this] { input_watch_.set_events(EPOLLIN); }); });
    return {};
}

Result<> Machine::attach(EventLoop& loop, const std::shared_ptr<Device>& device) {
    if (pci_) {
        transports_.push_back(TRY(can_be_unplugged(*device) ? pci_->attach_to_slot(device) : pci_->attach(device)));
        return {};
    }
    const auto index = static_cast<std::uint32_t>(slots_.size());
    const std::uint32_t irq = x86_64::first_virtio_irq + index;
    if (irq > x86_64::last_virtio_irq)
        return fail(Code::resource_exhausted, "more devices than interrupt lines: at most 18");
    const std::uint64_t address = x86_64::virtio_start + index * mmio_bytes;
    auto transport = TRY(MmioTransport::create(loop, device, memory_, TRY(make_interrupt(irq))));
    const auto events = transport->queue_events();
    for (std::size_t i = 0; i < events.size(); ++i)
        TRY(vm_->add_io_event({.address = address + mmio_queue_notify, .bytes = 4, .value = i}, events[i]));
    TRY(registers_.add(address, mmio_bytes, transport));
    slots_.push_back({address, irq});
    transports_.push_back(std::move(transport));
    return {};
}

Result<> Machine::add_virtio_devices(EventLoop& loop, const Resources& resources,
                                     const std::shared_ptr<mmds::Service>& mmds) {
    // Firecracker's order, which names like /dev/vda follow from.
    if (resources.balloon) {
        balloon_ = TRY(balloon::BalloonDevice::create(loop, *resources.balloon), "balloon");
        TRY(attach(loop, balloon_));
    }
    for (const block::Config& config : resources.drives) {
        drives_.push_back(TRY(block::BlockDevice::create(loop, config), "drive " + config.id));
        TRY(attach(loop, drives_.back()));
    }
    for (const net::Config& config : resources.networks) {
        networks_.push_back(TRY(net::NetDevice::create(loop, config, config.has_mmds ? mmds : nullptr),
                                "network interface " + config.id));
        TRY(attach(loop, networks_.back()));
    }
    if (resources.vsock) {
        vsock_ = TRY(vsock::VsockDevice::create(loop, *resources.vsock), "vsock");
        TRY(attach(loop, vsock_));
    }
    if (resources.entropy) {
        entropy_ = TRY(entropy::EntropyDevice::create(loop, *resources.entropy), "entropy");
        TRY(attach(loop, entropy_));
    }
    if (resources.memory_hotplug) {
        memory_hotplug_ =
            TRY(mem::MemDevice::create(loop, *resources.memory_hotplug, resources.machine.huge_pages, memory_),
                "memory hotplug");
        TRY(attach(loop, memory_hotplug_));
    }
    for (const pmem::Config& config : resources.pmems) {
        pmems_.push_back(TRY(pmem::PmemDevice::create(loop, config, memory_), "pmem " + config.id));
        TRY(attach(loop, pmems_.back()));
    }
    if (!resources.folders.empty()) {
        TRY(memory_->shared_ranges(), "shared folders");
        // The other process would have to learn of each block that comes and goes.
        if (resources.memory_hotplug)
            return fail(Code::unimplemented, "shared folders and memory hotplug cannot be had together");
    }
    for (const fs::Config& config : resources.folders) {
        folders_.push_back(TRY(fs::FsDevice::create(loop, config), "shared folder " + config.id));
        TRY(attach(loop, folders_.back()));
    }
    if (pci_) pci_->add_spare_slots();
    return {};
}

std::string Machine::command_line(const Resources& resources) const {
    std::string line = resources.boot->boot_args.value_or(std::string(default_command_line));
    std::string_view init;
    // What follows " -- " is init's, not the kernel's.
    if (const std::size_t end = line.find(" -- "); end != std::string::npos) init = std::string_view(line).substr(end);
    std::string out = line.substr(0, line.size() - init.size());
    const auto add = [&out](std::string_view word) {
        if (!out.empty()) out += ' ';
        out += word;
    };
    if (!pci_ && out.find("pci=") == std::string::npos) add("pci=off");
    if (!resources.drives.empty() && resources.drives.front().is_root) {
        const block::Config& root = resources.drives.front();
        add(root.partuuid ? "root=PARTUUID=" + *root.partuuid : "root=/dev/vda");
        add(root.is_read_only ? "ro" : "rw");
    }
    for (std::size_t i = 0; i < resources.pmems.size(); ++i) {
        const pmem::Config& root = resources.pmems[i];
        if (!root.is_root) continue;
        add(fmt::format("root=/dev/pmem{}{}", i, root.files.empty() ? "" : "p1"));
        add(root.is_read_only ? "ro" : "rw");
    }
    // Memory that the kernel is not told to use would come and lie there; movable, it can go again.
    if (resources.memory_hotplug && out.find("memhp_default_state=") == std::string::npos)
        add("memhp_default_state=online_movable");
    for (const auto& slot : slots_) add(fmt::format("virtio_mmio.device=4K@{:#x}:{}", slot.address, slot.irq));
    return out.append(init);
}

Result<> Machine::boot(const Resources& resources, const x86_64::LoadedKernel& kernel,
                       const std::optional<GuestRange>& initrd, const Callbacks& callbacks) {
    const auto vcpu_count = resources.machine.vcpu_count;
    const std::string line = command_line(resources);
    x86_64::BootParameters parameters{.initrd = initrd, .command_line = line, .reserved = {}};
    if (pci_)
        parameters.reserved.push_back(
            {GuestAddress{x86_64::pci_configuration_address}, x86_64::pci_buses * x86_64::pci_bus_bytes});
    TRY(x86_64::write_boot_parameters(*memory_, kernel, parameters));
    TRY(x86_64::write_mp_table(*memory_, vcpu_count));
    TRY(x86_64::write_acpi_tables(*memory_, {.vcpus = vcpu_count, .devices = slots_, .has_pci = pci_ != nullptr}));

    const auto setup = TRY(x86_64::prepare_processors(*system_, {.vcpus = vcpu_count, .smt = resources.machine.smt},
                                                      resources.machine.cpu_template, resources.cpu_template));
    std::vector<kvm::Vcpu> vcpus;
    for (std::uint32_t i = 0; i < vcpu_count; ++i) {
        vcpus.push_back(TRY(vm_->create_vcpu(i)));
        cpuid_.push_back(x86_64::guest_cpuid(setup.cpuid, setup.topology, i));
        TRY(x86_64::setup_processor(vcpus.back(), i, setup, i == 0 ? &kernel : nullptr), "vCPU " + std::to_string(i));
    }
    vcpus_ = std::make_unique<VcpuThreads>(VcpuThreads::Setup{
        .ports = &ports_, .registers = &registers_, .ended = callbacks.ended, .confine = callbacks.confine_vcpu});
    return vcpus_->start(std::move(vcpus));
}

}  // namespace wherry::vmm
