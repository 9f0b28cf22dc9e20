#include "confine/cgroup_resources.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace wherry::confine {
namespace {

bool number_at(std::string_view& text, std::uint64_t& out) {
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (error != std::errc{}) return false;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return true;
}

Result<> parse_access(DeviceRule& rule, std::string_view access, const std::string& where) {
    rule.read = rule.write = rule.make_node = false;
    for (char c : access) {
        switch (c) {
            case 'r':
                rule.read = true;
                break;
            case 'w':
                rule.write = true;
                break;
            case 'm':
                rule.make_node = true;
                break;
            default:
                return fail(Code::invalid_argument, where + ": device access is made of r, w and m");
        }
    }
    if (access.empty()) return fail(Code::invalid_argument, where + ": empty device access");
    return {};
}

Result<> parse_memory(const JsonReader& reader, MemoryResources& out) {
    out.limit = TRY(reader.integer("limit"));
    out.reservation = TRY(reader.integer("reservation"));
    out.swap = TRY(reader.integer("swap"));
    out.kernel = TRY(reader.integer("kernel"));
    out.kernel_tcp = TRY(reader.integer("kernelTCP"));
    out.swappiness = TRY(reader.unsigned_integer("swappiness"));
    if (out.swappiness && *out.swappiness > 100) return reader.wrong("swappiness", "0 to 100");
    out.disable_oom_killer = TRY(reader.boolean("disableOOMKiller"));
    out.use_hierarchy = TRY(reader.boolean("useHierarchy"));
    out.check_before_update = TRY(reader.boolean("checkBeforeUpdate"));
    return {};
}

Result<> parse_cpu(const JsonReader& reader, CpuResources& out) {
    out.shares = TRY(reader.unsigned_integer("shares"));
    out.quota_us = TRY(reader.integer("quota"));
    out.burst_us = TRY(reader.unsigned_integer("burst"));
    out.period_us = TRY(reader.unsigned_integer("period"));
    out.realtime_runtime_us = TRY(reader.integer("realtimeRuntime"));
    out.realtime_period_us = TRY(reader.unsigned_integer("realtimePeriod"));
    out.idle = TRY(reader.integer("idle"));
    if (out.idle && *out.idle != 0 && *out.idle != 1) return reader.wrong("idle", "0 or 1");
    out.cpus = TRY(reader.string_or("cpus", ""));
    out.mems = TRY(reader.string_or("mems", ""));
    TRY(validate_cpu_list(out.cpus), reader.path_of("cpus"));
    TRY(validate_cpu_list(out.mems), reader.path_of("mems"));
    return {};
}

Result<std::optional<std::uint16_t>> parse_weight(const JsonReader& reader, std::string_view key) {
    auto value = TRY(reader.unsigned_integer(key));
    if (!value) return std::nullopt;
    if (*value > 1000) return reader.wrong(key, "a weight from 10 to 1000");
    return static_cast<std::uint16_t>(*value);
}

Result<std::int64_t> parse_device_number(const JsonReader& reader, std::string_view key) {
    auto value = TRY(reader.integer(key));
    if (!value || *value < 0 || *value > UINT32_MAX) return reader.wrong(key, "a device number");
    return *value;
}

Result<> parse_throttles(const JsonReader& reader, std::string_view key, std::vector<BlockThrottle>& out) {
    for (const JsonReader& item : TRY(reader.children(key))) {
        BlockThrottle throttle;
        throttle.major = TRY(parse_device_number(item, "major"));
        throttle.minor = TRY(parse_device_number(item, "minor"));
        throttle.rate = TRY(item.unsigned_integer("rate")).value_or(0);
        out.push_back(throttle);
    }
    return {};
}

Result<> parse_block_io(const JsonReader& reader, BlockIoResources& out) {
    out.weight = TRY(parse_weight(reader, "weight"));
    out.leaf_weight = TRY(parse_weight(reader, "leafWeight"));
    for (const JsonReader& item : TRY(reader.children("weightDevice"))) {
        BlockDeviceWeight weight;
        weight.major = TRY(parse_device_number(item, "major"));
        weight.minor = TRY(parse_device_number(item, "minor"));
        weight.weight = TRY(parse_weight(item, "weight"));
        weight.leaf_weight = TRY(parse_weight(item, "leafWeight"));
        out.weight_device.push_back(weight);
    }
    TRY(parse_throttles(reader, "throttleReadBpsDevice", out.read_bps));
    TRY(parse_throttles(reader, "throttleWriteBpsDevice", out.write_bps));
    TRY(parse_throttles(reader, "throttleReadIOPSDevice", out.read_iops));
    TRY(parse_throttles(reader, "throttleWriteIOPSDevice", out.write_iops));
    return {};
}

// It becomes a word of a line that is written.
bool is_plain_name(std::string_view name, std::size_t longest) {
    return !name.empty() && name.size() <= longest &&
           std::ranges::all_of(name, [](char c) { return c > ' ' && c < 0x7f && c != '/' && c != '='; });
}

Result<std::optional<std::uint32_t>> parse_u32(const JsonReader& reader, std::string_view key) {
    auto value = TRY(reader.unsigned_integer(key));
    if (!value) return std::nullopt;
    if (*value > UINT32_MAX) return reader.wrong(key, "a number of 32 bits");
    return static_cast<std::uint32_t>(*value);
}

Result<std::vector<RdmaLimit>> parse_rdma(const JsonReader& reader) {
    std::vector<RdmaLimit> limits;
    constexpr std::size_t longest_device_name = 64;
    for (const auto& [name, value] : reader.object()) {
        RdmaLimit limit;
        limit.device = name;
        auto entry = TRY(reader.child(name));
        if (!entry || !is_plain_name(limit.device, longest_device_name)) return reader.wrong(name, "a device's limits");
        limit.hca_handles = TRY(parse_u32(*entry, "hcaHandles"));
        limit.hca_objects = TRY(parse_u32(*entry, "hcaObjects"));
        if (limit.hca_handles || limit.hca_objects) limits.push_back(std::move(limit));
    }
    std::ranges::sort(limits, {}, &RdmaLimit::device);
    return limits;
}

Result<NetworkResources> parse_network(const JsonReader& reader) {
    NetworkResources network;
    network.class_id = TRY(parse_u32(reader, "classID"));
    constexpr std::size_t longest_interface_name = 15;
    for (const JsonReader& item : TRY(reader.children("priorities"))) {
        std::string name = TRY(item.required_string("name"));
        if (!is_plain_name(name, longest_interface_name)) return item.wrong("name", "an interface");
        auto priority = TRY(parse_u32(item, "priority"));
        if (!priority) return item.wrong("priority", "a number");
        network.priorities.emplace_back(std::move(name), *priority);
    }
    return network;
}

Result<DeviceRule> parse_device(const JsonReader& reader) {
    DeviceRule rule;
    auto allow = TRY(reader.boolean("allow"));
    if (!allow) return reader.wrong("allow", "true or false");
    rule.allow = *allow;
    std::string type = TRY(reader.string_or("type", "a"));
    if (type.empty()) type = "a";
    if (type == "u") type = "c";  // an unbuffered character device: the kernel knows no difference
    if (type != "a" && type != "b" && type != "c") return reader.wrong("type", "a, b or c");
    rule.type = type[0];
    auto number = [&](std::string_view key, std::optional<std::int64_t>& out) -> Result<> {
        auto value = TRY(reader.integer(key));
        if (!value || *value == -1) return {};
        if (*value < 0 || *value > UINT32_MAX) return reader.wrong(key, "a device number or -1");
        out = value;
        return {};
    };
    TRY(number("major", rule.major));
    TRY(number("minor", rule.minor));
    std::string access = TRY(reader.string_or("access", ""));
    if (access.empty()) access = "rwm";
    TRY(parse_access(rule, access, reader.path_of("access")));
    return rule;
}

template <class T>
void put(json::object& object, std::string_view key, const std::optional<T>& value) {
    if (value) object[key] = *value;
}

json::array throttles_to_json(const std::vector<BlockThrottle>& throttles) {
    json::array out;
    for (const BlockThrottle& t : throttles)
        out.push_back(json::object{{"major", t.major}, {"minor", t.minor}, {"rate", t.rate}});
    return out;
}

json::object block_io_to_json(const BlockIoResources& io) {
    json::object out;
    put(out, "weight", io.weight);
    put(out, "leafWeight", io.leaf_weight);
    json::array weights;
    for (const BlockDeviceWeight& w : io.weight_device) {
        json::object item{{"major", w.major}, {"minor", w.minor}};
        put(item, "weight", w.weight);
        put(item, "leafWeight", w.leaf_weight);
        weights.push_back(std::move(item));
    }
    if (!weights.empty()) out["weightDevice"] = std::move(weights);
    if (!io.read_bps.empty()) out["throttleReadBpsDevice"] = throttles_to_json(io.read_bps);
    if (!io.write_bps.empty()) out["throttleWriteBpsDevice"] = throttles_to_json(io.write_bps);
    if (!io.read_iops.empty()) out["throttleReadIOPSDevice"] = throttles_to_json(io.read_iops);
    if (!io.write_iops.empty()) out["throttleWriteIOPSDevice"] = throttles_to_json(io.write_iops);
    return out;
}

}  // namespace

std::string DeviceRule::access() const {
    std::string out;
    if (read) out += 'r';
    if (write) out += 'w';
    if (make_node) out += 'm';
    return out;
}

Result<DeviceRule> parse_device_cgroup_rule(std::string_view text) {
    std::string where = "device cgroup rule \"" + std::string(text) + "\"";
    auto wrong = [&] {
        return fail(Code::invalid_argument, where + ": expected \"<a|b|c> <major|*>:<minor|*> <rwm>\"");
    };
    DeviceRule rule{.allow = true};
    std::string_view rest = text;
    if (rest.size() < 2 || (rest[0] != 'a' && rest[0] != 'b' && rest[0] != 'c') || rest[1] != ' ') return wrong();
    rule.type = rest[0];
    rest.remove_prefix(2);
    auto number = [&](std::optional<std::int64_t>& out) {
        if (rest.starts_with('*')) {
            rest.remove_prefix(1);
            return true;
        }
        std::uint64_t value = 0;
        if (!number_at(rest, value) || value > UINT32_MAX) return false;
        out = static_cast<std::int64_t>(value);
        return true;
    };
    if (!number(rule.major) || !rest.starts_with(':')) return wrong();
    rest.remove_prefix(1);
    if (!number(rule.minor) || !rest.starts_with(' ')) return wrong();
    rest.remove_prefix(1);
    if (rest.size() > 3) return wrong();
    TRY(parse_access(rule, rest, where));
    return rule;
}

std::vector<DeviceRule> default_device_rules() {
    std::vector<DeviceRule> rules;
    rules.push_back({.allow = false});
    for (char type : {'c', 'b'})
        rules.push_back({.allow = true, .type = type, .read = false, .write = false, .make_node = true});
    struct Number {
        std::int64_t major;
        std::optional<std::int64_t> minor;
    };
    const Number numbers[] = {
        {1, 3},              // null
        {1, 5},              // zero
        {1, 7},              // full
        {1, 8},              // random
        {1, 9},              // urandom
        {5, 0},              // tty
        {5, 1},              // console
        {5, 2},              // ptmx
        {136, std::nullopt}  // pts/*
    };
    for (const Number& n : numbers) rules.push_back({.allow = true, .type = 'c', .major = n.major, .minor = n.minor});
    return rules;
}

void supply_default_devices(std::vector<DeviceRule>& rules) {
    bool restricted = std::ranges::any_of(rules, [](const DeviceRule& rule) { return !rule.allow; });
    if (!restricted) return;
    for (const DeviceRule& rule : default_device_rules()) {
        if (rule.allow && std::ranges::find(rules, rule) == rules.end()) rules.push_back(rule);
    }
}

Result<CgroupResources> parse_cgroup_resources(const JsonReader& reader) {
    CgroupResources out;
    if (auto memory = TRY(reader.child("memory"))) TRY(parse_memory(*memory, out.memory));
    if (auto cpu = TRY(reader.child("cpu"))) TRY(parse_cpu(*cpu, out.cpu));
    if (auto pids = TRY(reader.child("pids"))) out.pids_limit = TRY(pids->integer("limit"));
    if (auto io = TRY(reader.child("blockIO"))) TRY(parse_block_io(*io, out.block_io));
    for (const JsonReader& item : TRY(reader.children("hugepageLimits"))) {
        HugepageLimit limit;
        limit.page_size = TRY(item.required_string("pageSize"));
        // It becomes part of a file name.
        bool clean = !limit.page_size.empty() && limit.page_size.size() <= 16 &&
                     std::ranges::all_of(limit.page_size, [](char c) {
                         return (c >= '0' && c <= '9') || c == 'K' || c == 'M' || c == 'G' || c == 'B';
                     });
        if (!clean) return item.wrong("pageSize", "a size such as 2MB");
        limit.limit = TRY(item.unsigned_integer("limit")).value_or(0);
        out.hugepages.push_back(std::move(limit));
    }
    for (const JsonReader& item : TRY(reader.children("devices"))) out.devices.push_back(TRY(parse_device(item)));
    out.unified = TRY(reader.string_map("unified"));
    if (auto network = TRY(reader.child("network"))) out.network = TRY(parse_network(*network));
    if (auto rdma = TRY(reader.child("rdma"))) out.rdma = TRY(parse_rdma(*rdma));
    return out;
}

json::object to_oci_json(const CgroupResources& r) {
    json::object out;
    json::object memory;
    put(memory, "limit", r.memory.limit);
    put(memory, "reservation", r.memory.reservation);
    put(memory, "swap", r.memory.swap);
    put(memory, "kernel", r.memory.kernel);
    put(memory, "kernelTCP", r.memory.kernel_tcp);
    put(memory, "swappiness", r.memory.swappiness);
    put(memory, "disableOOMKiller", r.memory.disable_oom_killer);
    put(memory, "useHierarchy", r.memory.use_hierarchy);
    put(memory, "checkBeforeUpdate", r.memory.check_before_update);
    if (!memory.empty()) out["memory"] = std::move(memory);
    json::object cpu;
    put(cpu, "shares", r.cpu.shares);
    put(cpu, "quota", r.cpu.quota_us);
    put(cpu, "burst", r.cpu.burst_us);
    put(cpu, "period", r.cpu.period_us);
    put(cpu, "realtimeRuntime", r.cpu.realtime_runtime_us);
    put(cpu, "realtimePeriod", r.cpu.realtime_period_us);
    put(cpu, "idle", r.cpu.idle);
    if (!r.cpu.cpus.empty()) cpu["cpus"] = r.cpu.cpus;
    if (!r.cpu.mems.empty()) cpu["mems"] = r.cpu.mems;
    if (!cpu.empty()) out["cpu"] = std::move(cpu);
    if (r.pids_limit) out["pids"] = json::object{{"limit", *r.pids_limit}};
    if (json::object io = block_io_to_json(r.block_io); !io.empty()) out["blockIO"] = std::move(io);
    json::array hugepages;
    for (const HugepageLimit& limit : r.hugepages)
        hugepages.push_back(json::object{{"pageSize", limit.page_size}, {"limit", limit.limit}});
    if (!hugepages.empty()) out["hugepageLimits"] = std::move(hugepages);
    json::object rdma;
    for (const RdmaLimit& limit : r.rdma) {
        json::object item;
        put(item, "hcaHandles", limit.hca_handles);
        put(item, "hcaObjects", limit.hca_objects);
        rdma[limit.device] = std::move(item);
    }
    if (!rdma.empty()) out["rdma"] = std::move(rdma);
    json::object network;
    put(network, "classID", r.network.class_id);
    json::array priorities;
    for (const auto& [name, priority] : r.network.priorities)
        priorities.push_back(json::object{{"name", name}, {"priority", priority}});
    if (!priorities.empty()) network["priorities"] = std::move(priorities);
    if (!network.empty()) out["network"] = std::move(network);
    json::array devices;
    for (const DeviceRule& rule : r.devices) {
        json::object item{{"allow", rule.allow}};
        if (rule.type != 'a') item["type"] = std::string(1, rule.type);
        put(item, "major", rule.major);
        put(item, "minor", rule.minor);
        item["access"] = rule.access();
        devices.push_back(std::move(item));
    }
    if (!devices.empty()) out["devices"] = std::move(devices);
    json::object unified;
    for (const auto& [name, value] : r.unified) unified[name] = value;
    if (!unified.empty()) out["unified"] = std::move(unified);
    return out;
}

std::uint64_t cpu_shares_to_weight(std::uint64_t shares) {
    // The conversion today's runtimes agree on: 2 -> 1, 1024 -> 100 (the default of each side), 262144 -> 10000.
    if (shares == 0) return 0;
    if (shares <= 2) return 1;
    if (shares >= 262144) return 10000;
    double l = std::log2(static_cast<double>(shares));
    double exponent = (l * l + 125 * l) / 612.0 - 7.0 / 34.0;
    return static_cast<std::uint64_t>(std::ceil(std::pow(10, exponent)));
}

std::uint64_t block_io_weight_to_io_weight(std::uint64_t weight) {
    if (weight == 0) return 0;
    weight = std::clamp<std::uint64_t>(weight, 10, 1000);
    return 1 + (weight - 10) * 9999 / 990;
}

Result<std::int64_t> memory_swap_to_v2(std::int64_t memory_and_swap, std::optional<std::int64_t> memory) {
    if (memory_and_swap == -1) return -1;
    if (memory_and_swap < 0) return fail(Code::invalid_argument, "negative memory and swap limit");
    if (!memory || *memory <= 0)
        return fail(Code::invalid_argument, "a limit of memory and swap needs a limit of memory");
    if (memory_and_swap < *memory)
        return fail(Code::invalid_argument, "the limit of memory and swap is below the limit of memory");
    return memory_and_swap - *memory;
}

Result<> validate_cpu_list(std::string_view list) {
    if (list.empty()) return {};
    auto wrong = [&] { return fail(Code::invalid_argument, "\"" + std::string(list) + "\" is no list like 0-3,7"); };
    std::string_view rest = list;
    if (rest.size() > 8192) return fail(Code::invalid_argument, "the list of processors is too long");
    while (true) {
        std::uint64_t first = 0;
        if (!number_at(rest, first) || first > 65535) return wrong();
        if (rest.starts_with('-')) {
            rest.remove_prefix(1);
            std::uint64_t last = 0;
            if (!number_at(rest, last) || last > 65535 || last < first) return wrong();
        }
        if (rest.empty()) return {};
        if (rest.front() != ',') return wrong();
        rest.remove_prefix(1);
    }
}

}  // namespace wherry::confine
