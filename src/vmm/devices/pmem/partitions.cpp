#include "vmm/devices/pmem/partitions.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

namespace wherry::vmm::pmem {
namespace {

constexpr std::uint64_t sector_bytes = 512;
constexpr std::uint32_t entry_bytes = 128, entry_count = 256;
constexpr std::uint64_t entry_sectors = std::uint64_t{entry_bytes} * entry_count / sector_bytes;
constexpr std::size_t label_characters = 36;
static_assert(table_bytes >= (2 + entry_sectors) * sector_bytes);

using Guid = std::array<unsigned char, 16>;
// Linux file system data, as it lies on a disk.
constexpr Guid linux_data = {0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47,
                             0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4};

std::uint32_t crc32(std::string_view data) {
    std::uint32_t crc = 0xffffffff;
    for (const char c : data) {
        crc ^= static_cast<unsigned char>(c);
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1U) ^ ((crc & 1U) != 0 ? 0xedb88320U : 0U);
    }
    return ~crc;
}

// FNV-1a over the seed, mixed (splitmix64) for each number: distinct, not secret.
Guid identifier(std::string_view seed, std::uint64_t number) {
    std::uint64_t state = 0xcbf29ce484222325;
    for (const char c : seed) state = (state ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    state += number * 0x9e3779b97f4a7c15;
    Guid guid = {};
    for (std::size_t half = 0; half < guid.size(); half += 8) {
        state += 0x9e3779b97f4a7c15;
        std::uint64_t value = state;
        value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9;
        value = (value ^ (value >> 27U)) * 0x94d049bb133111eb;
        value ^= value >> 31U;
        std::memcpy(guid.data() + half, &value, sizeof value);
    }
    guid[7] = static_cast<unsigned char>((guid[7] & 0x0fU) | 0x80U);  // version 8: of our own making (RFC 9562)
    guid[8] = static_cast<unsigned char>((guid[8] & 0x3fU) | 0x80U);
    return guid;
}

template <class T>
void put(std::string& to, std::size_t at, const T& value) {
    std::memcpy(to.data() + at, &value, sizeof value);
}

std::string make_entries(const std::vector<Partition>& partitions, std::string_view seed) {
    std::string entries(std::size_t{entry_bytes} * entry_count, '\0');
    constexpr std::uint64_t read_only = 1ULL << 60U, no_automount = 1ULL << 63U;
    for (std::size_t i = 0; i < std::min(partitions.size(), most_partitions); ++i) {
        const Partition& partition = partitions[i];
        const std::size_t at = i * entry_bytes;
        const std::uint64_t pages = (partition.bytes + 4095) / 4096;
        put(entries, at, linux_data);
        put(entries, at + 16, identifier(seed, i + 1));
        put(entries, at + 32, partition.offset / sector_bytes);
        put(entries, at + 40, partition.offset / sector_bytes + pages * (4096 / sector_bytes) - 1);
        put(entries, at + 48, read_only | no_automount);
        for (std::size_t c = 0; c < std::min(partition.name.size(), label_characters); ++c) {
            const auto byte = static_cast<unsigned char>(partition.name[c]);
            put(entries, at + 56 + c * 2, static_cast<std::uint16_t>(byte > 0x20 && byte < 0x7f ? byte : '_'));
        }
    }
    return entries;
}

// Section 5.3.2. `lba` is where this copy lies, `other` where the second one does.
std::string make_header(std::uint64_t lba, std::uint64_t other, std::uint64_t entries_lba, std::uint64_t last_lba,
                        const std::string& entries, std::string_view seed) {
    constexpr std::uint32_t header_bytes = 92;
    std::string header(sector_bytes, '\0');
    std::memcpy(header.data(), "EFI PART", 8);
    put(header, 8, std::uint32_t{0x00010000});
    put(header, 12, header_bytes);
    put(header, 24, lba);
    put(header, 32, other);
    put(header, 40, 2 + entry_sectors);             // first and
    put(header, 48, last_lba - 1 - entry_sectors);  // last sector for partitions
    put(header, 56, identifier(seed, 0));
    put(header, 72, entries_lba);
    put(header, 80, entry_count);
    put(header, 84, entry_bytes);
    put(header, 88, crc32(entries));
    put(header, 16, crc32(std::string_view(header).substr(0, header_bytes)));
    return header;
}

// Section 5.2.3: one partition over everything, for those that know no other table.
std::string make_protective_record(std::uint64_t sectors) {
    std::string record(sector_bytes, '\0');
    constexpr std::size_t at = 446;
    put(record, at, std::array<unsigned char, 8>{0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff});
    put(record, at + 8, std::uint32_t{1});
    put(record, at + 12, static_cast<std::uint32_t>(std::min<std::uint64_t>(sectors - 1, UINT32_MAX)));
    put(record, 510, std::uint16_t{0xaa55});
    return record;
}

}  // namespace

PartitionTable make_partition_table(const std::vector<Partition>& partitions, std::uint64_t window_bytes,
                                    std::string_view seed) {
    const std::uint64_t sectors = window_bytes / sector_bytes, last = sectors - 1;
    const std::string entries = make_entries(partitions, seed);
    return {.head = make_protective_record(sectors) + make_header(1, last, 2, last, entries, seed) + entries,
            .tail = entries + make_header(last, 1, last - entry_sectors, last, entries, seed)};
}

}  // namespace wherry::vmm::pmem
