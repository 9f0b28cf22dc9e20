// The bodies of PUT /snapshot/create and /snapshot/load.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"
#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm::api {

enum class SnapshotType : unsigned char { full, diff };

struct CreateSnapshot {
    SnapshotType type = SnapshotType::full;
    std::string snapshot_path;
    std::string memory_path;
};

enum class MemoryBackend : unsigned char { file, uffd };

// What takes the place of something in the snapshot.
struct NetworkOverride {
    std::string id;
    std::string host_dev_name;
};
struct DriveOverride {
    std::string id;
    std::string path;
};

struct LoadSnapshot {
    std::string snapshot_path;
    MemoryBackend backend = MemoryBackend::file;
    std::string backend_path;
    bool uses_deprecated = false;  // mem_file_path or enable_diff_snapshots
    bool track_dirty_pages = false;
    bool resume = false;
    bool clock_follows_host = false;
    std::optional<HugePages> huge_pages;
    std::vector<NetworkOverride> networks;
    std::vector<DriveOverride> drives;  // not in Firecracker
    std::optional<std::string> vsock_path;
};

Result<CreateSnapshot> parse_create_snapshot(const json::object& body);
Result<LoadSnapshot> parse_load_snapshot(const json::object& body);

}  // namespace wherry::vmm::api
