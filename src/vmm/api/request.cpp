#include "vmm/api/request.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/fd.hpp"
#include "vmm/api/bodies.hpp"
#include "vmm/api/fields.hpp"

// Run once or by requests: small, not fast.
#pragma clang attribute push([[clang::minsize]], apply_to = function)

namespace wherry::vmm::api {
namespace {

constexpr const char* get_section = "get_api_requests";
constexpr const char* put_section = "put_api_requests";
constexpr const char* patch_section = "patch_api_requests";
constexpr const char* delete_section = "delete_api_requests";

std::unexpected<Error> bad(std::string message) {
    return fail(Code::invalid_argument, std::move(message));
}

// One request on its way through the parser.
struct Context {
    std::string_view method;
    std::string_view path;
    std::vector<std::string_view> parts;
    std::string_view body;

    bool is(std::string_view wanted) const { return method == wanted; }
    std::string_view part(std::size_t i) const { return i < parts.size() ? parts[i] : std::string_view(); }
};

Result<json::value> parse_body(const Context& context) {
    if (context.body.empty()) return bad(fmt::format("Empty {} request.", context.method));
    auto value = parse_json(context.body);
    if (!value)
        return bad("An error occurred when deserializing the json body of a request: " + value.error().message() + ".");
    return value;
}

// A body through its parser, with the words Firecracker puts in front of what serde says.
template <class T>
Result<T> parse_as(const Context& context, Result<T> (*parse)(const json::object&)) {
    const json::value value = TRY(parse_body(context));
    if (!value.is_object())
        return bad(
            "An error occurred when deserializing the json body of a request: invalid type: expected an object.");
    auto parsed = parse(value.get_object());
    if (!parsed)
        return bad("An error occurred when deserializing the json body of a request: " + parsed.error().message() +
                   ".");
    return parsed;
}

// An action that does something and answers nothing.
template <class F>
ParsedRequest doing(const char* section, std::string name, F f) {
    ParsedRequest request;
    request.section = section;
    request.name = std::move(name);
    request.action = [f = std::move(f)](Controller& controller) mutable -> Result<Answer> {
        TRY(f(controller));
        return Answer();
    };
    return request;
}

// An action that answers with a value.
template <class F>
ParsedRequest asking(std::string name, F f) {
    ParsedRequest request;
    request.section = get_section;
    request.name = std::move(name);
    request.action = [f = std::move(f)](Controller& controller) -> Result<Answer> {
        return Answer(TRY(Result<json::value>(f(controller))));
    };
    return request;
}

std::unexpected<Error> no_such(const Context& context) {
    return bad(fmt::format("Invalid request method and/or path: {} {}.", context.method, context.path));
}

Result<> check_id(std::string_view id) {
    if (id.empty()) return bad("The ID cannot be empty.");
    constexpr std::size_t longest = 64;
    if (id.size() > longest) return bad(fmt::format("Invalid ID: longer than {} characters.", longest));
    for (char c : id)
        if (!(c == '_' || c == '-' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')))
            return bad("API Resource IDs can only contain alphanumeric characters and underscores.");
    return {};
}

Result<> check_same_id(std::string_view path_id, std::string_view body_id) {
    TRY(check_id(path_id));
    if (path_id != body_id)
        return bad(
            fmt::format("The id from the path [{}] does not match the id from the body [{}]!", path_id, body_id));
    return {};
}

Result<ParsedRequest> parse_actions(const Context& context) {
    if (!context.is("PUT")) return no_such(context);
    const json::value value = TRY(parse_body(context));
    if (!value.is_object())
        return bad("An error occurred when deserializing the json body of a request: expected an object.");
    Fields fields(value.get_object());
    const std::string type = TRY(fields.required_string("action_type"));
    TRY(fields.finish());
    if (type == "InstanceStart") return doing(put_section, "actions", [](Controller& c) { return c.start(); });
    if (type == "SendCtrlAltDel")
        return doing(put_section, "actions", [](Controller& c) { return c.send_ctrl_alt_del(); });
    if (type == "FlushMetrics") return doing(put_section, "actions", [](Controller& c) { return c.flush_metrics(); });
    return bad(
        fmt::format("An error occurred when deserializing the json body of a request: unknown variant `{}`, "
                    "expected one of `FlushMetrics`, `InstanceStart`, `SendCtrlAltDel`.",
                    type));
}

Result<ParsedRequest> parse_vm(const Context& context) {
    if (context.part(1) == "config" && context.is("GET") && context.parts.size() == 2)
        return asking("", [](Controller& c) { return c.full_configuration(); });
    if (context.parts.size() != 1 || !context.is("PATCH")) return no_such(context);
    const json::value value = TRY(parse_body(context));
    if (!value.is_object())
        return bad("An error occurred when deserializing the json body of a request: expected an object.");
    Fields fields(value.get_object());
    const std::string state = TRY(fields.required_string("state"));
    TRY(fields.finish());
    if (state == "Paused") return doing(patch_section, "vm", [](Controller& c) { return c.pause(); });
    if (state == "Resumed") return doing(patch_section, "vm", [](Controller& c) { return c.resume(); });
    return bad(
        fmt::format("An error occurred when deserializing the json body of a request: unknown variant `{}`, "
                    "expected `Paused` or `Resumed`.",
                    state));
}

Result<ParsedRequest> parse_machine_config(const Context& context) {
    if (context.parts.size() != 1) return no_such(context);
    if (context.is("GET")) return asking("machine_cfg", [](Controller& c) { return c.machine_configuration(); });
    if (context.is("PUT")) {
        const MachineConfig config = TRY(parse_as(context, parse_machine));
        auto request = doing(put_section, "machine_cfg", [config](Controller& c) { return c.set_machine(config); });
        if (config.cpu_template != x86_64::StaticTemplate::none)
            request.deprecated = "PUT /machine-config: cpu_template field is deprecated.";
        return request;
    }
    if (!context.is("PATCH")) return no_such(context);
    const MachinePatch patch = TRY(parse_as(context, parse_machine_patch));
    return doing(patch_section, "machine_cfg", [patch](Controller& c) { return c.patch_machine(patch); });
}

Result<ParsedRequest> parse_drives(const Context& context) {
    if (context.parts.size() != 2) return no_such(context);
    if (context.is("DELETE")) {
        TRY(check_id(context.part(1)));
        return doing(delete_section, "drive",
                     [id = std::string(context.part(1))](Controller& c) { return c.remove_drive(id); });
    }
    if (context.is("PUT")) {
        auto config = TRY(parse_as(context, parse_drive));
        TRY(check_same_id(context.part(1), config.id));
        return doing(put_section, "drive",
                     [config = std::move(config)](Controller& c) mutable { return c.set_drive(std::move(config)); });
    }
    if (!context.is("PATCH")) return no_such(context);
    auto patch = TRY(parse_as(context, parse_drive_patch));
    TRY(check_same_id(context.part(1), patch.id));
    return doing(patch_section, "drive", [patch = std::move(patch)](Controller& c) { return c.patch_drive(patch); });
}

Result<ParsedRequest> parse_networks(const Context& context) {
    if (context.parts.size() != 2) return no_such(context);
    if (context.is("DELETE")) {
        TRY(check_id(context.part(1)));
        return doing(delete_section, "network",
                     [id = std::string(context.part(1))](Controller& c) { return c.remove_network(id); });
    }
    if (context.is("PUT")) {
        auto config = TRY(parse_as(context, parse_network));
        TRY(check_same_id(context.part(1), config.id));
        return doing(put_section, "network",
                     [config = std::move(config)](Controller& c) mutable { return c.set_network(std::move(config)); });
    }
    if (!context.is("PATCH")) return no_such(context);
    auto patch = TRY(parse_as(context, parse_network_patch));
    TRY(check_same_id(context.part(1), patch.id));
    return doing(patch_section, "network",
                 [patch = std::move(patch)](Controller& c) { return c.patch_network(patch); });
}

Result<ParsedRequest> parse_pmems(const Context& context) {
    if (context.parts.size() != 2) return no_such(context);
    if (context.is("DELETE")) {
        TRY(check_id(context.part(1)));
        return doing(delete_section, "pmem",
                     [id = std::string(context.part(1))](Controller& c) { return c.delete_pmem(id); });
    }
    if (context.is("PUT")) {
        auto config = TRY(parse_as(context, parse_pmem));
        TRY(check_same_id(context.part(1), config.id));
        return doing(put_section, "pmem",
                     [config = std::move(config)](Controller& c) mutable { return c.set_pmem(std::move(config)); });
    }
    if (!context.is("PATCH")) return no_such(context);
    auto patch = TRY(parse_as(context, parse_pmem_patch));
    TRY(check_same_id(context.part(1), patch.id));
    return doing(patch_section, "pmem", [patch = std::move(patch)](Controller& c) { return c.patch_pmem(patch); });
}

// Not in Firecracker's API: shared folders.
Result<ParsedRequest> parse_folders(const Context& context) {
    if (context.parts.size() != 2 || !context.is("PUT")) return no_such(context);
    auto config = TRY(parse_as(context, parse_folder));
    TRY(check_same_id(context.part(1), config.id));
    return doing(put_section, "fs",
                 [config = std::move(config)](Controller& c) mutable { return c.set_folder(std::move(config)); });
}

// One required number or flag of a small body.
Result<json::object> parse_object(const Context& context) {
    json::value value = TRY(parse_body(context));
    if (!value.is_object())
        return bad("An error occurred when deserializing the json body of a request: expected an object.");
    return std::move(value.get_object());
}

Result<ParsedRequest> parse_memory_hotplugging(const Context& context) {
    if (context.part(1) != "memory" || context.parts.size() != 2) return no_such(context);
    if (context.is("GET")) return asking("hotplug_memory", [](Controller& c) { return c.memory_hotplug(); });
    if (context.is("PUT")) {
        const auto config = TRY(parse_as(context, parse_memory_hotplug));
        return doing(put_section, "hotplug_memory", [config](Controller& c) { return c.set_memory_hotplug(config); });
    }
    if (!context.is("PATCH")) return no_such(context);
    const json::object body = TRY(parse_object(context));
    Fields fields(body);
    const auto requested = TRY(fields.required_number("requested_size_mib"));
    TRY(fields.finish());
    return doing(patch_section, "hotplug_memory",
                 [requested](Controller& c) { return c.patch_memory_hotplug(requested); });
}

Result<ParsedRequest> parse_hinting(const Context& context) {
    const std::string_view verb = context.part(2);
    if (context.parts.size() != 3) return no_such(context);
    if (verb == "status" && context.is("GET"))
        return asking("balloon", [](Controller& c) { return c.hinting_status(); });
    if (verb == "stop" && context.is("PATCH"))
        return doing(patch_section, "balloon", [](Controller& c) { return c.stop_hinting(); });
    if (verb != "start" || !context.is("PATCH")) return no_such(context);
    bool acknowledge = true;
    if (!context.body.empty()) {
        const json::object body = TRY(parse_object(context));
        Fields fields(body);
        acknowledge = TRY(fields.boolean("acknowledge_on_stop")).value_or(true);
        TRY(fields.finish());
    }
    return doing(patch_section, "balloon", [acknowledge](Controller& c) { return c.start_hinting(acknowledge); });
}

Result<ParsedRequest> parse_balloon_request(const Context& context) {
    if (context.part(1) == "hinting") return parse_hinting(context);
    if (context.part(1) == "statistics" && context.parts.size() == 2) {
        if (context.is("GET")) return asking("balloon", [](Controller& c) { return c.balloon_statistics(); });
        if (!context.is("PATCH")) return no_such(context);
        const json::object body = TRY(parse_object(context));
        Fields fields(body);
        const auto interval = TRY(fields.required_number("stats_polling_interval_s", UINT16_MAX));
        TRY(fields.finish());
        return doing(patch_section, "balloon", [interval](Controller& c) {
            return c.patch_balloon_statistics(static_cast<std::uint16_t>(interval));
        });
    }
    if (context.parts.size() != 1) return no_such(context);
    if (context.is("GET")) return asking("balloon", [](Controller& c) { return c.balloon_configuration(); });
    if (context.is("PUT")) {
        const auto config = TRY(parse_as(context, parse_balloon));
        return doing(put_section, "balloon", [config](Controller& c) { return c.set_balloon(config); });
    }
    if (!context.is("PATCH")) return no_such(context);
    const json::object body = TRY(parse_object(context));
    Fields fields(body);
    const auto amount = TRY(fields.required_number("amount_mib", UINT32_MAX));
    TRY(fields.finish());
    return doing(patch_section, "balloon",
                 [amount](Controller& c) { return c.patch_balloon(static_cast<std::uint32_t>(amount)); });
}

Result<ParsedRequest> parse_mmds(const Context& context) {
    if (context.part(1) == "config" && context.parts.size() == 2) {
        if (!context.is("PUT")) return no_such(context);
        auto config = TRY(parse_as(context, parse_mmds_config));
        return doing(put_section, "mmds",
                     [config = std::move(config)](Controller& c) { return c.configure_mmds(config); });
    }
    if (context.parts.size() != 1) return no_such(context);
    if (context.is("GET")) {
        return asking("mmds", [](Controller& c) -> Result<json::value> {
            json::value document = c.mmds().get();
            if (document.is_null()) return fail(Code::conflict, "The MMDS data store is not initialized.");
            return document;
        });
    }
    if (!context.is("PUT") && !context.is("PATCH")) return no_such(context);
    json::value document = TRY(parse_body(context));
    if (!document.is_object()) return bad("The MMDS data must be a JSON object.");
    if (context.is("PUT"))
        return doing(put_section, "mmds",
                     [document = std::move(document)](Controller& c) { return c.mmds().put(document); });
    return doing(patch_section, "mmds",
                 [document = std::move(document)](Controller& c) { return c.mmds().patch(document); });
}

// The requests that are one PUT of one body.
template <class T>
Result<ParsedRequest> parse_put(const Context& context, const char* name, Result<T> (*parse)(const json::object&),
                                Result<> (*apply)(Controller&, T&)) {
    if (!context.is("PUT") || context.parts.size() != 1) return no_such(context);
    auto config = TRY(parse_as(context, parse));
    return doing(put_section, name,
                 [config = std::move(config), apply](Controller& c) mutable { return apply(c, config); });
}

Result<ParsedRequest> parse_snapshot(const Context& context) {
    if (!context.is("PUT") || context.parts.size() != 2) return no_such(context);
    if (context.part(1) == "create") {
        auto request = TRY(parse_as(context, parse_create_snapshot));
        return doing(put_section, "snapshot_create",
                     [request = std::move(request)](Controller& c) { return c.create_snapshot(request); });
    }
    if (context.part(1) != "load") return no_such(context);
    auto request = TRY(parse_as(context, parse_load_snapshot));
    const bool uses_deprecated = request.uses_deprecated;
    auto parsed = doing(put_section, "snapshot_load",
                        [request = std::move(request)](Controller& c) { return c.load_snapshot(request); });
    if (uses_deprecated)
        parsed.deprecated = "PUT /snapshot/load: mem_file_path and enable_diff_snapshots fields are deprecated.";
    return parsed;
}

Result<std::string> parse_metrics(const json::object& body) {
    Fields fields(body);
    auto path = TRY(fields.required_string("metrics_path"));
    TRY(fields.finish());
    return path;
}

}  // namespace

Result<ParsedRequest> parse_request(std::string_view method, std::string_view path, std::string_view body) {
    Context context{.method = method, .path = path, .parts = {}, .body = body};
    if (!path.starts_with('/')) return no_such(context);
    std::string_view rest = path.substr(1, path.find('?') == std::string_view::npos ? path.size() : path.find('?') - 1);
    while (!rest.empty()) {
        const std::size_t slash = std::min(rest.find('/'), rest.size());
        context.parts.push_back(rest.substr(0, slash));
        rest.remove_prefix(std::min(slash + 1, rest.size()));
    }
    if (context.is("GET") && !body.empty()) return bad("GET request cannot have a body.");
    const std::string_view top = context.part(0);
    if (top.empty() && context.is("GET"))
        return asking("instance_info", [](Controller& c) { return c.describe_instance(); });
    if (top == "version" && context.is("GET") && context.parts.size() == 1)
        return asking("vmm_version",
                      [](Controller&) { return json::value(json::object{{"firecracker_version", WHERRY_VERSION}}); });
    if (top == "actions") return parse_actions(context);
    if (top == "vm") return parse_vm(context);
    if (top == "machine-config") return parse_machine_config(context);
    if (top == "drives") return parse_drives(context);
    if (top == "network-interfaces") return parse_networks(context);
    if (top == "balloon") return parse_balloon_request(context);
    if (top == "mmds") return parse_mmds(context);
    if (top == "fs") return parse_folders(context);
    if (top == "boot-source")
        return parse_put<BootSource>(context, "boot_source", parse_boot_source,
                                     [](Controller& c, BootSource& source) { return c.set_boot_source(source); });
    if (top == "cpu-config")
        return parse_put<x86_64::CpuTemplate>(
            context, "cpu_cfg", parse_cpu_template,
            [](Controller& c, x86_64::CpuTemplate& chosen) { return c.set_cpu_template(chosen); });
    if (top == "vsock")
        return parse_put<vsock::Config>(context, "vsock", parse_vsock,
                                        [](Controller& c, vsock::Config& config) { return c.set_vsock(config); });
    if (top == "entropy")
        return parse_put<entropy::Config>(context, "entropy", parse_entropy,
                                          [](Controller& c, entropy::Config& config) { return c.set_entropy(config); });
    if (top == "serial")
        return parse_put<SerialConfig>(context, "serial", parse_serial,
                                       [](Controller& c, SerialConfig& config) { return c.set_serial(config); });
    if (top == "logger")
        return parse_put<LoggerConfig>(context, "logger", parse_logger,
                                       [](Controller& c, LoggerConfig& config) { return c.set_logger(config); });
    if (top == "metrics")
        return parse_put<std::string>(context, "metrics", parse_metrics,
                                      [](Controller& c, std::string& file) { return c.set_metrics(file); });
    if (top == "snapshot") return parse_snapshot(context);
    if (top == "pmem") return parse_pmems(context);
    if (top == "hotplug") return parse_memory_hotplugging(context);
    return no_such(context);
}

namespace {

template <class T>
Result<> apply_section(const json::object& file, std::string_view name, Result<T> (*parse)(const json::object&),
                       const std::function<Result<>(T&)>& apply) {
    const json::value* value = file.if_contains(name);
    if (value == nullptr || value->is_null()) return {};
    const std::string where(name);
    const auto one = [&](const json::value& item) -> Result<> {
        if (!item.is_object()) return bad(where + ": expected an object");
        T config = TRY(parse(item.get_object()), where);
        return apply(config);
    };
    if (!value->is_array()) return one(*value);
    for (const json::value& item : value->get_array()) TRY(one(item), where);
    return {};
}

}  // namespace

Result<> apply_configuration(Controller& controller, std::string_view text) {
    const json::object file = TRY(parse_json_object(text));
    constexpr std::array<std::string_view, 15> known = {
        "boot-source", "drives",  "machine-config", "cpu-config",  "balloon", "vsock", "network-interfaces",
        "logger",      "metrics", "entropy",        "mmds-config", "serial",  "pmem",  "memory-hotplug",
        "fs"};
    for (const auto& member : file) {
        const std::string_view key = member.key();
        if (std::ranges::find(known, key) == known.end()) return bad(fmt::format("unknown field `{}`", key));
    }
    Controller& c = controller;
    TRY(apply_section<LoggerConfig>(file, "logger", parse_logger, [&](LoggerConfig& x) { return c.set_logger(x); }));
    TRY(apply_section<std::string>(file, "metrics", parse_metrics, [&](std::string& x) { return c.set_metrics(x); }));
    TRY(apply_section<BootSource>(file, "boot-source", parse_boot_source,
                                  [&](BootSource& x) { return c.set_boot_source(std::move(x)); }));
    TRY(apply_section<MachineConfig>(file, "machine-config", parse_machine,
                                     [&](MachineConfig& x) { return c.set_machine(x); }));
    if (const json::value* value = file.if_contains("cpu-config"); value != nullptr && !value->is_null()) {
        // The path of a file with what the request would have in its body.
        if (!value->is_string()) return bad("cpu-config: expected the path of a file");
        const std::string body = TRY(read_file(std::string(value->get_string()), 1U << 20U), "cpu-config");
        const json::object parsed = TRY(parse_json_object(body), "cpu-config");
        TRY(c.set_cpu_template(TRY(parse_cpu_template(parsed), "cpu-config")));
    }
    TRY(apply_section<block::Config>(file, "drives", parse_drive,
                                     [&](block::Config& x) { return c.set_drive(std::move(x)); }));
    TRY(apply_section<net::Config>(file, "network-interfaces", parse_network,
                                   [&](net::Config& x) { return c.set_network(std::move(x)); }));
    TRY(apply_section<vsock::Config>(file, "vsock", parse_vsock, [&](vsock::Config& x) { return c.set_vsock(x); }));
    TRY(apply_section<balloon::Config>(file, "balloon", parse_balloon,
                                       [&](balloon::Config& x) { return c.set_balloon(x); }));
    TRY(apply_section<entropy::Config>(file, "entropy", parse_entropy,
                                       [&](entropy::Config& x) { return c.set_entropy(x); }));
    TRY(apply_section<pmem::Config>(file, "pmem", parse_pmem,
                                    [&](pmem::Config& x) { return c.set_pmem(std::move(x)); }));
    TRY(apply_section<mem::Config>(file, "memory-hotplug", parse_memory_hotplug,
                                   [&](mem::Config& x) { return c.set_memory_hotplug(x); }));
    TRY(apply_section<fs::Config>(file, "fs", parse_folder, [&](fs::Config& x) { return c.set_folder(std::move(x)); }));
    TRY(apply_section<SerialConfig>(file, "serial", parse_serial, [&](SerialConfig& x) { return c.set_serial(x); }));
    return apply_section<MmdsConfig>(file, "mmds-config", parse_mmds_config,
                                     [&](MmdsConfig& x) { return c.configure_mmds(x); });
}

}  // namespace wherry::vmm::api

#pragma clang attribute pop
