#include "engine/container.hpp"

#include <array>
#include <utility>

#include "base/json.hpp"
#include "engine/endpoint_record.hpp"

namespace wherry::engine {
namespace {

constexpr std::array<std::pair<Phase, std::string_view>, 8> phases{{{Phase::created, "created"},
                                                                    {Phase::starting, "starting"},
                                                                    {Phase::running, "running"},
                                                                    {Phase::paused, "paused"},
                                                                    {Phase::restarting, "restarting"},
                                                                    {Phase::exited, "exited"},
                                                                    {Phase::removing, "removing"},
                                                                    {Phase::dead, "dead"}}};

json::array to_array(const Strings& strings) {
    return json::array(strings.begin(), strings.end());
}

std::int64_t to_ns(WallTime time) {
    return time.time_since_epoch().count();
}
WallTime from_ns(std::int64_t ns) {
    return WallTime(Nanoseconds(ns));
}

json::object to_object(const MountPoint& mount) {
    return {
        {"type", mount.type},     {"name", mount.name}, {"source", mount.source}, {"dest", mount.destination},
        {"driver", mount.driver}, {"mode", mount.mode}, {"rw", mount.read_write}, {"propagation", mount.propagation}};
}

Result<MountPoint> mount_from(const JsonReader& reader) {
    MountPoint mount;
    mount.type = TRY(reader.required_string("type"));
    mount.name = TRY(reader.string_or("name", ""));
    mount.source = TRY(reader.string_or("source", ""));
    mount.destination = TRY(reader.required_string("dest"));
    mount.driver = TRY(reader.string_or("driver", ""));
    mount.mode = TRY(reader.string_or("mode", ""));
    mount.read_write = TRY(reader.boolean_or("rw", true));
    mount.propagation = TRY(reader.string_or("propagation", ""));
    return mount;
}

json::object to_object(const HealthView& health) {
    json::array log;
    for (const HealthLogEntry& entry : health.log) {
        log.push_back(json::object{{"start", to_ns(entry.start)},
                                   {"end", to_ns(entry.end)},
                                   {"exit", entry.exit_code},
                                   {"output", entry.output}});
    }
    return {{"status", health.status}, {"streak", health.failing_streak}, {"log", std::move(log)}};
}

Result<HealthView> health_from(const JsonReader& reader) {
    HealthView health;
    health.status = TRY(reader.string_or("status", "starting"));
    health.failing_streak = static_cast<int>(TRY(reader.integer_or("streak", 0)));
    for (const JsonReader& entry : TRY(reader.children("log"))) {
        health.log.push_back({.start = from_ns(TRY(entry.integer_or("start", 0))),
                              .end = from_ns(TRY(entry.integer_or("end", 0))),
                              .exit_code = static_cast<int>(TRY(entry.integer_or("exit", 0))),
                              .output = TRY(entry.string_or("output", ""))});
    }
    return health;
}

template <class T>
json::array to_objects(const std::vector<T>& values) {
    json::array array;
    for (const T& value : values) array.push_back(to_object(value));
    return array;
}

}  // namespace

std::string_view to_string(Phase phase) {
    for (const auto& [value, name] : phases) {
        if (value == phase) return name;
    }
    return "dead";
}

Result<Phase> parse_phase(std::string_view text) {
    for (const auto& [value, name] : phases) {
        if (name == text) return value;
    }
    return fail(Code::data_loss, "unknown state " + std::string(text));
}

store::Record to_record(const Container& container) {
    json::object spec{{"name", container.name},
                      {"created", to_ns(container.created)},
                      {"image", container.image_id},
                      {"layers", to_array(container.diff_ids)},
                      {"path", container.path},
                      {"args", to_array(container.args)},
                      {"mounts", to_objects(container.mounts)},
                      {"anonymous", to_array(container.anonymous_volumes)},
                      {"sandbox", container.sandbox_id},
                      {"config", encode_config(container.spec.config)},
                      {"host", encode_host_config(container.spec.host_config)},
                      {"net", encode_networking_config(container.spec.networking)}};
    json::object status{{"phase", to_string(container.phase)},
                        {"wanted", container.wanted},
                        {"stopped", container.manually_stopped},
                        {"oom", container.oom_killed},
                        {"pid", container.pid},
                        {"exit", container.exit_code},
                        {"signal", container.exit_signal},
                        {"error", container.error},
                        {"started", to_ns(container.started_at)},
                        {"finished", to_ns(container.finished_at)},
                        {"restarts", container.restart_count},
                        {"denied", container.denied_syscall}};
    write_network_status(status, container.endpoint, container.ports);
    if (container.health) status["health"] = to_object(*container.health);
    return {.kind = std::string(container_kind), .key = container.id, .spec = to_json(spec), .status = to_json(status)};
}

Result<ContainerPtr> container_from_record(const store::Record& record) {
    auto container = std::make_shared<Container>();
    container->id = record.key;
    const json::object spec_object = TRY(parse_json_object(record.spec));
    const JsonReader spec(spec_object, "spec");
    container->name = TRY(spec.required_string("name"));
    container->created = from_ns(TRY(spec.integer_or("created", 0)));
    container->image_id = TRY(spec.string_or("image", ""));
    container->diff_ids = TRY(spec.strings("layers"));
    container->path = TRY(spec.string_or("path", ""));
    container->args = TRY(spec.strings("args"));
    for (const JsonReader& mount : TRY(spec.children("mounts"))) container->mounts.push_back(TRY(mount_from(mount)));
    container->anonymous_volumes = TRY(spec.strings("anonymous"));
    container->sandbox_id = TRY(spec.string_or("sandbox", record.key));
    if (const auto config = TRY(spec.child("config"))) {
        container->spec.config = TRY(decode_config(config->object(), "config"));
    }
    if (const auto host = TRY(spec.child("host"))) {
        container->spec.host_config = TRY(decode_host_config(host->object(), "host"));
    }
    if (const auto networking = TRY(spec.child("net"))) {
        container->spec.networking = TRY(decode_networking_config(networking->object(), "net"));
    }
    const json::object status_object = TRY(parse_json_object(record.status));
    const JsonReader status(status_object, "status");
    container->phase = TRY(parse_phase(TRY(status.required_string("phase"))));
    container->wanted = TRY(status.boolean_or("wanted", false));
    container->manually_stopped = TRY(status.boolean_or("stopped", false));
    container->oom_killed = TRY(status.boolean_or("oom", false));
    container->pid = static_cast<int>(TRY(status.integer_or("pid", 0)));
    container->exit_code = TRY(status.integer_or("exit", 0));
    container->exit_signal = static_cast<int>(TRY(status.integer_or("signal", 0)));
    container->error = TRY(status.string_or("error", ""));
    container->started_at = from_ns(TRY(status.integer_or("started", 0)));
    container->finished_at = from_ns(TRY(status.integer_or("finished", 0)));
    container->restart_count = static_cast<int>(TRY(status.integer_or("restarts", 0)));
    container->denied_syscall = TRY(status.string_or("denied", ""));
    TRY(read_network_status(status, container->endpoint, container->ports));
    if (const auto health = TRY(status.child("health"))) container->health = TRY(health_from(*health));
    return container;
}

ContainerPaths container_paths(const std::string& data_root, const std::string& exec_root, const Container& container) {
    ContainerPaths paths;
    paths.directory = data_root + "/containers/" + container.id;
    paths.hostname = paths.directory + "/hostname";
    paths.hosts = paths.directory + "/hosts";
    paths.resolv_conf = paths.directory + "/resolv.conf";
    paths.log = paths.directory + "/" + container.id + "-json.log";
    paths.exit_record = paths.directory + "/exit.json";
    paths.shm = paths.directory + "/shm";
    paths.sandbox = exec_root + "/sandboxes/" + container.sandbox_id;
    paths.started = paths.sandbox + "/started-" + container.id;
    return paths;
}

}  // namespace wherry::engine
