// Reading the counters of a cgroup.
#include "confine/cgroup_statistics.hpp"

#include <unistd.h>

#include "confine/cgroup_internal.hpp"

namespace wherry::confine {
namespace {

using namespace cgroup_detail;

constexpr std::uint64_t ns_per_us = 1000;

// The text of a file, or nothing when the kernel has no such file. Counters are best effort: a file less is no error.
std::string text_of(int directory, const char* name) {
    if (directory < 0) return {};
    auto text = read_file_at(directory, name, 1U << 20U);
    return text ? std::move(*text) : std::string();
}

std::uint64_t counter_of(int directory, const char* name, std::uint64_t otherwise = 0) {
    return parse_counter(text_of(directory, name)).value_or(otherwise);
}

void read_throttling(std::string_view text, CpuStatistics& cpu, bool v1) {
    cpu.periods = find_counter(text, "nr_periods").value_or(0);
    cpu.throttled_periods = find_counter(text, "nr_throttled").value_or(0);
    cpu.throttled_ns = v1 ? find_counter(text, "throttled_time").value_or(0)
                          : find_counter(text, "throttled_usec").value_or(0) * ns_per_us;
}

void read_cpu_v1(int cpu, int cpuacct, CpuStatistics& out) {
    out.usage_ns = counter_of(cpuacct, "cpuacct.usage");
    // cpuacct.stat counts in ticks; these count in nanoseconds.
    out.user_ns = counter_of(cpuacct, "cpuacct.usage_user");
    out.system_ns = counter_of(cpuacct, "cpuacct.usage_sys");
    for (std::string_view part : split(trimmed(text_of(cpuacct, "cpuacct.usage_percpu")), ' '))
        out.per_cpu_ns.push_back(parse_counter(part).value_or(0));
    read_throttling(text_of(cpu, "cpu.stat"), out, true);
}

void read_cpu_v2(int directory, CpuStatistics& out) {
    std::string text = text_of(directory, "cpu.stat");
    out.usage_ns = find_counter(text, "usage_usec").value_or(0) * ns_per_us;
    out.user_ns = find_counter(text, "user_usec").value_or(0) * ns_per_us;
    out.system_ns = find_counter(text, "system_usec").value_or(0) * ns_per_us;
    read_throttling(text, out, false);
}

void read_memory_stat(std::string_view text, MemoryStatistics& out) {
    for (std::string_view line : split(text, '\n')) {
        auto blank = line.find(' ');
        if (blank == std::string_view::npos) continue;
        if (auto value = parse_counter(line.substr(blank + 1))) out.raw.emplace(line.substr(0, blank), *value);
    }
}

std::uint64_t raw(const MemoryStatistics& memory, const char* first, const char* second) {
    if (auto found = memory.raw.find(first); found != memory.raw.end()) return found->second;
    if (auto found = memory.raw.find(second); found != memory.raw.end()) return found->second;
    return 0;
}

void read_memory_v1(int directory, MemoryStatistics& out) {
    out.usage = counter_of(directory, "memory.usage_in_bytes");
    out.max_usage = counter_of(directory, "memory.max_usage_in_bytes");
    out.limit = counter_of(directory, "memory.limit_in_bytes", ~std::uint64_t{0});
    out.fail_count = counter_of(directory, "memory.failcnt");
    std::uint64_t both = counter_of(directory, "memory.memsw.usage_in_bytes");
    out.swap_usage = both > out.usage ? both - out.usage : 0;
    read_memory_stat(text_of(directory, "memory.stat"), out);
    out.cache = raw(out, "total_cache", "cache");
    out.rss = raw(out, "total_rss", "rss");
    out.inactive_file = raw(out, "total_inactive_file", "inactive_file");
    out.oom_kills = find_counter(text_of(directory, "memory.oom_control"), "oom_kill").value_or(0);
}

void read_memory_v2(int directory, MemoryStatistics& out) {
    out.usage = counter_of(directory, "memory.current");
    out.max_usage = counter_of(directory, "memory.peak");
    out.limit = counter_of(directory, "memory.max", ~std::uint64_t{0});
    out.swap_usage = counter_of(directory, "memory.swap.current");
    read_memory_stat(text_of(directory, "memory.stat"), out);
    out.cache = raw(out, "file", "file");
    out.rss = raw(out, "anon", "anon");
    out.inactive_file = raw(out, "inactive_file", "inactive_file");
    std::string events = text_of(directory, "memory.events");
    out.fail_count = find_counter(events, "max").value_or(0);
    out.oom_kills = find_counter(events, "oom_kill").value_or(0);
}

std::string lower(std::string_view text) {
    std::string out;
    for (char c : text) out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    return out;
}

bool parse_device(std::string_view text, BlockIoEntry& entry) {
    auto colon = text.find(':');
    if (colon == std::string_view::npos) return false;
    auto major = parse_counter(text.substr(0, colon));
    auto minor = parse_counter(text.substr(colon + 1));
    if (!major || !minor) return false;
    entry.major = *major;
    entry.minor = *minor;
    return true;
}

// "8:0 Read 123" lines; the last, "Total 123", is for all devices together.
void read_io_v1(std::string_view text, std::vector<BlockIoEntry>& out) {
    for (std::string_view line : split(text, '\n')) {
        auto parts = split(line, ' ');
        BlockIoEntry entry;
        if (parts.size() != 3 || !parse_device(parts[0], entry)) continue;
        entry.operation = lower(parts[1]);
        entry.value = parse_counter(parts[2]).value_or(0);
        out.push_back(std::move(entry));
    }
}

// "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6" lines.
void read_io_v2(std::string_view text, CgroupStatistics& out) {
    for (std::string_view line : split(text, '\n')) {
        auto parts = split(line, ' ');
        BlockIoEntry device;
        if (parts.empty() || !parse_device(parts[0], device)) continue;
        for (std::size_t i = 1; i < parts.size(); ++i) {
            auto equals = parts[i].find('=');
            if (equals == std::string_view::npos) continue;
            std::string_view key = parts[i].substr(0, equals);
            BlockIoEntry entry = device;
            entry.value = parse_counter(parts[i].substr(equals + 1)).value_or(0);
            entry.operation = key.starts_with('r') ? "read" : key.starts_with('w') ? "write" : "discard";
            if (key.ends_with("bytes"))
                out.io_bytes.push_back(std::move(entry));
            else if (key.ends_with("ios"))
                out.io_operations.push_back(std::move(entry));
        }
    }
}

}  // namespace

Result<CgroupStatistics> Cgroup::statistics() const {
    const State& state = *state_;
    int unified = state.unified();
    // The cgroup may have been removed since it was opened; then every file would quietly read as nothing.
    int any = unified >= 0 ? unified : state.first_v1();
    if (any < 0 || !exists_at(any, "cgroup.procs")) return fail(Code::not_found, "no cgroup " + path());
    CgroupStatistics out;
    if (state.v1_with("cpuacct") >= 0)
        read_cpu_v1(state.v1_with("cpu"), state.v1_with("cpuacct"), out.cpu);
    else
        read_cpu_v2(unified, out.cpu);
    if (int memory = state.v1_with("memory"); memory >= 0) {
        read_memory_v1(memory, out.memory);
    } else {
        read_memory_v2(unified, out.memory);
        out.v2 = true;
    }
    int v1_pids = state.v1_with("pids");
    int pids = v1_pids >= 0 ? v1_pids : unified;
    out.pids_current = counter_of(pids, "pids.current");
    std::uint64_t limit = counter_of(pids, "pids.max");
    out.pids_limit = limit == ~std::uint64_t{0} ? 0 : limit;
    if (int io = state.v1_with("blkio"); io >= 0) {
        // The throttling layer counts for every scheduler; BFQ's own counters only where BFQ runs.
        read_io_v1(text_of(io, "blkio.throttle.io_service_bytes_recursive"), out.io_bytes);
        read_io_v1(text_of(io, "blkio.throttle.io_serviced_recursive"), out.io_operations);
    } else {
        read_io_v2(text_of(unified, "io.stat"), out);
    }
    return out;
}

}  // namespace wherry::confine
