#include "api/containerd/metrics.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

namespace wherry::api::containerd {

namespace {

// memory.stat's names by field number.
constexpr std::array<std::pair<std::uint32_t, std::string_view>, 32> memory_v1{{
    {1, "cache"},
    {2, "rss"},
    {3, "rss_huge"},
    {4, "mapped_file"},
    {5, "dirty"},
    {6, "writeback"},
    {7, "pgpgin"},
    {8, "pgpgout"},
    {9, "pgfault"},
    {10, "pgmajfault"},
    {11, "inactive_anon"},
    {12, "active_anon"},
    {13, "inactive_file"},
    {14, "active_file"},
    {15, "unevictable"},
    {16, "hierarchical_memory_limit"},
    {17, "hierarchical_memsw_limit"},
    {18, "total_cache"},
    {19, "total_rss"},
    {20, "total_rss_huge"},
    {21, "total_mapped_file"},
    {22, "total_dirty"},
    {23, "total_writeback"},
    {24, "total_pgpgin"},
    {25, "total_pgpgout"},
    {26, "total_pgfault"},
    {27, "total_pgmajfault"},
    {28, "total_inactive_anon"},
    {29, "total_active_anon"},
    {30, "total_inactive_file"},
    {31, "total_active_file"},
    {32, "total_unevictable"},
}};
constexpr std::array<std::pair<std::uint32_t, std::string_view>, 31> memory_v2{{
    {1, "anon"},
    {2, "file"},
    {3, "kernel_stack"},
    {4, "slab"},
    {5, "sock"},
    {6, "shmem"},
    {7, "file_mapped"},
    {8, "file_dirty"},
    {9, "file_writeback"},
    {10, "anon_thp"},
    {11, "inactive_anon"},
    {12, "active_anon"},
    {13, "inactive_file"},
    {14, "active_file"},
    {15, "unevictable"},
    {16, "slab_reclaimable"},
    {17, "slab_unreclaimable"},
    {18, "pgfault"},
    {19, "pgmajfault"},
    {20, "workingset_refault"},
    {21, "workingset_activate"},
    {22, "workingset_nodereclaim"},
    {23, "pgrefill"},
    {24, "pgscan"},
    {25, "pgsteal"},
    {26, "pgactivate"},
    {27, "pgdeactivate"},
    {28, "pglazyfree"},
    {29, "pglazyfreed"},
    {30, "thp_fault_alloc"},
    {31, "thp_collapse_alloc"},
}};

void put(WireWriter& writer, std::uint32_t number, std::uint64_t value) {
    if (value != 0) writer.varint(number, value);
}

template <class Table>
void put_memory_stat(WireWriter& writer, const Table& table, const std::map<std::string, std::uint64_t>& raw) {
    for (const auto& [number, name] : table) {
        if (auto found = raw.find(std::string(name)); found != raw.end()) put(writer, number, found->second);
    }
}

std::string pids_of(const confine::CgroupStatistics& statistics) {
    WireWriter pids;
    put(pids, 1, statistics.pids_current);
    put(pids, 2, statistics.pids_limit);
    return pids.take();
}

std::string memory_entry(std::uint64_t limit, std::uint64_t usage, std::uint64_t max, std::uint64_t fail_count) {
    WireWriter entry;
    put(entry, 1, limit);
    put(entry, 2, usage);
    put(entry, 3, max);
    put(entry, 4, fail_count);
    return entry.take();
}

// "Read" and "Write", as the kernel's files spell them and cAdvisor expects.
std::string capitalized(std::string word) {
    if (!word.empty() && word.front() >= 'a' && word.front() <= 'z')
        word.front() = static_cast<char>(word.front() - 'a' + 'A');
    return word;
}

void put_block_io(WireWriter& writer, std::uint32_t number, const std::vector<confine::BlockIoEntry>& entries) {
    for (const confine::BlockIoEntry& item : entries) {
        WireWriter entry;
        entry.bytes(1, capitalized(item.operation));
        put(entry, 3, item.major);
        put(entry, 4, item.minor);
        put(entry, 5, item.value);
        writer.bytes(number, entry.take());
    }
}

std::string encode_v1(const confine::CgroupStatistics& statistics) {
    WireWriter metrics;
    metrics.bytes(2, pids_of(statistics));

    WireWriter usage;
    put(usage, 1, statistics.cpu.usage_ns);
    put(usage, 2, statistics.cpu.system_ns);
    put(usage, 3, statistics.cpu.user_ns);
    if (!statistics.cpu.per_cpu_ns.empty()) {
        WireWriter per_cpu;
        for (std::uint64_t value : statistics.cpu.per_cpu_ns) per_cpu.raw_varint(value);
        usage.bytes(4, per_cpu.take());
    }
    WireWriter throttling;
    put(throttling, 1, statistics.cpu.periods);
    put(throttling, 2, statistics.cpu.throttled_periods);
    put(throttling, 3, statistics.cpu.throttled_ns);
    WireWriter cpu;
    cpu.bytes(1, usage.take());
    cpu.bytes(2, throttling.take());
    metrics.bytes(3, cpu.take());

    const confine::MemoryStatistics& counters = statistics.memory;
    WireWriter memory;
    put_memory_stat(memory, memory_v1, counters.raw);
    memory.bytes(33, memory_entry(counters.limit, counters.usage, counters.max_usage, counters.fail_count));
    memory.bytes(34, memory_entry(0, counters.swap_usage, 0, 0));
    metrics.bytes(4, memory.take());

    WireWriter block_io;
    put_block_io(block_io, 1, statistics.io_bytes);
    put_block_io(block_io, 2, statistics.io_operations);
    metrics.bytes(5, block_io.take());

    WireWriter oom;
    put(oom, 3, counters.oom_kills);
    metrics.bytes(9, oom.take());
    return metrics.take();
}

std::string encode_v2(const confine::CgroupStatistics& statistics) {
    WireWriter metrics;
    metrics.bytes(1, pids_of(statistics));

    WireWriter cpu;
    put(cpu, 1, statistics.cpu.usage_ns / 1000);
    put(cpu, 2, statistics.cpu.user_ns / 1000);
    put(cpu, 3, statistics.cpu.system_ns / 1000);
    put(cpu, 4, statistics.cpu.periods);
    put(cpu, 5, statistics.cpu.throttled_periods);
    put(cpu, 6, statistics.cpu.throttled_ns / 1000);
    metrics.bytes(2, cpu.take());

    const confine::MemoryStatistics& counters = statistics.memory;
    WireWriter memory;
    put_memory_stat(memory, memory_v2, counters.raw);
    put(memory, 32, counters.usage);
    put(memory, 33, counters.limit);
    put(memory, 34, counters.swap_usage);
    metrics.bytes(4, memory.take());

    // One entry a device: bytes and operations, read and written.
    struct Totals {
        std::uint64_t read_bytes = 0, write_bytes = 0, reads = 0, writes = 0;
    };
    std::map<std::pair<std::uint64_t, std::uint64_t>, Totals> devices;
    for (const confine::BlockIoEntry& item : statistics.io_bytes) {
        Totals& totals = devices[{item.major, item.minor}];
        if (item.operation == "read") totals.read_bytes = item.value;
        if (item.operation == "write") totals.write_bytes = item.value;
    }
    for (const confine::BlockIoEntry& item : statistics.io_operations) {
        Totals& totals = devices[{item.major, item.minor}];
        if (item.operation == "read") totals.reads = item.value;
        if (item.operation == "write") totals.writes = item.value;
    }
    WireWriter io;
    for (const auto& [device, totals] : devices) {
        WireWriter entry;
        put(entry, 1, device.first);
        put(entry, 2, device.second);
        put(entry, 3, totals.read_bytes);
        put(entry, 4, totals.write_bytes);
        put(entry, 5, totals.reads);
        put(entry, 6, totals.writes);
        io.bytes(1, entry.take());
    }
    metrics.bytes(6, io.take());

    WireWriter events;
    put(events, 3, counters.fail_count);
    put(events, 5, counters.oom_kills);
    metrics.bytes(8, events.take());
    return metrics.take();
}

}  // namespace

Any metrics_of(const confine::CgroupStatistics& statistics) {
    if (statistics.v2) return {std::string(metrics_v2_type), encode_v2(statistics)};
    return {std::string(metrics_v1_type), encode_v1(statistics)};
}

}  // namespace wherry::api::containerd
