// A bare-metal guest for the device model: drives virtio devices, on MMIO or PCI, without a kernel, as a driver should or as none
// ever should. Loaded at 1 MiB by the 64-bit Linux boot protocol; no SSE, so that a /dev/kvm that interprets instructions can
// run it. What to do is on the command line:
//
//     test=read|write|fuzz|registers|scenarios|pci|obey|memory  seed=N  rounds=N   and the monitor's virtio_mmio.device=4K@0xADDRESS:IRQ
//
// Without such devices it looks for PCI functions, at the place of the memory-mapped configuration space (layout.hpp).
// It prints on the serial port, "done" at the end, and resets by the keyboard controller. "obey" brings the disk up once and then
// waits for letters on the serial port: c counts and checks a pattern in memory, d changes a page of it, b reads the disk's first
// sector, w writes its second one, q ends.
using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long;

extern "C" void* memset(void* target, int value, u64 size) {
    for (u64 i = 0; i < size; ++i) static_cast<volatile u8*>(target)[i] = static_cast<u8>(value);
    return target;
}
extern "C" void* memcpy(void* target, const void* source, u64 size) {
    for (u64 i = 0; i < size; ++i) static_cast<volatile u8*>(target)[i] = static_cast<const u8*>(source)[i];
    return target;
}

namespace {

void out8(u16 port, u8 value) { asm volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
u8 in8(u16 port) {
    u8 value = 0;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

void out32(u16 port, u32 value) { asm volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }
u32 in32(u16 port) {
    u32 value = 0;
    asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

void print(const char* text) {
    for (; *text != 0; ++text) out8(0x3f8, static_cast<u8>(*text));
}
void print_number(u64 value) {
    char digits[24];
    int at = 23;
    digits[at] = 0;
    do {
        digits[--at] = static_cast<char>('0' + value % 10);
        value /= 10;
    } while (value != 0);
    print(digits + at);
}

[[noreturn]] void end() {
    print("\ndone\n");
    out8(0x64, 0xfe);
    while (true) asm volatile("hlt");
}

// Everything below 4 GiB, one to one: devices lie above what the loader mapped. Two GiB more for memory that devices bring.
alignas(4096) u64 level4[512];
alignas(4096) u64 level3[512];
alignas(4096) u64 high_level3[512];
alignas(4096) u64 level2[4][512];
alignas(4096) u64 high_level2[2][512];

void map_gigabyte(u64* upper, u64* table, u64 gigabyte) {
    for (u64 i = 0; i < 512; ++i) table[i] = (gigabyte << 30U | i << 21U) | 0x83;
    upper[gigabyte % 512] = reinterpret_cast<u64>(table) | 3;
}
void map_everything() {
    for (u64 gigabyte = 0; gigabyte < 4; ++gigabyte) map_gigabyte(level3, level2[gigabyte], gigabyte);
    level4[0] = reinterpret_cast<u64>(level3) | 3;
    asm volatile("mov %0, %%cr3" ::"r"(level4) : "memory");
}
// The GiB at `address` and the next one.
void map_high(u64 address) {
    for (u64 i = 0; i < 2; ++i) map_gigabyte(high_level3, high_level2[i], (address >> 30U) + i);
    level4[address >> 39U] = reinterpret_cast<u64>(high_level3) | 3;
    asm volatile("mov %0, %%cr3" ::"r"(level4) : "memory");
}

u64 state = 1;
u64 random() {
    state ^= state << 13U;
    state ^= state >> 7U;
    state ^= state << 17U;
    return state;
}

bool starts(const char* text, const char* with) {
    for (; *with != 0; ++text, ++with)
        if (*text != *with) return false;
    return true;
}
u64 number(const char* text) {
    u64 value = 0;
    bool hex = starts(text, "0x");
    if (hex) text += 2;
    for (;; ++text) {
        u64 digit = 0;
        if (*text >= '0' && *text <= '9') {
            digit = static_cast<u64>(*text - '0');
        } else if (hex && *text >= 'a' && *text <= 'f') {
            digit = static_cast<u64>(*text - 'a') + 10;
        } else {
            return value;
        }
        value = value * (hex ? 16 : 10) + digit;
    }
}

// virtio 1.2, 4.2.2: registers of the MMIO transport.
enum Register : u32 {
    magic = 0x0, version = 0x4, device_id = 0x8, device_features = 0x10, device_features_sel = 0x14, driver_features = 0x20,
    driver_features_sel = 0x24, queue_sel = 0x30, queue_num_max = 0x34, queue_num = 0x38, queue_ready = 0x44, queue_notify = 0x50,
    interrupt_status = 0x60, interrupt_ack = 0x64, status = 0x70, queue_desc_low = 0x80, queue_desc_high = 0x84, queue_driver_low = 0x90,
    queue_driver_high = 0x94, queue_device_low = 0xa0, queue_device_high = 0xa4, config = 0x100
};

template <class T>
T peek(u64 address) { return *reinterpret_cast<volatile T*>(address); }
template <class T>
void poke(u64 address, u64 value) { *reinterpret_cast<volatile T*>(address) = static_cast<T>(value); }

// A PCI function's BAR, a page each: common configuration (4.1.4.3), ISR, device configuration, notifications, MSI-X.
constexpr u64 pci_isr = 0x1000, pci_config = 0x2000, pci_notify = 0x3000, pci_table = 0x4000;

struct Device {
    u64 base = 0;
    u32 kind = 0;
    bool is_pci = false;

    // The registers of PCI by the names of MMIO's, so that one driver serves both.
    u32 read(u32 at) const {
        if (!is_pci) return peek<u32>(base + at);
        switch (at) {
            case device_features: return peek<u32>(base + 0x04);
            case queue_num_max: return peek<u16>(base + 0x18);
            case queue_ready: return peek<u16>(base + 0x1c);
            case status: return peek<u8>(base + 0x14);
            case interrupt_status: return peek<u8>(base + pci_isr);
            default: return at >= config ? peek<u32>(base + pci_config + at - config) : 0;
        }
    }
    void write(u32 at, u32 value) const {
        if (!is_pci) return poke<u32>(base + at, value);
        switch (at) {
            case device_features_sel: return poke<u32>(base + 0x00, value);
            case driver_features_sel: return poke<u32>(base + 0x08, value);
            case driver_features: return poke<u32>(base + 0x0c, value);
            case queue_sel: return poke<u16>(base + 0x16, value);
            case queue_num: return poke<u16>(base + 0x18, value);
            case queue_ready: return poke<u16>(base + 0x1c, value);
            case queue_notify: return poke<u16>(base + pci_notify + 4 * (value & 0x3ffU), value);
            case status: return poke<u8>(base + 0x14, value);
            case queue_desc_low: return poke<u32>(base + 0x20, value);
            case queue_desc_high: return poke<u32>(base + 0x24, value);
            case queue_driver_low: return poke<u32>(base + 0x28, value);
            case queue_driver_high: return poke<u32>(base + 0x2c, value);
            case queue_device_low: return poke<u32>(base + 0x30, value);
            case queue_device_high: return poke<u32>(base + 0x34, value);
            default: return;
        }
    }
};

Device devices[16];
u32 device_count = 0;

// Configuration spaces of all functions, and what the firmware (our monitor) wrote there.
struct Function {
    u64 space;
    u32 command, bar, buses, window;
};
Function functions[96];
u32 function_count = 0;

void find_functions() {
    constexpr u64 ecam = 0xe0000000;
    for (u64 at = 0; at < 256 && function_count < 48; ++at) {
        u64 space = ecam + (at << 12U);
        if (peek<u32>(space) == 0xffffffff) continue;
        functions[function_count++].space = space;
        if ((peek<u8>(space + 0x0e) & 0x7fU) != 1) continue;
        u64 behind = ecam + (u64{peek<u8>(space + 0x19)} << 20U);
        if (peek<u32>(behind) != 0xffffffff) functions[function_count++].space = behind;
    }
    for (u32 i = 0; i < function_count; ++i) {
        Function& f = functions[i];
        f.command = peek<u32>(f.space + 4);
        f.bar = peek<u32>(f.space + 0x10);
        f.buses = peek<u32>(f.space + 0x18);
        f.window = peek<u32>(f.space + 0x20);
        u32 id = peek<u32>(f.space);
        if ((id & 0xffffU) != 0x1af4 || device_count == 16) continue;
        devices[device_count++] = {.base = f.bar & ~0xfU, .kind = (id >> 16U) - 0x1040, .is_pci = true};
    }
}

constexpr u32 queue_size = 16;
struct Descriptor {
    u64 address;
    u32 length;
    u16 flags;
    u16 next;
};
struct Available {
    u16 flags;
    u16 index;
    u16 ring[queue_size];
    u16 event;
};
struct Used {
    u16 flags;
    u16 index;
    struct {
        u32 id;
        u32 length;
    } ring[queue_size];
    u16 event;
};
struct Queue {
    alignas(4096) Descriptor table[queue_size];
    alignas(4096) Available available;
    alignas(4096) Used used;
};
alignas(4096) Queue queues[8];
alignas(4096) u8 buffers[16][4096];

constexpr u16 has_next = 1;
constexpr u16 device_writes = 2;
constexpr u16 indirect = 4;

void set_queue(const Device& device, u32 index, u64 table, u64 available, u64 used, u32 size) {
    device.write(queue_sel, index);
    device.write(queue_num, size);
    device.write(queue_desc_low, static_cast<u32>(table));
    device.write(queue_desc_high, static_cast<u32>(table >> 32U));
    device.write(queue_driver_low, static_cast<u32>(available));
    device.write(queue_driver_high, static_cast<u32>(available >> 32U));
    device.write(queue_device_low, static_cast<u32>(used));
    device.write(queue_device_high, static_cast<u32>(used >> 32U));
    device.write(queue_ready, 1);
}

u32 count_queues(const Device& device) {
    u32 count = 0;
    for (; count < 8; ++count) {
        device.write(queue_sel, count);
        if (device.read(queue_num_max) == 0) break;
    }
    return count;
}

// As a driver does it (3.1.1): reset, acknowledge, features, queues, go. `extra` are feature bits 0 to 31 to accept.
bool bring_up(const Device& device, u32 extra = 0) {
    device.write(status, 0);
    device.write(status, 1);
    device.write(status, 3);
    device.write(device_features_sel, 0);
    u32 offered = device.read(device_features);
    device.write(driver_features_sel, 0);
    device.write(driver_features, offered & extra);
    device.write(driver_features_sel, 1);
    device.write(driver_features, 1);  // VIRTIO_F_VERSION_1
    device.write(status, 11);
    if ((device.read(status) & 8U) == 0) return false;
    u32 count = count_queues(device);
    for (u32 i = 0; i < count; ++i) {
        // Not the whole pages: an interpreted guest pays for each byte.
        memset(queues[i].table, 0, sizeof queues[i].table);
        memset(&queues[i].available, 0, sizeof queues[i].available);
        memset(&queues[i].used, 0, sizeof queues[i].used);
        set_queue(device, i, reinterpret_cast<u64>(queues[i].table), reinterpret_cast<u64>(&queues[i].available),
                  reinterpret_cast<u64>(&queues[i].used), queue_size);
    }
    device.write(status, 15);
    return true;
}

const Device* find(u32 kind) {
    for (u32 i = 0; i < device_count; ++i)
        if (devices[i].kind == kind) return &devices[i];
    return nullptr;
}

void offer(const Device& device, u32 queue, u16 head) {
    Queue& q = queues[queue];
    auto* index = &q.available.index;
    q.available.ring[*static_cast<volatile u16*>(index) % queue_size] = head;
    asm volatile("" ::: "memory");
    *static_cast<volatile u16*>(index) = static_cast<u16>(*index + 1);
    asm volatile("" ::: "memory");
    device.write(queue_notify, queue);
}

bool wait_used(u32 queue, u16 until, u64 tries = 2000000) {
    auto* index = static_cast<volatile u16*>(&queues[queue].used.index);
    for (u64 i = 0; i < tries; ++i) {
        if (*index == until) return true;
        // An exit, so that a monitor on the same processor gets its turn.
        (void)in8(0x3f8 + 5);
    }
    return false;
}

struct BlockHeader {
    u32 type;
    u32 reserved;
    u64 sector;
};

// One block request of three descriptors; the device's verdict, 255 when there was no answer.
u8 block_request(const Device& device, u32 type, u64 sector, u8* data, u32 length) {
    auto* header = reinterpret_cast<BlockHeader*>(buffers[14]);
    *header = {type, 0, sector};
    u8* verdict = buffers[15];
    *verdict = 254;
    Queue& q = queues[0];
    bool reads = type == 0 || type == 8;
    q.table[0] = {reinterpret_cast<u64>(header), sizeof *header, has_next, 1};
    q.table[1] = {reinterpret_cast<u64>(data), length, static_cast<u16>(has_next | (reads ? device_writes : 0)), 2};
    q.table[2] = {reinterpret_cast<u64>(verdict), 1, device_writes, 0};
    u16 before = *static_cast<volatile u16*>(&q.used.index);
    offer(device, 0, 0);
    if (!wait_used(0, static_cast<u16>(before + 1))) return 255;
    return *static_cast<volatile u8*>(verdict);
}

void test_block(bool writing) {
    const Device* block = find(2);
    if (block == nullptr || !bring_up(*block)) return print("no block device\n");
    if (writing) {
        for (u32 i = 0; i < 1024; ++i) buffers[0][i] = static_cast<u8>('a' + i % 26);
        print("write ");
        print_number(block_request(*block, 1, 2, buffers[0], 1024));
        print("\nflush ");
        print_number(block_request(*block, 4, 0, buffers[0], 0));
        print("\n");
    }
    memset(buffers[1], 0, 64);
    print("read ");
    print_number(block_request(*block, 0, writing ? 2 : 0, buffers[1], 512));
    print("\ndata ");
    buffers[1][26] = 0;
    print(reinterpret_cast<const char*>(buffers[1]));
    print("\npast the end ");
    print_number(block_request(*block, 0, u64{1} << 60U, buffers[1], 512));
    print("\nunknown ");
    print_number(block_request(*block, 77, 0, buffers[1], 512));
    print("\n");
}

u64 read_config64(const Device& device, u32 at) {
    return device.read(config + at) | static_cast<u64>(device.read(config + at + 4)) << 32U;
}

// One request of two descriptors to queue 0; the first word of the answer, 255 when there was none.
u32 simple_request(const Device& device, const void* request, u32 request_bytes, u32 answer_bytes, u64 answer_at = 0) {
    Queue& q = queues[0];
    if (answer_at == 0) answer_at = reinterpret_cast<u64>(buffers[15]);
    memcpy(buffers[14], request, request_bytes);
    memset(buffers[15], 0xee, 16);
    q.table[0] = {reinterpret_cast<u64>(buffers[14]), request_bytes, has_next, 1};
    q.table[1] = {answer_at, answer_bytes, device_writes, 0};
    u16 before = *static_cast<volatile u16*>(&q.used.index);
    offer(device, 0, 0);
    if (!wait_used(0, static_cast<u16>(before + 1), 20000)) return 255;
    return *reinterpret_cast<volatile u16*>(buffers[15]);
}

void print_result(const char* what, u64 value) {
    print(what);
    print(" ");
    print_number(value);
    print("\n");
}

// Windows: what is read and written there is the file.
void test_pmem() {
    u32 seen = 0;
    for (u32 i = 0; i < device_count; ++i) {
        if (devices[i].kind != 27 || !bring_up(devices[i])) continue;
        u64 start = read_config64(devices[i], 0);
        map_high(start & ~((u64{1} << 30U) - 1));
        auto* window = reinterpret_cast<volatile u8*>(start);
        print("window ");
        for (u32 k = 0; k < 5; ++k) {
            char text[2] = {static_cast<char>(window[k]), 0};
            print(text);
        }
        print("\n");
        window[0] = static_cast<u8>('A' + seen);
        print_result("after writing", window[0]);
        u32 flush = 0;
        print_result("flush", simple_request(devices[i], &flush, 4, 4));
        flush = 9;
        print_result("unknown", simple_request(devices[i], &flush, 4, 4));
        ++seen;
    }
}

struct MemoryRequest {
    u16 type;
    u16 padding[3];
    u64 address;
    u16 blocks;
    u16 more_padding[3];
};

// Plugs when the host allows it, uses the memory, gives it back, and touches it all the same.
void test_memory() {
    test_pmem();
    const Device* memory = find(24);
    if (memory == nullptr) return;
    print(bring_up(*memory, 0) && (memory->read(status) & 0x40U) != 0 ? "an old driver is refused\n" : "an old driver works\n");
    if (!bring_up(*memory, 2)) return print("no memory device\n");
    u64 block = read_config64(*memory, 0), start = read_config64(*memory, 16);
    map_high(start);
    auto ask = [&](u16 type, u64 address, u16 blocks) {
        MemoryRequest request = {type, {}, address, blocks, {}};
        return simple_request(*memory, &request, sizeof request, 16);
    };
    print_result("too early", ask(0, start, 1));
    print("ready to plug\n");
    while (read_config64(*memory, 48) == 0) (void)in8(0x3f8 + 5);
    print_result("plug", ask(0, start, 2));
    print_result("outside", ask(0, start + read_config64(*memory, 24), 1));
    auto* bytes = reinterpret_cast<volatile u64*>(start);
    print_result("fresh", bytes[100]);
    bytes[100] = 42;
    print_result("used", bytes[100]);
    print_result("unplug", ask(1, start, 1));
    // A device must not reach it either: the answer to this request would lie there.
    MemoryRequest request = {3, {}, start, 1, {}};
    print_result("answer into it", simple_request(*memory, &request, sizeof request, 16, start + 64));
    print_result("needs reset", (memory->read(status) & 0x40U) != 0 ? 1 : 0);
    print_result("the other block", bytes[block / 8]);
    print("touching it\n");
    print_result("it says", bytes[100]);
}

// Addresses that no driver gives: outside of memory, over its end, in the gap, wrapping around.
u64 wild_address() {
    constexpr u64 places[] = {0, 0xffffffffffffffff, 0xfffffffffffff000, 0x8000000000000000, 0xd0000000, 0xc0000000, 0xfee00000,
                              0xfffffff0, 0x100000000, 0x3ffffff8, 0x7fff000, 0x8000000, 0x7ffffff};
    u64 choice = random() % 16;
    if (choice < sizeof places / sizeof *places) return places[choice];
    if (choice == 13) return random();
    return reinterpret_cast<u64>(buffers[random() % 16]) + random() % 4096;
}
u32 wild_length() {
    constexpr u32 lengths[] = {0, 1, 12, 15, 16, 17, 512, 4095, 4096, 0xffffffff, 0x80000000, 0x7fffffff};
    u64 choice = random() % 16;
    if (choice < sizeof lengths / sizeof *lengths) return lengths[choice];
    return static_cast<u32>(random() % 8192);
}

void wild_table(Descriptor* table, u32 count) {
    for (u32 i = 0; i < count; ++i)
        table[i] = {random() % 3 == 0 ? wild_address() : reinterpret_cast<u64>(buffers[random() % 14]), wild_length(),
                    static_cast<u16>(random() % 4 == 0 ? random() : random() % 8), static_cast<u16>(random() % 5 == 0 ? random() : random() % count)};
}

// Garbage in every ring of every device, changed while the device reads it.
void test_fuzz(u64 rounds) {
    for (u64 round = 0; round < rounds; ++round) {
        for (u32 i = 0; i < device_count; ++i) {
            const Device& device = devices[i];
            if (!bring_up(device, static_cast<u32>(random()))) continue;
            u32 count = count_queues(device);
            if (count == 0) continue;
            for (u32 k = 0; k < 24; ++k) {
                u32 queue = static_cast<u32>(random() % count);
                Queue& q = queues[queue];
                wild_table(q.table, queue_size);
                // Some of the buffers are tables themselves, for indirect descriptors.
                wild_table(reinterpret_cast<Descriptor*>(buffers[random() % 14]), 8);
                // Now and then a header that is nearly right.
                auto* header = reinterpret_cast<BlockHeader*>(buffers[random() % 14]);
                *header = {static_cast<u32>(random() % 16), 0, random() % 3 == 0 ? random() : random() % 64};
                for (auto& entry : q.available.ring) entry = static_cast<u16>(random() % 6 == 0 ? random() : random() % queue_size);
                u16 step = static_cast<u16>(random() % 8 == 0 ? random() : 1 + random() % 4);
                asm volatile("" ::: "memory");
                *static_cast<volatile u16*>(&q.available.index) = static_cast<u16>(q.available.index + step);
                device.write(queue_notify, queue);
                // What was checked is something else by the time it is used.
                for (u32 n = 0; n < 8; ++n) {
                    auto* descriptor = static_cast<volatile Descriptor*>(&q.table[random() % queue_size]);
                    descriptor->address = wild_address();
                    descriptor->length = wild_length();
                    descriptor->flags = static_cast<u16>(random());
                }
                if ((device.read(status) & 0x40U) != 0) break;  // DEVICE_NEEDS_RESET: a fair answer
            }
            device.write(status, 0);
        }
    }
    print("fuzzed ");
    print_number(rounds);
    print("\n");
}

// Every register in every state, at every width; queues in impossible places.
void test_registers(u64 rounds) {
    for (u64 round = 0; round < rounds; ++round) {
        for (u32 i = 0; i < device_count; ++i) {
            const Device& device = devices[i];
            for (u32 k = 0; k < 64; ++k) {
                u32 at = static_cast<u32>(random() % 2 == 0 ? random() % 0x120 : random() % (device.is_pci ? 0x5000 : 0x1000));
                u32 value = static_cast<u32>(random() % 3 == 0 ? random() : random() % 20);
                switch (random() % 7) {
                    case 0: *reinterpret_cast<volatile u8*>(device.base + at) = static_cast<u8>(value); break;
                    case 1: *reinterpret_cast<volatile u16*>(device.base + (at & 0xffeU)) = static_cast<u16>(value); break;
                    case 2: *reinterpret_cast<volatile u64*>(device.base + (at & 0xff8U)) = random(); break;
                    case 3: (void)*reinterpret_cast<volatile u8*>(device.base + at); break;
                    case 4: (void)*reinterpret_cast<volatile u64*>(device.base + (at & 0xff8U)); break;
                    case 5: set_queue(device, value % 5, wild_address(), wild_address(), wild_address(), wild_length()); break;
                    default: device.write(at & 0xffcU, value); break;
                }
            }
            device.write(status, 0);
        }
    }
    // After all that a reset makes a working device of it.
    const Device* block = find(2);
    if (block != nullptr && bring_up(*block)) {
        print("afterwards ");
        print_number(block_request(*block, 0, 0, buffers[1], 512));
        print("\n");
    }
}

// Garbage in configuration spaces and vectors, BARs and buses where none may be, while a driver works; then all as it was.
void test_pci(u64 rounds) {
    const Device* block = find(2);
    if (block == nullptr) return print("no block device\n");
    for (u64 round = 0; round < rounds; ++round) {
        (void)bring_up(*block);
        for (u32 k = 0; k < 400; ++k) {
            const Function& f = functions[random() % function_count];
            u32 at = static_cast<u32>(random() % 2 == 0 ? random() % 0x40 : random() % (random() % 4 == 0 ? 0xff8 : 0x100));
            switch (random() % 10) {
                case 0: poke<u8>(f.space + at, random()); break;
                case 1: poke<u16>(f.space + at, random()); break;
                case 2: poke<u32>(f.space + (at & ~3U), random()); break;
                case 3: poke<u64>(f.space + (at & ~7U), random()); break;
                case 4: (void)peek<u32>(f.space + (at & ~3U)); (void)peek<u64>(f.space + (at & ~7U)); break;
                case 5: poke<u32>(f.space + 0x10, random() % 2 == 0 ? wild_address() : 0xd0000000 + random() % 64 * 0x4000); break;
                case 6: out32(0xcf8, static_cast<u32>(random() | 0x80000000)); (void)in32(0xcfc); out32(0xcfc, static_cast<u32>(random())); break;
                // Vectors of every number, in the table and behind it; the interrupt itself is one that nobody takes.
                case 7: poke<u16>(f.space + 0x7e, 0x8000 | (random() % 2 << 14U)); break;
                case 8: {
                    u64 entry = block->base + pci_table + random() % 300 * 16;
                    poke<u32>(entry, random() % 2 == 0 ? 0xfee00000 : wild_address());
                    poke<u32>(entry + 8, random() % 256);
                    poke<u32>(entry + 12, random() % 2);
                    poke<u16>(block->base + (random() % 2 == 0 ? 0x10 : 0x1a), random() % 4 == 0 ? random() : random() % 3);
                    break;
                }
                default:
                    *reinterpret_cast<BlockHeader*>(buffers[14]) = {0, 0, random() % 64};
                    queues[0].table[0] = {reinterpret_cast<u64>(buffers[14]), 16, has_next, 1};
                    queues[0].table[1] = {reinterpret_cast<u64>(buffers[0]), 512, has_next | device_writes, 2};
                    queues[0].table[2] = {reinterpret_cast<u64>(buffers[15]), 1, device_writes, 0};
                    offer(*block, 0, 0);
                    break;
            }
        }
        for (u32 i = 0; i < function_count; ++i) {
            const Function& f = functions[i];
            poke<u32>(f.space + 0x10, f.bar);
            poke<u32>(f.space + 0x18, f.buses);
            poke<u32>(f.space + 0x20, f.window);
            poke<u32>(f.space + 4, f.command);
        }
        // Functions that were behind buses of other numbers meanwhile.
        for (u32 i = 0; i < function_count; ++i) {
            const Function& f = functions[i];
            if (peek<u16>(f.space) == 0x1af4) poke<u16>(f.space + 0x7e, 0);
            poke<u32>(f.space + 0x10, f.bar);
            poke<u32>(f.space + 4, f.command);
        }
        block->write(status, 0);
        if (!bring_up(*block) || block_request(*block, 0, 0, buffers[1], 512) != 0) return print("broken\n");
    }
    print("afterwards 0\n");
}

// A good chain of three descriptors in a queue, made bad in the way of a scenario; the head to offer.
constexpr u32 scenario_count = 16;
u16 bad_chain(Queue& q, u32 scenario) {
    u64 header = reinterpret_cast<u64>(buffers[14]);
    u64 data = reinterpret_cast<u64>(buffers[0]);
    *reinterpret_cast<BlockHeader*>(buffers[14]) = {0, 0, 0};
    q.table[0] = {header, 16, has_next, 1};
    q.table[1] = {data, 512, has_next | device_writes, 2};
    q.table[2] = {reinterpret_cast<u64>(buffers[15]), 1, device_writes, 0};
    switch (scenario) {
        case 0: q.table[0].next = 0; break;                                        // a loop of one
        case 1: q.table[2].flags = has_next | device_writes; q.table[2].next = 1; break;  // a loop of two
        case 2: q.table[1].address = ~u64{0} - 100; break;                         // wraps around
        case 3: q.table[1].address = 0xd0000000; break;                            // a device's registers
        case 4: q.table[1].length = 0xffffffff; break;
        case 5: q.table[2].flags = 0; break;                                       // nowhere to answer to
        case 6: q.table[0].length = 3; break;                                      // half a header
        case 7: q.table[0].flags = 0; break;                                       // a header alone
        case 8: q.table[0].next = 999; break;                                      // out of the table
        case 9: return 999;
        case 10: q.table[0] = {data, 0xfffffff0, indirect, 0}; break;
        case 11: q.table[0] = {~u64{0} - 15, 64, indirect, 0}; break;
        case 12: q.table[0].address = 0x7fffff8; break;                            // over the end of 128 MiB
        case 13: q.table[1].length = 0; break;
        case 14: q.table[2].length = 0; break;
        default: *static_cast<volatile u16*>(&q.available.index) = 5000; break;    // more than the ring holds
    }
    return 0;
}

// The known bad chains, one at a time, in every queue of every device, each after a fresh start; the device may refuse or ask
// for a reset, and comes up again after one; the disk still reads after each.
void test_scenarios() {
    const Device* block = find(2);
    if (block == nullptr) return print("no block device\n");
    for (u32 i = 0; i < device_count; ++i) {
        const Device& device = devices[i];
        u32 count = count_queues(device);
        for (u32 queue = 0; queue < count; ++queue) {
            for (u32 scenario = 0; scenario < scenario_count; ++scenario) {
                if (!bring_up(device)) return print("does not come up\n");
                u16 head = bad_chain(queues[queue], scenario);
                offer(device, queue, head);
                (void)wait_used(queue, 1, 100);
                device.write(status, 0);
                if (!bring_up(device)) return print("does not come up again\n");
                device.write(status, 0);
            }
        }
        if (!bring_up(*block) || block_request(*block, 0, 0, buffers[0], 512) != 0) {
            print("broken by device ");
            print_number(device.kind);
            print("\n");
            return;
        }
        block->write(status, 0);
    }
    print("scenarios passed\n");
}

// What a snapshot must not lose: memory, registers, the disk's queue, what was typed.
constexpr u64 pattern_pages = 16;
alignas(4096) u64 pattern[pattern_pages][512];
u64 counted = 0;
u64 changed = 0;

// One word a page: an interpreted guest pays for each.
bool pattern_is_right() {
    for (u64 page = 0; page < pattern_pages; ++page) {
        u64 expected = page * 0x9e3779b97f4a7c15 + (page == changed % pattern_pages ? changed : 0);
        if (page == changed % pattern_pages && static_cast<volatile u64*>(pattern[page])[7] != expected) return false;
        if (page != changed % pattern_pages && static_cast<volatile u64*>(pattern[page])[9] != page) return false;
    }
    return true;
}

void test_obey() {
    for (u64 page = 0; page < pattern_pages; ++page) {
        pattern[page][7] = page * 0x9e3779b97f4a7c15;
        pattern[page][9] = page;
    }
    const Device* block = find(2);
    if (block != nullptr && !bring_up(*block)) return print("does not come up\n");
    print("waiting\n");
    while (true) {
        if ((in8(0x3f8 + 5) & 1U) == 0) continue;
        u8 letter = in8(0x3f8);
        switch (letter) {
            case 'c':
                print("count ");
                print_number(++counted);
                print(pattern_is_right() ? " right\n" : " wrong\n");
                break;
            case 'd': {
                ++changed;
                u64 page = changed % pattern_pages;
                pattern[page][7] = page * 0x9e3779b97f4a7c15 + changed;
                print("changed ");
                print_number(changed);
                print("\n");
                break;
            }
            case 'b':
                memset(buffers[1], 0, 64);
                print("read ");
                print_number(block_request(*block, 0, 0, buffers[1], 512));
                buffers[1][26] = 0;
                print(" ");
                print(reinterpret_cast<const char*>(buffers[1]));
                print("\n");
                break;
            case 'w':
                for (u32 i = 0; i < 512; ++i) buffers[0][i] = static_cast<u8>('A' + i % 26);
                print("write ");
                print_number(block_request(*block, 1, 1, buffers[0], 512));
                print("\n");
                break;
            case 'q': return;
            default: break;
        }
    }
}

}  // namespace

extern "C" [[noreturn]] void run(const u8* boot_parameters) {
    map_everything();
    const char* line = reinterpret_cast<const char*>(static_cast<u64>(*reinterpret_cast<const u32*>(boot_parameters + 0x228)));
    char test = 0;
    u64 rounds = 10;
    for (const char* at = line; *at != 0; ++at) {
        if (starts(at, "test=")) test = at[5] == 'r' && at[7] == 'g' ? 'g' : at[5];
        if (starts(at, "seed=")) state = number(at + 5) * 0x9e3779b97f4a7c15 + 1;
        if (starts(at, "rounds=")) rounds = number(at + 7);
        if (starts(at, "virtio_mmio.device=") && device_count < 16) {
            const char* address = at;
            while (*address != '@' && *address != 0) ++address;
            if (*address == '@') devices[device_count++].base = number(address + 1);
        }
    }
    for (u32 i = 0; i < device_count; ++i) {
        if (devices[i].read(magic) != 0x74726976 || devices[i].read(version) != 2) print("no virtio device\n");
        devices[i].kind = devices[i].read(device_id);
    }
    if (device_count == 0) find_functions();
    print("devices ");
    print_number(device_count);
    print("\n");
    switch (test) {
        case 'r': test_block(false); break;
        case 'w': test_block(true); break;
        case 'f': test_fuzz(rounds); break;
        case 'g': test_registers(rounds); break;
        case 's': test_scenarios(); break;
        case 'p': test_pci(rounds); break;
        case 'o': test_obey(); break;
        case 'm': test_memory(); break;
        default: print("no test\n"); break;
    }
    end();
}

// The protocol's entry: RSI points to the boot parameters; a stack of our own.
asm(R"(
.section .text.start,"ax"
.global start
start:
    cli
    cld
    lea stack_end(%rip), %rsp
    mov %rsi, %rdi
    call run
.bss
.align 16
    .skip 16384
stack_end:
)");
