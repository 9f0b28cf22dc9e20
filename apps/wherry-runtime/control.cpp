// pause, resume, update.
#include <unistd.h>

#include <charconv>
#include <cmath>

#include "commands.hpp"
#include "context.hpp"
#include "oci/intel_rdt.hpp"
#include "placement.hpp"

namespace wherry::runtime {

namespace {

Result<confine::Cgroup> cgroup_of(const Known& known) {
    auto cgroup = TRY(known.cgroup());
    if (!cgroup) return fail(Code::conflict, "the container has no cgroup");
    return std::move(*cgroup);
}

// "256M", "1.5g", "-1": bytes.
Result<std::int64_t> parse_size(const std::string& name, const std::string& text) {
    double value = 0;
    auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
    if (problem == std::errc() && value == -1 && unit.empty()) return -1;
    double factor = 0;
    auto is = [&](std::string_view letters) {
        return !unit.empty() && letters.find(unit.front()) != std::string_view::npos &&
               (unit.size() == 1 || unit.substr(1) == "b" || unit.substr(1) == "B" || unit.substr(1) == "ib" ||
                unit.substr(1) == "iB");
    };
    if (unit.empty() || unit == "b" || unit == "B") {
        factor = 1;
    } else if (is("kK")) {
        factor = 1024.0;
    } else if (is("mM")) {
        factor = 1024.0 * 1024;
    } else if (is("gG")) {
        factor = 1024.0 * 1024 * 1024;
    } else if (is("tT")) {
        factor = 1024.0 * 1024 * 1024 * 1024;
    }
    if (problem != std::errc() || factor == 0 || value < 0 || value * factor > 9.0e18)
        return fail(Code::invalid_argument, "--" + name + ": invalid size \"" + text + "\"");
    return static_cast<std::int64_t>(value * factor);
}

template <class T>
Result<T> parse_number(const std::string& name, const std::string& text) {
    T value = 0;
    auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (problem != std::errc() || end != text.data() + text.size())
        return fail(Code::invalid_argument, "--" + name + ": invalid number \"" + text + "\"");
    return value;
}

Result<std::string> read_resources(const std::string& path) {
    if (path == "-") return read_to_end(STDIN_FILENO, config_limit);
    return read_file(path, config_limit);
}

Result<confine::CgroupResources> wished_resources(const Options& options) {
    confine::CgroupResources wish;
    if (options.has("resources")) {
        std::string text = TRY(read_resources(options.value("resources")), "--resources");
        json::object object = TRY(parse_json_object(text), "--resources");
        wish = TRY(confine::parse_cgroup_resources(JsonReader(object, "resources")), "--resources");
        // Devices are decided when a container is made; engines send the list along with every update.
        wish.devices.clear();
        return wish;
    }
    auto size = [&](const char* name, std::optional<std::int64_t>& out) -> Result<> {
        if (options.has(name)) out = TRY(parse_size(name, options.value(name)));
        return {};
    };
    auto number = [&]<class T>(const char* name, std::optional<T>& out) -> Result<> {
        if (options.has(name)) out = TRY(parse_number<T>(name, options.value(name)));
        return {};
    };
    TRY(size("memory", wish.memory.limit));
    TRY(size("memory-reservation", wish.memory.reservation));
    TRY(size("memory-swap", wish.memory.swap));
    TRY(size("kernel-memory", wish.memory.kernel));
    TRY(size("kernel-memory-tcp", wish.memory.kernel_tcp));
    TRY(number("cpu-share", wish.cpu.shares));
    TRY(number("cpu-quota", wish.cpu.quota_us));
    TRY(number("cpu-burst", wish.cpu.burst_us));
    TRY(number("cpu-period", wish.cpu.period_us));
    TRY(number("cpu-rt-runtime", wish.cpu.realtime_runtime_us));
    TRY(number("cpu-rt-period", wish.cpu.realtime_period_us));
    TRY(number("cpu-idle", wish.cpu.idle));
    TRY(number("pids-limit", wish.pids_limit));
    TRY(number("blkio-weight", wish.block_io.weight));
    wish.cpu.cpus = options.value("cpuset-cpus");
    wish.cpu.mems = options.value("cpuset-mems");
    return wish;
}

}  // namespace

Result<int> pause_command(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    Known known = TRY(find(line, id));
    std::string_view status = status_of(known);
    if (status != "running" && status != "created")
        return fail(Code::conflict, "container not running or created: " + std::string(status));
    confine::Cgroup cgroup = TRY(cgroup_of(known));
    TRY(cgroup.freeze());
    return 0;
}

Result<int> resume_command(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    Known known = TRY(find(line, id));
    confine::Cgroup cgroup = TRY(cgroup_of(known));
    if (!known.container || !TRY(cgroup.frozen())) return fail(Code::conflict, "container not paused");
    TRY(cgroup.thaw());
    return 0;
}

Result<int> update_command(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    Known known = TRY(find(line, id));
    if (!known.container) return fail(Code::conflict, "container not running");
    confine::CgroupResources wish = TRY(wished_resources(line.local));
    confine::ResctrlSchemata schemata{.l3_cache = line.local.value("l3-cache-schema"),
                                      .memory_bandwidth = line.local.value("mem-bw-schema")};
    bool shares = !schemata.l3_cache.empty() || !schemata.memory_bandwidth.empty();
    // The pickier first: what is refused there leaves everything as it was.
    if (shares) TRY(oci::update_intel_rdt(known.container->state(), schemata), "Intel RDT");
    if (!shares || wish != confine::CgroupResources{}) TRY(update_placement(known.state, wish));
    return 0;
}

}  // namespace wherry::runtime
