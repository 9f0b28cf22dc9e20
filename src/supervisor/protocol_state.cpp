// Codecs of what a shim says about its containers: states, exits, statistics, events.
#include "base/fd.hpp"
#include "supervisor/protocol.hpp"
#include "supervisor/protocol_codec.hpp"

namespace wherry::supervisor {

using codec::put;

std::string_view to_string(Status status) {
    switch (status) {
        case Status::created:
            return "created";
        case Status::running:
            return "running";
        case Status::paused:
            return "paused";
        case Status::stopped:
            break;
    }
    return "stopped";
}

namespace {

Result<Status> parse_status(const JsonReader& reader, std::string_view key) {
    std::string name = TRY(reader.string_or(key, "stopped"));
    for (Status status : {Status::created, Status::running, Status::paused, Status::stopped}) {
        if (to_string(status) == name) return status;
    }
    return reader.wrong(key, "a status");
}

}  // namespace

Result<ExitStatus> ExitStatus::parse(const JsonReader& reader) {
    ExitStatus value;
    value.code = TRY(codec::integer<std::int32_t>(reader, "code", 0));
    value.signal = TRY(codec::integer<std::int32_t>(reader, "signal", 0));
    value.oom_killed = TRY(reader.boolean_or("oom_killed", false));
    value.finished_at = TRY(codec::time(reader, "finished_at"));
    return value;
}

json::object to_json_object(const ExitStatus& value) {
    json::object object;
    put(object, "code", value.code);
    put(object, "signal", value.signal);
    put(object, "oom_killed", value.oom_killed);
    put(object, "finished_at", value.finished_at);
    return object;
}

Result<ExitRecord> ExitRecord::parse(const JsonReader& reader) {
    ExitRecord value;
    value.container_id = TRY(reader.required_string("container_id"));
    value.pid = TRY(codec::integer<pid_t>(reader, "pid", 0));
    value.started_at = TRY(codec::time(reader, "started_at"));
    auto status = TRY(codec::optional<ExitStatus>(reader, "status"));
    if (!status) return reader.wrong("status", "an exit status");
    value.status = *status;
    return value;
}

json::object to_json_object(const ExitRecord& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    put(object, "pid", value.pid);
    put(object, "started_at", value.started_at);
    object.emplace("status", to_json_object(value.status));
    return object;
}

Result<ExitRecord> read_exit_record(const std::string& path) {
    std::string text = TRY(read_file(path, 64U << 10U), "exit record");
    json::object object = TRY(parse_json_object(text), "exit record " + path);
    return ExitRecord::parse(JsonReader(object, "exit record"));
}

Result<Timing> Timing::parse(const JsonReader& reader) {
    Timing value;
    value.phase = TRY(reader.required_string("phase"));
    value.at_ns = TRY(reader.integer_or("at_ns", 0));
    return value;
}

json::object to_json_object(const Timing& value) {
    json::object object;
    put(object, "phase", value.phase);
    put(object, "at_ns", value.at_ns);
    return object;
}

Result<ExecState> ExecState::parse(const JsonReader& reader) {
    ExecState value;
    value.exec_id = TRY(reader.required_string("exec_id"));
    value.pid = TRY(codec::integer<pid_t>(reader, "pid", 0));
    value.start_ticks = TRY(codec::integer<std::uint64_t>(reader, "start_ticks", 0));
    value.running = TRY(reader.boolean_or("running", false));
    value.terminal = TRY(reader.boolean_or("terminal", false));
    value.started_at = TRY(codec::time(reader, "started_at"));
    value.exit = TRY(codec::optional<ExitStatus>(reader, "exit"));
    value.stdout_bytes = TRY(codec::integer<std::uint64_t>(reader, "stdout_bytes", 0));
    value.stderr_bytes = TRY(codec::integer<std::uint64_t>(reader, "stderr_bytes", 0));
    return value;
}

json::object to_json_object(const ExecState& value) {
    json::object object;
    put(object, "exec_id", value.exec_id);
    put(object, "pid", value.pid);
    put(object, "start_ticks", value.start_ticks);
    put(object, "running", value.running);
    put(object, "terminal", value.terminal);
    put(object, "started_at", value.started_at);
    if (value.exit) object.emplace("exit", to_json_object(*value.exit));
    put(object, "stdout_bytes", value.stdout_bytes);
    put(object, "stderr_bytes", value.stderr_bytes);
    return object;
}

Result<ContainerState> ContainerState::parse(const JsonReader& reader) {
    ContainerState value;
    value.container_id = TRY(reader.required_string("container_id"));
    value.status = TRY(parse_status(reader, "status"));
    value.pid = TRY(codec::integer<pid_t>(reader, "pid", 0));
    value.start_ticks = TRY(codec::integer<std::uint64_t>(reader, "start_ticks", 0));
    value.terminal = TRY(reader.boolean_or("terminal", false));
    value.stdin_open = TRY(reader.boolean_or("stdin_open", false));
    value.created_at = TRY(codec::time(reader, "created_at"));
    value.started_at = TRY(codec::time(reader, "started_at"));
    value.exit = TRY(codec::optional<ExitStatus>(reader, "exit"));
    value.stdout_bytes = TRY(codec::integer<std::uint64_t>(reader, "stdout_bytes", 0));
    value.stderr_bytes = TRY(codec::integer<std::uint64_t>(reader, "stderr_bytes", 0));
    value.oom_kills = TRY(codec::integer<std::uint64_t>(reader, "oom_kills", 0));
    value.execs = TRY(codec::list<ExecState>(reader, "execs"));
    value.timings = TRY(codec::list<Timing>(reader, "timings"));
    return value;
}

json::object to_json_object(const ContainerState& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    put(object, "status", to_string(value.status));
    put(object, "pid", value.pid);
    put(object, "start_ticks", value.start_ticks);
    put(object, "terminal", value.terminal);
    put(object, "stdin_open", value.stdin_open);
    put(object, "created_at", value.created_at);
    put(object, "started_at", value.started_at);
    if (value.exit) object.emplace("exit", to_json_object(*value.exit));
    put(object, "stdout_bytes", value.stdout_bytes);
    put(object, "stderr_bytes", value.stderr_bytes);
    put(object, "oom_kills", value.oom_kills);
    codec::put_list(object, "execs", value.execs);
    codec::put_list(object, "timings", value.timings);
    return object;
}

Result<SandboxState> SandboxState::parse(const JsonReader& reader) {
    SandboxState value;
    value.sandbox_id = TRY(reader.string_or("sandbox_id", ""));
    value.pid = TRY(codec::integer<pid_t>(reader, "pid", 0));
    value.netns_fd = TRY(reader.integer_or("netns_fd", -1));
    value.containers = TRY(codec::list<ContainerState>(reader, "containers"));
    return value;
}

json::object to_json_object(const SandboxState& value) {
    json::object object;
    put(object, "sandbox_id", value.sandbox_id);
    put(object, "pid", value.pid);
    put(object, "netns_fd", value.netns_fd);
    codec::put_list(object, "containers", value.containers);
    return object;
}

namespace {

Result<std::vector<BlockIo>> parse_block_io(const JsonReader& reader, std::string_view key) {
    std::vector<BlockIo> items;
    for (const JsonReader& child : TRY(reader.children(key))) {
        BlockIo item;
        item.major = TRY(codec::integer<std::uint64_t>(child, "major", 0));
        item.minor = TRY(codec::integer<std::uint64_t>(child, "minor", 0));
        item.operation = TRY(child.string_or("operation", ""));
        item.value = TRY(codec::integer<std::uint64_t>(child, "value", 0));
        items.push_back(std::move(item));
    }
    return items;
}

void put_block_io(json::object& object, std::string_view key, const std::vector<BlockIo>& items) {
    if (items.empty()) return;
    json::array array;
    for (const BlockIo& item : items) {
        json::object entry;
        put(entry, "major", item.major);
        put(entry, "minor", item.minor);
        put(entry, "operation", item.operation);
        put(entry, "value", item.value);
        array.emplace_back(std::move(entry));
    }
    object.emplace(key, std::move(array));
}

// The plain counters of Stats and their names on the wire.
template <class Visitor, class S>
void visit_counters(S& stats, Visitor&& visit) {
    visit("cpu_total_ns", stats.cpu_total_ns);
    visit("cpu_user_ns", stats.cpu_user_ns);
    visit("cpu_system_ns", stats.cpu_system_ns);
    visit("cpu_periods", stats.cpu_periods);
    visit("cpu_throttled_periods", stats.cpu_throttled_periods);
    visit("cpu_throttled_ns", stats.cpu_throttled_ns);
    visit("memory_usage_bytes", stats.memory_usage_bytes);
    visit("memory_max_usage_bytes", stats.memory_max_usage_bytes);
    visit("memory_limit_bytes", stats.memory_limit_bytes);
    visit("memory_failures", stats.memory_failures);
    visit("pids_current", stats.pids_current);
    visit("pids_limit", stats.pids_limit);
    visit("oom_kills", stats.oom_kills);
}

}  // namespace

Result<Stats> Stats::parse(const JsonReader& reader) {
    Stats value;
    value.read_at = TRY(codec::time(reader, "read_at"));
    Result<> outcome{};
    visit_counters(value, [&](std::string_view key, std::uint64_t& counter) {
        if (!outcome) return;
        auto number = codec::integer<std::uint64_t>(reader, key, 0);
        if (number) {
            counter = *number;
        } else {
            outcome = std::unexpected(std::move(number).error());
        }
    });
    TRY(std::move(outcome));
    if (auto child = TRY(reader.child("memory_stat"))) {
        for (const auto& member : child->object())
            value.memory_stat.emplace(member.key(), TRY(codec::integer<std::uint64_t>(*child, member.key(), 0)));
    }
    value.io_service_bytes = TRY(parse_block_io(reader, "io_service_bytes"));
    value.io_serviced = TRY(parse_block_io(reader, "io_serviced"));
    return value;
}

json::object to_json_object(const Stats& value) {
    json::object object;
    put(object, "read_at", value.read_at);
    visit_counters(value, [&](std::string_view key, const std::uint64_t& counter) { put(object, key, counter); });
    codec::put_map(object, "memory_stat", value.memory_stat);
    put_block_io(object, "io_service_bytes", value.io_service_bytes);
    put_block_io(object, "io_serviced", value.io_serviced);
    return object;
}

Result<LogProgress> LogProgress::parse(const JsonReader& reader) {
    LogProgress value;
    value.entries = TRY(codec::integer<std::uint64_t>(reader, "entries", 0));
    value.ended = TRY(reader.boolean_or("ended", false));
    return value;
}

json::object to_json_object(const LogProgress& value) {
    json::object object;
    put(object, "entries", value.entries);
    put(object, "ended", value.ended);
    return object;
}

Result<StreamReply> StreamReply::parse(const JsonReader& reader) {
    StreamReply value;
    value.stdout_offset = TRY(codec::integer<std::uint64_t>(reader, "stdout_offset", 0));
    value.stderr_offset = TRY(codec::integer<std::uint64_t>(reader, "stderr_offset", 0));
    value.terminal = TRY(reader.boolean_or("terminal", false));
    return value;
}

json::object to_json_object(const StreamReply& value) {
    json::object object;
    put(object, "stdout_offset", value.stdout_offset);
    put(object, "stderr_offset", value.stderr_offset);
    put(object, "terminal", value.terminal);
    return object;
}

Result<ExitEvent> ExitEvent::parse(const JsonReader& reader) {
    ExitEvent value;
    value.container_id = TRY(reader.required_string("container_id"));
    value.exec_id = TRY(reader.string_or("exec_id", ""));
    auto status = TRY(codec::optional<ExitStatus>(reader, "status"));
    if (!status) return reader.wrong("status", "an exit status");
    value.status = *status;
    return value;
}

json::object to_json_object(const ExitEvent& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    put(object, "exec_id", value.exec_id);
    object.emplace("status", to_json_object(value.status));
    return object;
}

Result<OomEvent> OomEvent::parse(const JsonReader& reader) {
    OomEvent value;
    value.container_id = TRY(reader.required_string("container_id"));
    value.oom_kills = TRY(codec::integer<std::uint64_t>(reader, "oom_kills", 0));
    return value;
}

json::object to_json_object(const OomEvent& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    put(object, "oom_kills", value.oom_kills);
    return object;
}

}  // namespace wherry::supervisor
