// The partition table in front of a window made of many files: a GUID Partition Table (UEFI 2.10, section 5.3) with one
// partition a file, which Linux finds as /dev/pmem0p1, /dev/pmem0p2, ... Offsets are multiples of 2 MiB and lengths of
// 4 KiB, which is what DAX asks of a partition.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace wherry::vmm::pmem {

struct Partition {
    std::uint64_t offset = 0;  // bytes from the start of the window
    std::uint64_t bytes = 0;   // of the file; the partition is rounded up to whole pages
    std::string name;          // its label: the first 36 characters
};

// What Linux takes: one less than a disk may have minor numbers.
inline constexpr std::size_t most_partitions = 255;

struct PartitionTable {
    std::string head;  // at the start of the window
    std::string tail;  // so that it ends where the window ends
};
// Room for each copy of the table.
inline constexpr std::uint64_t table_bytes = 34U << 10U;

// Identifiers follow from `seed` and the partition's number: the same window is the same disk wherever it is mapped.
PartitionTable make_partition_table(const std::vector<Partition>& partitions, std::uint64_t window_bytes,
                                    std::string_view seed);

}  // namespace wherry::vmm::pmem
