#include "dns/steering/geography.hpp"

#include <maxminddb.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <vector>

namespace wherry::dns::steering {

struct Geography::Database {
    MMDB_s handle{};
    bool open = false;
    ~Database() {
        if (open) MMDB_close(&handle);
    }
    Database() = default;
    Database(const Database&) = delete;
    Database& operator=(const Database&) = delete;
};

double distance_km(std::pair<double, double> one, std::pair<double, double> other) {
    constexpr double earth_radius = 6371;
    auto radians = [](double degrees) { return degrees * std::numbers::pi / 180; };
    double north = radians(other.first - one.first);
    double east = radians(other.second - one.second);
    double haversine = std::pow(std::sin(north / 2), 2) +
                       std::cos(radians(one.first)) * std::cos(radians(other.first)) * std::pow(std::sin(east / 2), 2);
    return 2 * earth_radius * std::asin(std::sqrt(std::min(1.0, haversine)));
}

Geography::Geography(std::unique_ptr<Database> database) : database_(std::move(database)) {}
Geography::~Geography() = default;

Result<std::unique_ptr<Geography>> Geography::open(const std::string& path) {
    auto database = std::make_unique<Database>();
    int status = MMDB_open(path.c_str(), MMDB_MODE_MMAP, &database->handle);
    if (status != MMDB_SUCCESS) return fail(Code::invalid_argument, path + ": " + MMDB_strerror(status));
    database->open = true;
    return std::unique_ptr<Geography>(new Geography(std::move(database)));
}

std::optional<std::pair<double, double>> Geography::locate(const Prefix& prefix) const {
    sockaddr_storage storage{};
    // SAFETY: sockaddr_storage is made for holding either.
    if (prefix.ipv6) {
        auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
        v6->sin6_family = AF_INET6;
        std::copy_n(prefix.bytes.begin(), 16, reinterpret_cast<std::uint8_t*>(&v6->sin6_addr));
    } else {
        auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
        v4->sin_family = AF_INET;
        std::copy_n(prefix.bytes.begin(), 4, reinterpret_cast<std::uint8_t*>(&v4->sin_addr));
    }
    int problem = 0;
    // SAFETY: as above. The library takes the handle without const, and only reads it.
    MMDB_lookup_result_s found =
        MMDB_lookup_sockaddr(&database_->handle, reinterpret_cast<const sockaddr*>(&storage), &problem);
    if (problem != MMDB_SUCCESS || !found.found_entry) return std::nullopt;
    auto degrees = [&](const char* member) -> std::optional<double> {
        MMDB_entry_data_s data{};
        if (MMDB_get_value(&found.entry, &data, "location", member, nullptr) != MMDB_SUCCESS || !data.has_data ||
            data.type != MMDB_DATA_TYPE_DOUBLE)
            return std::nullopt;
        return data.double_value;
    };
    auto north = degrees("latitude");
    auto east = degrees("longitude");
    if (!north || !east) return std::nullopt;
    return std::pair(*north, *east);
}

void Geography::each(const std::function<void(const Prefix&)>& visit) const {
    struct Frame {
        std::uint64_t node;
        std::array<std::uint8_t, 16> bytes;
        unsigned depth;
    };
    bool ipv6_tree = database_->handle.metadata.ip_version == 6;
    std::vector<Frame> open{{0, {}, 0}};
    std::size_t budget = 64U << 20U;  // a tree that loops ends
    while (!open.empty() && budget-- > 0) {
        Frame frame = open.back();
        open.pop_back();
        // IPv4 lies under ::/96 of an IPv6 tree; the other places that lead there (6to4 and the like) are aliases.
        bool below_ipv4 = ipv6_tree && std::all_of(frame.bytes.begin(), frame.bytes.begin() + 12,
                                                   [](std::uint8_t byte) { return byte == 0; });
        unsigned longest = !ipv6_tree ? cell_bits_ipv4 : below_ipv4 ? 96 + cell_bits_ipv4 : cell_bits_ipv6;
        auto report = [&](const std::array<std::uint8_t, 16>& bytes, unsigned depth) {
            if (!ipv6_tree)
                visit(Prefix::from_bytes(false, bytes.data(), depth));
            else if (below_ipv4 && depth >= 96)
                visit(Prefix::from_bytes(false, bytes.data() + 12, depth - 96));
            else if (!below_ipv4)
                visit(Prefix::from_bytes(true, bytes.data(), depth));
        };
        if (frame.depth >= longest) {
            report(frame.bytes, frame.depth);
            continue;
        }
        MMDB_search_node_s node{};
        if (MMDB_read_node(&database_->handle, static_cast<std::uint32_t>(frame.node), &node) != MMDB_SUCCESS) continue;
        for (unsigned side = 0; side < 2; ++side) {
            unsigned type = side == 0 ? node.left_record_type : node.right_record_type;
            std::array<std::uint8_t, 16> bytes = frame.bytes;
            if (side == 1)
                bytes[frame.depth / 8] = static_cast<std::uint8_t>(bytes[frame.depth / 8] | 0x80U >> frame.depth % 8);
            if (type == MMDB_RECORD_TYPE_SEARCH_NODE)
                open.push_back({side == 0 ? node.left_record : node.right_record, bytes, frame.depth + 1});
            else if (type == MMDB_RECORD_TYPE_DATA)
                report(bytes, frame.depth + 1);
        }
    }
}

std::function<std::optional<float>(const Prefix& cell, std::uint16_t site)> geographic_prior(
    const Geography& geography, std::vector<std::optional<std::pair<double, double>>> locations) {
    return
        [&geography, locations = std::move(locations)](const Prefix& cell, std::uint16_t site) -> std::optional<float> {
            if (site >= locations.size() || !locations[site]) return std::nullopt;
            auto place = geography.locate(cell);
            if (!place) return std::nullopt;
            return static_cast<float>(typical_rtt(distance_km(*place, *locations[site])));
        };
}

}  // namespace wherry::dns::steering
