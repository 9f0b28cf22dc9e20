#include <fmt/format.h>

#include <functional>
#include <map>
#include <string_view>

#include "base/number.hpp"
#include "vmm/program.hpp"

namespace wherry::vmm {
namespace {

template <class T>
Result<T> number_of(std::string_view name, std::string_view text) {
    if (const auto value = parse_number<T>(text)) return *value;
    return invalid(fmt::format("Invalid value for '--{}': {}", name, text));
}

// Firecracker's rule for ids (its jailer's as well).
Result<> check_id(std::string_view id) {
    constexpr std::size_t longest = 64;
    if (id.empty() || id.size() > longest)
        return invalid(fmt::format("Invalid instance ID: invalid length ({}); the length must be between 1 and {}",
                                   id.size(), longest));
    for (std::size_t i = 0; i < id.size(); ++i) {
        const char c = id[i];
        if (c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z'))
            return invalid(fmt::format("Invalid instance ID: invalid char ({}) at position {}", c, i));
    }
    return {};
}

}  // namespace

Result<Options> parse_options(std::span<const char* const> arguments) {
    Options options;
    const std::map<std::string_view, bool*> flags = {
        {"no-api", &options.no_api},
        {"no-seccomp", &options.no_seccomp},
        {"boot-timer", &options.boot_timer},
        {"show-level", &options.show_level},
        {"show-log-origin", &options.show_log_origin},
        {"version", &options.version},
        {"help", &options.help},
        {"snapshot-version", &options.snapshot_version},
        {"enable-pci", &options.enable_pci},
    };
    const auto into = [](auto& target) {
        return [&target](std::string_view, std::string_view value) -> Result<> {
            target = std::string(value);
            return {};
        };
    };
    const auto number_into = [](auto& target) {
        return [&target](std::string_view name, std::string_view value) -> Result<> {
            using T = std::decay_t<decltype(target)>;
            target = TRY(number_of<T>(name, value));
            return {};
        };
    };
    const std::map<std::string_view, std::function<Result<>(std::string_view, std::string_view)>> values = {
        {"api-sock", into(options.api_socket)},
        {"id", into(options.id)},
        {"config-file", into(options.config_file)},
        {"metadata", into(options.metadata)},
        {"seccomp-filter", into(options.seccomp_filter)},
        {"log-path", into(options.log_path)},
        {"level", into(options.level)},
        {"module", into(options.module)},
        {"metrics-path", into(options.metrics_path)},
        {"describe-snapshot", into(options.describe_snapshot)},
        {"start-time-us", number_into(options.start_time_us)},
        {"start-time-cpu-us", number_into(options.start_time_cpu_us)},
        {"parent-cpu-time-us", number_into(options.parent_cpu_time_us)},
        {"http-api-max-payload-size", number_into(options.payload_limit)},
        {"mmds-size-limit",
         [&options](std::string_view name, std::string_view value) -> Result<> {
             options.mmds_limit = TRY(number_of<std::size_t>(name, value));
             return {};
         }},
    };
    std::map<std::string_view, bool> seen;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        std::string_view argument = arguments[i];
        if (!argument.starts_with("--") || argument.size() == 2)
            return invalid(
                fmt::format("Found argument '{}' which wasn't expected, or isn't valid in this context.", argument));
        argument.remove_prefix(2);
        const std::size_t equals = argument.find('=');
        const std::string_view name = argument.substr(0, equals);
        if (std::exchange(seen[name], true))
            return invalid(fmt::format("The argument '{}' was provided more than once.", name));
        if (const auto flag = flags.find(name); flag != flags.end() && equals == std::string_view::npos) {
            *flag->second = true;
            continue;
        }
        const auto value = values.find(name);
        if (value == values.end())
            return invalid(
                fmt::format("Found argument '{}' which wasn't expected, or isn't valid in this context.", name));
        std::string_view text;
        if (equals != std::string_view::npos) {
            text = argument.substr(equals + 1);
        } else if (i + 1 < arguments.size() && !std::string_view(arguments[i + 1]).starts_with("--")) {
            text = arguments[++i];
        } else {
            return invalid(fmt::format("The argument '{}' requires a value, but none was supplied.", name));
        }
        TRY(value->second(name, text));
    }
    TRY(check_id(options.id));
    if (options.no_api && !options.config_file)
        return invalid("Argument 'no-api' requires 'config-file' to be also provided.");
    if (options.no_seccomp && options.seccomp_filter)
        return invalid("Argument 'no-seccomp' cannot be used together with 'seccomp-filter'.");
    return options;
}

}  // namespace wherry::vmm
