#include "vmm/arch/x86_64/kernel.hpp"

#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "vmm/arch/x86_64/layout.hpp"

namespace wherry::vmm::x86_64 {
namespace {

std::unexpected<Error> bad(std::string_view what) {
    return fail(Code::invalid_argument, "kernel image: " + std::string(what));
}

template <class T>
Result<T> read_at(int fd, std::uint64_t offset) {
    T value = {};
    const ssize_t n = pread(fd, &value, sizeof value, static_cast<off_t>(offset));
    if (n < 0) return fail_errno("kernel image");
    if (static_cast<std::size_t>(n) != sizeof value) return bad("it ends early");
    return value;
}

Result<std::uint64_t> file_bytes(int fd) {
    struct stat status = {};
    if (fstat(fd, &status) < 0) return fail_errno("kernel image");
    return static_cast<std::uint64_t>(status.st_size);
}

// The entry of a note "Xen" of type 18 (XEN_ELFNOTE_PHYS32_ENTRY).
Result<std::optional<std::uint32_t>> find_pvh_entry(int fd, const Elf64_Phdr& segment) {
    constexpr std::uint32_t phys32_entry = 18;
    constexpr std::uint64_t limit = 64U << 10U;
    if (segment.p_filesz > limit) return std::nullopt;
    std::vector<std::byte> notes(segment.p_filesz);
    const ssize_t n = pread(fd, notes.data(), notes.size(), static_cast<off_t>(segment.p_offset));
    if (n < 0 || static_cast<std::size_t>(n) != notes.size()) return bad("its notes end early");
    const auto aligned = [](std::uint64_t value) { return (value + 3) & ~std::uint64_t{3}; };
    std::uint64_t at = 0;
    while (at + sizeof(Elf64_Nhdr) <= notes.size()) {
        Elf64_Nhdr header = {};
        std::memcpy(&header, notes.data() + at, sizeof header);
        const std::uint64_t name = at + sizeof header;
        const std::uint64_t value = name + aligned(header.n_namesz);
        const std::uint64_t next = value + aligned(header.n_descsz);
        if (next > notes.size() + 3) break;
        if (header.n_type == phys32_entry && header.n_namesz == 4 && header.n_descsz >= 4 &&
            value + 4 <= notes.size() && std::memcmp(notes.data() + name, "Xen", 4) == 0) {
            std::uint32_t entry = 0;
            std::memcpy(&entry, notes.data() + value, sizeof entry);
            return entry;
        }
        at = next;
    }
    return std::nullopt;
}

Result<LoadedKernel> load_elf(GuestMemory& memory, int fd) {
    const auto header = TRY(read_at<Elf64_Ehdr>(fd, 0));
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
        header.e_machine != EM_X86_64)
        return bad("not an ELF file for x86-64");
    if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 || header.e_phnum > 128)
        return bad("its program headers");
    LoadedKernel kernel;
    kernel.entry = GuestAddress{header.e_entry};
    std::optional<std::uint32_t> pvh;
    std::vector<Elf64_Phdr> segments;
    GuestAddress first{UINT64_MAX}, last;
    for (unsigned i = 0; i < header.e_phnum; ++i) {
        if (header.e_phoff > INT64_MAX - std::uint64_t{i} * sizeof(Elf64_Phdr)) return bad("its program headers");
        const auto segment = TRY(read_at<Elf64_Phdr>(fd, header.e_phoff + std::uint64_t{i} * sizeof(Elf64_Phdr)));
        if (segment.p_offset > INT64_MAX) return bad("its segments");
        if (segment.p_type == PT_NOTE && !pvh) pvh = TRY(find_pvh_entry(fd, segment));
        if (segment.p_type != PT_LOAD || segment.p_memsz == 0) continue;
        const GuestAddress address{segment.p_paddr};
        if (address < high_memory_start) return bad("a segment below 1 MiB");
        if (segment.p_filesz > segment.p_memsz || !memory.contains(address, segment.p_memsz))
            return fail(Code::out_of_range, "the kernel does not fit into the guest's memory");
        kernel.end = std::max(kernel.end, address + segment.p_memsz);
        first = std::min(first, address);
        last = std::max(last, address + segment.p_memsz);
        segments.push_back(segment);
    }
    if (segments.empty()) return bad("nothing to load");
    // Segments of a kernel lie close together, and it clears what follows their bytes. A gap between them would be
    // given to the guest for nothing.
    std::uint64_t loaded = 0;
    for (const Elf64_Phdr& segment : segments) loaded += segment.p_filesz;
    if (first < last && loaded >= (last.value - first.value) / 2) memory.expect({first, last.value - first.value});
    for (const Elf64_Phdr& segment : segments)
        TRY(memory.load_file(fd, segment.p_offset, GuestAddress{segment.p_paddr}, segment.p_filesz));
    if (pvh) {
        kernel.protocol = BootProtocol::pvh;
        kernel.entry = GuestAddress{*pvh};
    } else if (!memory.contains(kernel.entry, 1)) {
        return bad("its entry is outside of the guest's memory");
    }
    return kernel;
}

// Offsets of the setup header, from the start of the file (boot.rst, "The Real-Mode Kernel Header").
constexpr std::size_t header_start = 0x1f1;

struct [[gnu::packed]] SetupHeader {
    std::uint8_t setup_sectors;  // 0x1f1
    std::uint16_t root_flags;
    std::uint32_t system_size;
    std::uint16_t ram_size;
    std::uint16_t video_mode;
    std::uint16_t root_device;
    std::uint16_t boot_flag;  // 0x1fe
    std::uint16_t jump;       // 0x200
    std::uint32_t magic;      // 0x202
    std::uint16_t version;    // 0x206
    std::uint32_t real_mode_switch;
    std::uint16_t start_system_segment;
    std::uint16_t kernel_version;
    std::uint8_t loader_type;  // 0x210
    std::uint8_t load_flags;   // 0x211
    std::uint16_t setup_move_size;
    std::uint32_t code32_start;   // 0x214
    std::uint32_t ramdisk_image;  // 0x218
    std::uint32_t ramdisk_bytes;  // 0x21c
    std::uint32_t bootsect_kludge;
    std::uint16_t heap_end;
    std::uint8_t extended_loader_version;
    std::uint8_t extended_loader_type;
    std::uint32_t command_line;        // 0x228
    std::uint32_t initrd_address_max;  // 0x22c
    std::uint32_t kernel_alignment;    // 0x230
    std::uint8_t relocatable;          // 0x234
    std::uint8_t minimum_alignment;
    std::uint16_t extended_load_flags;  // 0x236
    std::uint32_t command_line_bytes;   // 0x238
    std::uint32_t hardware_subarch;
    std::uint64_t hardware_subarch_data;
    std::uint32_t payload_offset;
    std::uint32_t payload_length;
    std::uint64_t setup_data;
    std::uint64_t preferred_address;  // 0x258
    std::uint32_t init_bytes;         // 0x260
};
static_assert(offsetof(SetupHeader, init_bytes) == 0x260 - header_start);

constexpr std::uint32_t header_magic = 0x53726448;  // "HdrS"

Result<LoadedKernel> load_bzimage(GuestMemory& memory, int fd) {
    const auto header = TRY(read_at<SetupHeader>(fd, header_start));
    constexpr std::uint16_t needed_version = 0x20c;
    constexpr std::uint8_t loaded_high = 1;
    constexpr std::uint16_t can_64_bit = 1;
    if (header.version < needed_version) return bad("a bzImage older than protocol 2.12");
    if ((header.load_flags & loaded_high) == 0 || (header.extended_load_flags & can_64_bit) == 0)
        return bad("a bzImage without a 64-bit entry");
    const std::uint64_t setup_bytes = (std::uint64_t{header.setup_sectors == 0 ? 4U : header.setup_sectors} + 1) * 512;
    const std::uint64_t total = TRY(file_bytes(fd));
    if (total <= setup_bytes) return bad("it ends early");
    LoadedKernel kernel;
    memory.expect({high_memory_start, total - setup_bytes});
    TRY(memory.load_file(fd, setup_bytes, high_memory_start, total - setup_bytes), "the kernel");
    constexpr std::uint64_t entry_offset = 0x200;
    kernel.entry = high_memory_start + entry_offset;
    // It unpacks itself at its preferred address, into init_bytes.
    const std::uint64_t unpacked = std::max(std::uint64_t{header.preferred_address}, high_memory_start.value);
    if (unpacked > gap_start) return bad("its preferred address");
    kernel.end = std::max(high_memory_start + (total - setup_bytes), GuestAddress{unpacked} + header.init_bytes);
    if (!memory.contains(high_memory_start, kernel.end.value - high_memory_start.value))
        return fail(Code::out_of_range, "the kernel does not fit into the guest's memory");
    const std::size_t bytes =
        std::min<std::size_t>(kernel.setup_header.size(), (header.jump >> 8U) + 0x202 - header_start);
    const ssize_t n = pread(fd, kernel.setup_header.data(), bytes, header_start);
    if (n < 0 || static_cast<std::size_t>(n) != bytes) return bad("it ends early");
    kernel.has_setup_header = true;
    return kernel;
}

struct MemoryMapEntry {
    GuestRange range;
    std::uint32_t type;  // 1: memory, 2: reserved
};

std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory, std::span<const GuestRange> reserved) {
    std::vector<MemoryMapEntry> map;
    for (const GuestRange& range : memory.ranges()) {
        if (range.start.value != 0) {
            map.push_back({range, 1});
            continue;
        }
        map.push_back({{GuestAddress{0}, system_start.value}, 1});
        map.push_back({{system_start, high_memory_start.value - system_start.value}, 2});
        map.push_back({{high_memory_start, range.bytes - high_memory_start.value}, 1});
    }
    for (const GuestRange& range : reserved) map.push_back({range, 2});
    return map;
}

bool write_pvh(GuestMemory& memory, const BootParameters& parameters) {
    const auto initrd = parameters.initrd;
    struct StartInfo {  // xen/include/public/arch-x86/hvm/start_info.h
        std::uint32_t magic, version, flags, modules;
        std::uint64_t module_list, command_line, rsdp, memory_map;
        std::uint32_t memory_map_entries, reserved;
    };
    struct Module {
        std::uint64_t address, bytes, command_line, reserved;
    };
    struct MapEntry {
        std::uint64_t address, bytes;
        std::uint32_t type, reserved;
    };
    bool written = true;
    const auto map = memory_map(memory, parameters.reserved);
    for (std::size_t i = 0; i < map.size(); ++i)
        written = written && memory.write(zero_page_address + i * sizeof(MapEntry),
                                          MapEntry{map[i].range.start.value, map[i].range.bytes, map[i].type, 0});
    StartInfo info = {};
    info.magic = 0x336ec578;
    info.version = 1;
    info.command_line = command_line_address.value;
    info.rsdp = rsdp_address.value;
    info.memory_map = zero_page_address.value;
    info.memory_map_entries = static_cast<std::uint32_t>(map.size());
    if (initrd) {
        info.modules = 1;
        info.module_list = pvh_modules_address.value;
        written = written && memory.write(pvh_modules_address, Module{initrd->start.value, initrd->bytes, 0, 0});
    }
    return written && memory.write(pvh_info_address, info);
}

bool write_zero_page(GuestMemory& memory, const LoadedKernel& kernel, const BootParameters& parameters) {
    const auto initrd = parameters.initrd;
    std::array<std::byte, 4096> page = {};
    SetupHeader header = {};
    if (kernel.has_setup_header) {
        std::memcpy(page.data() + header_start, kernel.setup_header.data(), kernel.setup_header.size());
        std::memcpy(&header, kernel.setup_header.data(), sizeof header);
    } else {
        header.boot_flag = 0xaa55;
        header.magic = header_magic;
        header.kernel_alignment = 0x1000000;
    }
    header.loader_type = 0xff;
    header.command_line = static_cast<std::uint32_t>(command_line_address.value);
    header.command_line_bytes = static_cast<std::uint32_t>(parameters.command_line.size() + 1);
    if (initrd) {
        header.ramdisk_image = static_cast<std::uint32_t>(initrd->start.value);
        header.ramdisk_bytes = static_cast<std::uint32_t>(initrd->bytes);
    }
    std::memcpy(page.data() + header_start, &header, sizeof header);
    constexpr std::size_t rsdp_at = 0x70, map_entries_at = 0x1e8, map_at = 0x2d0, map_entry_bytes = 20;
    std::memcpy(page.data() + rsdp_at, &rsdp_address.value, sizeof rsdp_address.value);
    const auto map = memory_map(memory, parameters.reserved);
    page[map_entries_at] = static_cast<std::byte>(map.size());
    for (std::size_t i = 0; i < map.size(); ++i) {
        std::byte* entry = page.data() + map_at + i * map_entry_bytes;
        std::memcpy(entry, &map[i].range.start.value, 8);
        std::memcpy(entry + 8, &map[i].range.bytes, 8);
        std::memcpy(entry + 16, &map[i].type, 4);
    }
    return memory.write_bytes(zero_page_address, page);
}

}  // namespace

Result<LoadedKernel> load_kernel(GuestMemory& memory, int fd) {
    using Magic = std::array<unsigned char, 4>;
    const auto magic = TRY(read_at<Magic>(fd, 0));
    if (std::memcmp(magic.data(), ELFMAG, SELFMAG) == 0) return load_elf(memory, fd);
    const auto header = read_at<SetupHeader>(fd, header_start);
    if (header && header->magic == header_magic && header->boot_flag == 0xaa55) return load_bzimage(memory, fd);
    return bad("neither ELF nor bzImage");
}

Result<GuestRange> load_initrd(GuestMemory& memory, int fd, GuestAddress kernel_end) {
    const std::uint64_t bytes = TRY(file_bytes(fd));
    const GuestRange low = memory.ranges().front();
    if (bytes == 0) return fail(Code::invalid_argument, "the initrd is empty");
    if (bytes > low.bytes) return fail(Code::out_of_range, "the initrd does not fit into the guest's memory");
    const GuestAddress start{(low.bytes - bytes) & ~std::uint64_t{4095}};
    if (start < kernel_end) return fail(Code::out_of_range, "the initrd does not fit into the guest's memory");
    memory.expect({start, bytes});
    TRY(memory.load_file(fd, 0, start, bytes), "the initrd");
    return GuestRange{start, bytes};
}

Result<> write_boot_parameters(GuestMemory& memory, const LoadedKernel& kernel, const BootParameters& parameters) {
    const std::string_view command_line = parameters.command_line;
    if (command_line.size() >= command_line_bytes)
        return fail(Code::invalid_argument, "the kernel's command line is longer than 2047 bytes");
    const bool written = memory.write_bytes(command_line_address, command_line) &&
                         memory.fill(command_line_address + command_line.size(), 1, std::byte{0}) &&
                         (kernel.protocol == BootProtocol::pvh ? write_pvh(memory, parameters)
                                                               : write_zero_page(memory, kernel, parameters));
    if (!written) return fail(Code::out_of_range, "the guest has too little memory to boot");
    return {};
}

}  // namespace wherry::vmm::x86_64
