#include "vmm/api/bodies.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>

#include "vmm/api/fields.hpp"
#include "vmm/devices/pmem/partitions.hpp"

// Run once or by requests: small, not fast.
#pragma clang attribute push([[clang::minsize]], apply_to = function)

namespace wherry::vmm::api {
namespace {

constexpr std::uint64_t largest_u32 = UINT32_MAX, largest_u16 = UINT16_MAX, largest_u8 = UINT8_MAX;

Result<std::optional<BucketConfig>> parse_bucket(Fields& fields, std::string_view name) {
    const json::object* object = TRY(fields.object(name));
    if (object == nullptr) return std::nullopt;
    Fields inner(*object);
    BucketConfig bucket;
    bucket.size = TRY(inner.required_number("size"));
    bucket.one_time_burst = TRY(inner.number("one_time_burst")).value_or(0);
    bucket.refill_time_ms = TRY(inner.required_number("refill_time"));
    TRY(inner.finish());
    return bucket;
}

Result<RateLimiterConfig> parse_limits(Fields& fields, std::string_view name) {
    RateLimiterConfig limits;
    const json::object* object = TRY(fields.object(name));
    if (object == nullptr) return limits;
    Fields inner(*object);
    limits.bandwidth = TRY(parse_bucket(inner, "bandwidth"));
    limits.operations = TRY(parse_bucket(inner, "ops"));
    TRY(inner.finish());
    return limits;
}

Result<std::optional<HugePages>> parse_huge_pages(Fields& fields) {
    const auto name = TRY(fields.string("huge_pages"));
    if (!name) return std::nullopt;
    if (*name == "None") return HugePages::none;
    if (*name == "Transparent") return HugePages::transparent;
    if (*name == "2M") return HugePages::two_megabytes;
    return invalid(fmt::format("unknown variant `{}`, expected one of `None`, `Transparent`, `2M`", *name));
}

Result<std::optional<x86_64::StaticTemplate>> parse_template_name(Fields& fields) {
    const auto name = TRY(fields.string("cpu_template"));
    if (!name) return std::nullopt;
    return TRY(x86_64::parse_static_template(*name));
}

// "0b1x0" of up to `bits` digits: ones and zeroes are set, x stays as it is.
struct Bitmap {
    std::uint64_t filter = 0;
    std::uint64_t value = 0;
};
Result<Bitmap> parse_bitmap(std::string_view text, unsigned bits) {
    Bitmap bitmap;
    unsigned count = 0;
    std::string_view digits = text;
    if (!digits.starts_with("0b")) return invalid(fmt::format("Failed to parse string [{}] as a bitmap", text));
    digits.remove_prefix(2);
    for (char c : digits) {
        if (c == '_') continue;
        if (c != '0' && c != '1' && c != 'x')
            return invalid(fmt::format("Failed to parse string [{}] as a bitmap - unknown character: {}", text, c));
        bitmap.filter = (bitmap.filter << 1U) | (c == 'x' ? 0U : 1U);
        bitmap.value = (bitmap.value << 1U) | (c == '1' ? 1U : 0U);
        if (++count > bits)
            return invalid(fmt::format("Failed to parse string [{}] as a bitmap - string is too long", text));
    }
    return bitmap;
}

// "0x10a", "0b1", "12": numbers that JSON has no notation for.
Result<std::uint64_t> parse_notated(std::string_view text, std::uint64_t largest) {
    int base = 10;
    std::string_view digits = text;
    if (text.starts_with("0x")) base = 16;
    if (text.starts_with("0b")) base = 2;
    if (base != 10) digits.remove_prefix(2);
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (digits.empty() || error != std::errc() || end != digits.data() + digits.size() || value > largest)
        return invalid(fmt::format("Failed to parse string [{}] as a number", text));
    return value;
}

Result<> parse_cpuid_modifiers(const json::value& item, x86_64::CpuTemplate& out) {
    if (!item.is_object()) return invalid("invalid type: expected an object in `cpuid_modifiers`");
    Fields fields(item.get_object());
    x86_64::CpuidModifier modifier;
    modifier.leaf = static_cast<std::uint32_t>(TRY(parse_notated(TRY(fields.required_string("leaf")), largest_u32)));
    modifier.subleaf =
        static_cast<std::uint32_t>(TRY(parse_notated(TRY(fields.required_string("subleaf")), largest_u32)));
    modifier.flags = static_cast<std::uint32_t>(TRY(fields.required_number("flags", largest_u32)));
    const json::array* registers = TRY(fields.array("modifiers"));
    TRY(fields.finish());
    if (registers == nullptr) return invalid("missing field `modifiers`");
    for (const json::value& entry : *registers) {
        if (!entry.is_object()) return invalid("invalid type: expected an object in `modifiers`");
        Fields inner(entry.get_object());
        const std::string name = TRY(inner.required_string("register"));
        const Bitmap bitmap = TRY(parse_bitmap(TRY(inner.required_string("bitmap")), 32));
        TRY(inner.finish());
        constexpr std::array<std::string_view, 4> names = {"eax", "ebx", "ecx", "edx"};
        const auto* found = std::ranges::find(names, name);
        if (found == names.end())
            return invalid(fmt::format("Invalid CPUID register. Must be one of [eax, ebx, ecx, edx]: {}", name));
        modifier.target = static_cast<x86_64::CpuidRegister>(found - names.begin());
        modifier.filter = static_cast<std::uint32_t>(bitmap.filter);
        modifier.value = static_cast<std::uint32_t>(bitmap.value);
        out.cpuid.push_back(modifier);
    }
    return {};
}

}  // namespace

Result<BootSource> parse_boot_source(const json::object& body) {
    Fields fields(body);
    BootSource source;
    source.kernel_image_path = TRY(fields.required_string("kernel_image_path"));
    source.initrd_path = TRY(fields.string("initrd_path"));
    source.boot_args = TRY(fields.string("boot_args"));
    TRY(fields.finish());
    return source;
}

Result<MachineConfig> parse_machine(const json::object& body) {
    Fields fields(body);
    MachineConfig config;
    config.vcpu_count = static_cast<std::uint32_t>(TRY(fields.required_number("vcpu_count", largest_u8)));
    config.mem_size_mib = TRY(fields.required_number("mem_size_mib"));
    config.smt = TRY(fields.boolean("smt")).value_or(false);
    config.track_dirty_pages = TRY(fields.boolean("track_dirty_pages")).value_or(false);
    config.huge_pages = TRY(parse_huge_pages(fields)).value_or(HugePages::none);
    config.cpu_template = TRY(parse_template_name(fields)).value_or(x86_64::StaticTemplate::none);
    TRY(fields.finish());
    return config;
}

Result<MachinePatch> parse_machine_patch(const json::object& body) {
    Fields fields(body);
    MachinePatch patch;
    if (const auto count = TRY(fields.number("vcpu_count", largest_u8)))
        patch.vcpu_count = static_cast<std::uint32_t>(*count);
    patch.mem_size_mib = TRY(fields.number("mem_size_mib"));
    patch.smt = TRY(fields.boolean("smt"));
    patch.track_dirty_pages = TRY(fields.boolean("track_dirty_pages"));
    patch.huge_pages = TRY(parse_huge_pages(fields));
    patch.cpu_template = TRY(parse_template_name(fields));
    TRY(fields.finish());
    if (!patch.vcpu_count && !patch.mem_size_mib && !patch.smt && !patch.track_dirty_pages && !patch.huge_pages &&
        !patch.cpu_template)
        return invalid("Empty PATCH request.");
    return patch;
}

Result<x86_64::CpuTemplate> parse_cpu_template(const json::object& body) {
    Fields fields(body);
    x86_64::CpuTemplate out;
    if (const json::array* list = TRY(fields.array("kvm_capabilities"))) {
        for (const json::value& item : *list) {
            if (!item.is_string()) return invalid("invalid type: expected a string in `kvm_capabilities`");
            std::string_view text = item.get_string();
            const bool is_removed = text.starts_with('!');
            if (is_removed) text.remove_prefix(1);
            out.capabilities.push_back({.number = static_cast<std::uint32_t>(TRY(parse_notated(text, largest_u32))),
                                        .is_removed = is_removed});
        }
    }
    if (const json::array* list = TRY(fields.array("cpuid_modifiers")))
        for (const json::value& item : *list) TRY(parse_cpuid_modifiers(item, out));
    if (const json::array* list = TRY(fields.array("msr_modifiers"))) {
        for (const json::value& item : *list) {
            if (!item.is_object()) return invalid("invalid type: expected an object in `msr_modifiers`");
            Fields inner(item.get_object());
            const auto address = TRY(parse_notated(TRY(inner.required_string("addr")), largest_u32));
            const Bitmap bitmap = TRY(parse_bitmap(TRY(inner.required_string("bitmap")), 64));
            TRY(inner.finish());
            out.msrs.push_back(
                {.address = static_cast<std::uint32_t>(address), .filter = bitmap.filter, .value = bitmap.value});
        }
    }
    TRY(fields.finish());
    return out;
}

Result<block::Config> parse_drive(const json::object& body) {
    Fields fields(body);
    block::Config config;
    config.id = TRY(fields.required_string("drive_id"));
    config.is_root = TRY(fields.required_boolean("is_root_device"));
    config.partuuid = TRY(fields.string("partuuid"));
    const auto path = TRY(fields.string("path_on_host"));
    config.is_read_only = TRY(fields.boolean("is_read_only")).value_or(false);
    const auto cache = TRY(fields.string("cache_type")).value_or("Unsafe");
    const auto engine = TRY(fields.string("io_engine")).value_or("Sync");
    config.limits = TRY(parse_limits(fields, "rate_limiter"));
    const auto socket = TRY(fields.string("socket"));
    TRY(fields.finish());
    if (socket)
        return invalid("Unable to create the block device: vhost-user block devices (`socket`) are not supported.");
    if (!path) return invalid("missing field `path_on_host`");
    config.path = *path;
    if (cache != "Unsafe" && cache != "Writeback")
        return invalid(fmt::format("unknown variant `{}`, expected `Unsafe` or `Writeback`", cache));
    if (engine != "Sync" && engine != "Async")
        return invalid(fmt::format("unknown variant `{}`, expected `Sync` or `Async`", engine));
    config.cache = cache == "Writeback" ? block::CacheType::writeback : block::CacheType::unsafe;
    config.engine = engine == "Async" ? block::IoEngine::async : block::IoEngine::sync;
    return config;
}

Result<DrivePatch> parse_drive_patch(const json::object& body) {
    Fields fields(body);
    DrivePatch patch;
    patch.id = TRY(fields.required_string("drive_id"));
    patch.path = TRY(fields.string("path_on_host"));
    patch.limits = TRY(parse_limits(fields, "rate_limiter"));
    TRY(fields.finish());
    return patch;
}

Result<net::Config> parse_network(const json::object& body) {
    Fields fields(body);
    net::Config config;
    config.id = TRY(fields.required_string("iface_id"));
    config.host_dev_name = TRY(fields.required_string("host_dev_name"));
    if (const auto mac = TRY(fields.string("guest_mac"))) config.guest_mac = TRY(net::parse_mac(*mac));
    if (const auto mtu = TRY(fields.number("mtu", largest_u16))) {
        constexpr std::uint64_t smallest_mtu = 68;  // RFC 791
        if (*mtu < smallest_mtu) return invalid(fmt::format("Invalid MTU {}: at least {}", *mtu, smallest_mtu));
        config.mtu = static_cast<std::uint16_t>(*mtu);
    }
    const auto queues = TRY(fields.number("num_queues", largest_u16)).value_or(1);
    if (queues < 1 || queues > net::NetDevice::most_pairs)
        return invalid(fmt::format("Invalid num_queues {}: from 1 to {}", queues, net::NetDevice::most_pairs));
    config.queue_pairs = static_cast<std::uint16_t>(queues);
    config.rx_limits = TRY(parse_limits(fields, "rx_rate_limiter"));
    config.tx_limits = TRY(parse_limits(fields, "tx_rate_limiter"));
    TRY(fields.finish());
    return config;
}

Result<NetworkPatch> parse_network_patch(const json::object& body) {
    Fields fields(body);
    NetworkPatch patch;
    patch.id = TRY(fields.required_string("iface_id"));
    patch.rx_limits = TRY(parse_limits(fields, "rx_rate_limiter"));
    patch.tx_limits = TRY(parse_limits(fields, "tx_rate_limiter"));
    TRY(fields.finish());
    return patch;
}

Result<vsock::Config> parse_vsock(const json::object& body) {
    Fields fields(body);
    vsock::Config config;
    TRY(fields.string("vsock_id"));  // deprecated, of no meaning
    config.guest_cid = TRY(fields.required_number("guest_cid", largest_u32));
    config.uds_path = TRY(fields.required_string("uds_path"));
    TRY(fields.finish());
    constexpr std::uint64_t first_guest_cid = 3;
    if (config.guest_cid < first_guest_cid || config.guest_cid == largest_u32)
        return invalid(
            fmt::format("Invalid guest_cid {}: from {} to {}", config.guest_cid, first_guest_cid, largest_u32 - 1));
    return config;
}

Result<balloon::Config> parse_balloon(const json::object& body) {
    Fields fields(body);
    balloon::Config config;
    config.amount_mib = static_cast<std::uint32_t>(TRY(fields.required_number("amount_mib", largest_u32)));
    config.deflate_on_oom = TRY(fields.required_boolean("deflate_on_oom"));
    config.stats_polling_interval_s =
        static_cast<std::uint16_t>(TRY(fields.number("stats_polling_interval_s", largest_u16)).value_or(0));
    config.free_page_hinting = TRY(fields.boolean("free_page_hinting")).value_or(false);
    config.free_page_reporting = TRY(fields.boolean("free_page_reporting")).value_or(false);
    TRY(fields.finish());
    return config;
}

Result<entropy::Config> parse_entropy(const json::object& body) {
    Fields fields(body);
    entropy::Config config;
    config.limits = TRY(parse_limits(fields, "rate_limiter"));
    TRY(fields.finish());
    return config;
}

Result<pmem::Config> parse_pmem(const json::object& body) {
    Fields fields(body);
    pmem::Config config;
    config.id = TRY(fields.required_string("id"));
    const auto path = TRY(fields.string("path_on_host"));
    const json::array* files = TRY(fields.array("files"));
    config.is_root = TRY(fields.boolean("root_device")).value_or(false);
    config.is_read_only = TRY(fields.boolean("read_only")).value_or(false);
    config.limits = TRY(parse_limits(fields, "rate_limiter"));
    TRY(fields.finish());
    if (files != nullptr) {
        if (path) return invalid("`path_on_host` and `files` exclude each other");
        for (const json::value& item : *files) {
            if (!item.is_string()) return invalid("invalid type: expected a string in `files`");
            config.files.emplace_back(item.get_string());
        }
        if (config.files.empty() || config.files.size() > pmem::most_partitions)
            return invalid(fmt::format("`files` must name 1 to {} files", pmem::most_partitions));
        if (!config.is_read_only) return invalid("a device of several `files` must be `read_only`");
        return config;
    }
    if (!path) return invalid("missing field `path_on_host`");
    config.path = *path;
    return config;
}

Result<PmemPatch> parse_pmem_patch(const json::object& body) {
    Fields fields(body);
    PmemPatch patch;
    patch.id = TRY(fields.required_string("id"));
    patch.limits = TRY(parse_limits(fields, "rate_limiter"));
    TRY(fields.finish());
    return patch;
}

Result<mem::Config> parse_memory_hotplug(const json::object& body) {
    Fields fields(body);
    mem::Config config;
    constexpr std::uint64_t largest_mib = 1ULL << 26U;
    config.total_size_mib = TRY(fields.required_number("total_size_mib", largest_mib));
    config.block_size_mib = TRY(fields.number("block_size_mib", largest_mib)).value_or(config.block_size_mib);
    config.slot_size_mib = TRY(fields.number("slot_size_mib", largest_mib)).value_or(config.slot_size_mib);
    TRY(fields.finish());
    constexpr std::uint64_t smallest_block_mib = 2, smallest_slot_mib = 128;
    if (config.block_size_mib < smallest_block_mib)
        return invalid(fmt::format("Block size must not be lower than {} MiB", smallest_block_mib));
    if (!std::has_single_bit(config.block_size_mib)) return invalid("Block size must be a power of 2");
    if (config.slot_size_mib < smallest_slot_mib)
        return invalid(fmt::format("Slot size must not be lower than {} MiB", smallest_slot_mib));
    if (config.slot_size_mib % config.block_size_mib != 0)
        return invalid(fmt::format("Slot size must be a multiple of block size ({} MiB)", config.block_size_mib));
    if (config.total_size_mib < config.slot_size_mib)
        return invalid(fmt::format("Total size must not be lower than slot size ({} MiB)", config.slot_size_mib));
    if (config.total_size_mib % config.slot_size_mib != 0)
        return invalid(fmt::format("Total size must be a multiple of slot size ({} MiB)", config.slot_size_mib));
    return config;
}

Result<fs::Config> parse_folder(const json::object& body) {
    Fields fields(body);
    fs::Config config;
    config.id = TRY(fields.required_string("id"));
    config.tag = TRY(fields.required_string("tag"));
    config.socket = TRY(fields.required_string("socket"));
    TRY(fields.finish());
    if (config.tag.empty() || config.tag.size() > fs::longest_tag || config.tag.find('\0') != std::string::npos)
        return invalid(fmt::format("Invalid tag of a shared folder: 1 to {} bytes.", fs::longest_tag));
    return config;
}

Result<SerialConfig> parse_serial(const json::object& body) {
    Fields fields(body);
    SerialConfig config;
    config.output_path = TRY(fields.string("serial_out_path"));
    config.rate_limiter = TRY(parse_bucket(fields, "rate_limiter"));
    TRY(fields.finish());
    return config;
}

Result<LoggerConfig> parse_logger(const json::object& body) {
    Fields fields(body);
    LoggerConfig config;
    config.path = TRY(fields.string("log_path"));
    if (const auto level = TRY(fields.string("level"))) config.level = TRY(parse_logger_level(*level));
    config.show_level = TRY(fields.boolean("show_level"));
    config.show_origin = TRY(fields.boolean("show_log_origin"));
    config.module = TRY(fields.string("module"));
    TRY(fields.finish());
    return config;
}

Result<MmdsConfig> parse_mmds_config(const json::object& body) {
    Fields fields(body);
    MmdsConfig config;
    const auto version = TRY(fields.string("version")).value_or("V1");
    if (version != "V1" && version != "V2")
        return invalid(fmt::format("unknown variant `{}`, expected `V1` or `V2`", version));
    config.version = version == "V2" ? mmds::Version::v2 : mmds::Version::v1;
    const json::array* interfaces = TRY(fields.array("network_interfaces"));
    if (interfaces == nullptr) return invalid("missing field `network_interfaces`");
    for (const json::value& item : *interfaces) {
        if (!item.is_string()) return invalid("invalid type: expected a string in `network_interfaces`");
        config.network_interfaces.emplace_back(item.get_string());
    }
    if (const auto address = TRY(fields.string("ipv4_address"))) config.address = TRY(mmds::parse_ipv4(*address));
    config.imds_compatible = TRY(fields.boolean("imds_compat")).value_or(false);
    TRY(fields.finish());
    return config;
}

json::object limits_to_json(const RateLimiterConfig& limits) {
    const auto bucket = [](const std::optional<BucketConfig>& config) -> json::value {
        if (!config) return nullptr;
        return json::object{{"size", config->size},
                            {"one_time_burst",
                             config->one_time_burst == 0 ? json::value(nullptr) : json::value(config->one_time_burst)},
                            {"refill_time", config->refill_time_ms}};
    };
    return {{"bandwidth", bucket(limits.bandwidth)}, {"ops", bucket(limits.operations)}};
}

std::string_view to_string(HugePages pages) {
    switch (pages) {
        case HugePages::transparent:
            return "Transparent";
        case HugePages::two_megabytes:
            return "2M";
        default:
            return "None";
    }
}

}  // namespace wherry::vmm::api

#pragma clang attribute pop
