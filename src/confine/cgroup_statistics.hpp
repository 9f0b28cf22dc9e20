// Counters of a cgroup, in one shape for v1 and v2.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace wherry::confine {

struct CpuStatistics {
    std::uint64_t usage_ns = 0;
    std::uint64_t user_ns = 0;
    std::uint64_t system_ns = 0;
    std::vector<std::uint64_t> per_cpu_ns;  // v1 only
    std::uint64_t periods = 0;
    std::uint64_t throttled_periods = 0;
    std::uint64_t throttled_ns = 0;
};

struct MemoryStatistics {
    std::uint64_t usage = 0;          // bytes, page cache included
    std::uint64_t max_usage = 0;      // bytes
    std::uint64_t limit = 0;          // bytes; unlimited: the host's memory is the caller's to put here (~0 as read)
    std::uint64_t fail_count = 0;     // v1: failcnt; v2: events "max"
    std::uint64_t cache = 0;          // v1: cache; v2: file
    std::uint64_t rss = 0;            // v1: rss; v2: anon
    std::uint64_t inactive_file = 0;  // of this cgroup and below (v1: total_inactive_file)
    std::uint64_t swap_usage = 0;     // bytes of swap alone
    std::uint64_t oom_kills = 0;
    std::map<std::string, std::uint64_t> raw;  // memory.stat as it stands

    // What `docker stats` shows: usage without the inactive file cache.
    std::uint64_t working_set() const { return usage > inactive_file ? usage - inactive_file : 0; }
};

struct BlockIoEntry {
    std::uint64_t major = 0;
    std::uint64_t minor = 0;
    std::string operation;  // "read", "write", "sync", "async", "discard", "total"
    std::uint64_t value = 0;
};

struct CgroupStatistics {
    CpuStatistics cpu;
    MemoryStatistics memory;
    std::uint64_t pids_current = 0;
    std::uint64_t pids_limit = 0;  // 0: unlimited
    std::vector<BlockIoEntry> io_bytes;
    std::vector<BlockIoEntry> io_operations;
    bool v2 = false;  // where the memory controller is: consumers' raw names differ
};

}  // namespace wherry::confine
