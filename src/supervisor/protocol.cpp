#include "supervisor/protocol.hpp"

#include <algorithm>
#include <array>

#include "base/fd.hpp"
#include "supervisor/protocol_codec.hpp"

namespace wherry::supervisor {

namespace codec {

bool is_identifier(std::string_view text) {
    auto alphanumeric = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    };
    if (text.empty() || text.size() > 128 || !alphanumeric(text.front())) return false;
    return std::ranges::all_of(text, [&](char c) { return alphanumeric(c) || c == '_' || c == '.' || c == '-'; });
}

Result<std::string> identifier(const JsonReader& reader, std::string_view key) {
    std::string text = TRY(reader.required_string(key));
    if (!is_identifier(text)) return reader.wrong(key, "an identifier");
    return text;
}

Result<std::string> optional_identifier(const JsonReader& reader, std::string_view key) {
    std::string text = TRY(reader.string_or(key, ""));
    if (!text.empty() && !is_identifier(text)) return reader.wrong(key, "an identifier");
    return text;
}

Result<std::string> absolute_path(const JsonReader& reader, std::string_view key) {
    std::string text = TRY(reader.string_or(key, ""));
    if (!text.empty() && (text.front() != '/' || text.find('\0') != std::string::npos))
        return reader.wrong(key, "an absolute path");
    return text;
}

}  // namespace codec

using codec::put;

namespace {

struct CodeName {
    Code code;
    std::string_view name;
};

// The names of the wire. A client that is older than a code reads it as internal.
constexpr std::array code_names{
    CodeName{Code::invalid_argument, "invalid_argument"},
    CodeName{Code::not_found, "not_found"},
    CodeName{Code::already_exists, "already_exists"},
    CodeName{Code::conflict, "conflict"},
    CodeName{Code::permission_denied, "permission_denied"},
    CodeName{Code::unauthenticated, "unauthenticated"},
    CodeName{Code::resource_exhausted, "resource_exhausted"},
    CodeName{Code::unavailable, "unavailable"},
    CodeName{Code::deadline_exceeded, "deadline_exceeded"},
    CodeName{Code::cancelled, "cancelled"},
    CodeName{Code::unimplemented, "unimplemented"},
    CodeName{Code::data_loss, "data_loss"},
    CodeName{Code::out_of_range, "out_of_range"},
    CodeName{Code::internal, "internal"},
};

}  // namespace

json::object error_to_json(const Error& error) {
    json::object object;
    std::string_view name = "internal";
    for (const CodeName& entry : code_names) {
        if (entry.code == error.code()) name = entry.name;
    }
    object.emplace("code", json::string(name));
    object.emplace("message", json::string(error.describe()));
    if (error.os_errno() != 0) object.emplace("errno", error.os_errno());
    return object;
}

Error error_from_json(const JsonReader& reader) {
    std::string name = reader.string_or("code", "internal").value_or("internal");
    std::string message = reader.string_or("message", "unknown error").value_or("unknown error");
    std::int64_t os_errno = reader.integer_or("errno", 0).value_or(0);
    Code code = Code::internal;
    for (const CodeName& entry : code_names) {
        if (entry.name == name) code = entry.code;
    }
    return Error(code, std::move(message), os_errno > 0 && os_errno < 4096 ? static_cast<int>(os_errno) : 0);
}

std::string_view to_string(LogDriver driver) {
    switch (driver) {
        case LogDriver::json_file:
            return "json-file";
        case LogDriver::local:
            return "local";
        case LogDriver::none:
            break;
    }
    return "none";
}

Result<LogDriver> parse_log_driver(std::string_view name) {
    for (LogDriver driver : {LogDriver::none, LogDriver::json_file, LogDriver::local}) {
        if (to_string(driver) == name) return driver;
    }
    return fail(Code::invalid_argument, "unknown log driver: " + std::string(name));
}

Result<ProcessReference> ProcessReference::parse(const JsonReader& reader) {
    ProcessReference value;
    value.container_id = TRY(codec::identifier(reader, "container_id"));
    value.exec_id = TRY(codec::optional_identifier(reader, "exec_id"));
    return value;
}

json::object to_json_object(const ProcessReference& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    put(object, "exec_id", value.exec_id);
    return object;
}

Result<Hello> Hello::parse(const JsonReader& reader) {
    Hello value;
    value.version = TRY(reader.integer_or("version", 0));
    value.features = TRY(reader.strings("features"));
    value.client = TRY(reader.string_or("client", ""));
    value.sandbox_id = TRY(codec::optional_identifier(reader, "sandbox_id"));
    value.directory = TRY(codec::absolute_path(reader, "directory"));
    return value;
}

json::object to_json_object(const Hello& value) {
    json::object object;
    put(object, "version", value.version);
    codec::put_strings(object, "features", value.features);
    put(object, "client", value.client);
    put(object, "sandbox_id", value.sandbox_id);
    put(object, "directory", value.directory);
    return object;
}

Result<HelloReply> HelloReply::parse(const JsonReader& reader) {
    HelloReply value;
    value.version = TRY(reader.integer_or("version", 0));
    value.software = TRY(reader.string_or("software", ""));
    value.features = TRY(reader.strings("features"));
    value.sandbox_id = TRY(reader.string_or("sandbox_id", ""));
    value.pid = TRY(codec::integer<pid_t>(reader, "pid", 0));
    value.started_at = TRY(codec::time(reader, "started_at"));
    return value;
}

json::object to_json_object(const HelloReply& value) {
    json::object object;
    put(object, "version", value.version);
    put(object, "software", value.software);
    codec::put_strings(object, "features", value.features);
    put(object, "sandbox_id", value.sandbox_id);
    put(object, "pid", value.pid);
    put(object, "started_at", value.started_at);
    return object;
}

Result<RootFilesystem> RootFilesystem::parse(const JsonReader& reader) {
    RootFilesystem value;
    value.lower_directories = TRY(reader.strings("lower_directories"));
    for (const std::string& directory : value.lower_directories) {
        if (directory.empty() || directory.front() != '/' || directory.find('\0') != std::string::npos)
            return reader.wrong("lower_directories", "absolute paths");
    }
    value.upper_directory = TRY(codec::absolute_path(reader, "upper_directory"));
    value.work_directory = TRY(codec::absolute_path(reader, "work_directory"));
    value.volatile_writes = TRY(reader.boolean_or("volatile_writes", false));
    value.options = TRY(reader.strings("options"));
    return value;
}

json::object to_json_object(const RootFilesystem& value) {
    json::object object;
    codec::put_strings(object, "lower_directories", value.lower_directories);
    put(object, "upper_directory", value.upper_directory);
    put(object, "work_directory", value.work_directory);
    put(object, "volatile_writes", value.volatile_writes);
    codec::put_strings(object, "options", value.options);
    return object;
}

Result<LogOptions> LogOptions::parse(const JsonReader& reader) {
    LogOptions value;
    value.driver = TRY(parse_log_driver(TRY(reader.string_or("driver", "none"))));
    value.path = TRY(codec::absolute_path(reader, "path"));
    if (value.driver != LogDriver::none && value.path.empty()) return reader.wrong("path", "the path of the log");
    value.max_size_bytes = TRY(codec::integer<std::uint64_t>(reader, "max_size_bytes", 0));
    value.max_files = TRY(codec::integer<std::uint32_t>(reader, "max_files", 1));
    if (value.max_files < 1 || value.max_files > 1000) return reader.wrong("max_files", "a number from 1 to 1000");
    value.compress = TRY(reader.boolean_or("compress", false));
    value.attributes = TRY(reader.string_map("attributes"));
    return value;
}

json::object to_json_object(const LogOptions& value) {
    json::object object;
    put(object, "driver", to_string(value.driver));
    put(object, "path", value.path);
    put(object, "max_size_bytes", value.max_size_bytes);
    put(object, "max_files", value.max_files);
    put(object, "compress", value.compress);
    codec::put_map(object, "attributes", value.attributes);
    return object;
}

Result<CreateRequest> CreateRequest::parse(const JsonReader& reader) {
    CreateRequest value;
    value.container_id = TRY(codec::identifier(reader, "container_id"));
    value.spec = TRY(codec::object(reader, "spec"));
    value.bundle = TRY(codec::absolute_path(reader, "bundle"));
    if (auto root = TRY(reader.child("root"))) value.root = TRY(RootFilesystem::parse(*root));
    value.seccomp_path = TRY(codec::absolute_path(reader, "seccomp_path"));
    value.exit_record_path = TRY(codec::absolute_path(reader, "exit_record_path"));
    if (auto log = TRY(reader.child("log"))) value.log = TRY(LogOptions::parse(*log));
    value.stdin_open = TRY(reader.boolean_or("stdin_open", false));
    value.stdin_once = TRY(reader.boolean_or("stdin_once", false));
    value.init = TRY(reader.boolean_or("init", false));
    value.no_pivot = TRY(reader.boolean_or("no_pivot", false));
    value.keep_session_keyring = TRY(reader.boolean_or("keep_session_keyring", false));
    return value;
}

json::object to_json_object(const CreateRequest& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    object.emplace("spec", value.spec);
    put(object, "bundle", value.bundle);
    object.emplace("root", to_json_object(value.root));
    put(object, "seccomp_path", value.seccomp_path);
    put(object, "exit_record_path", value.exit_record_path);
    object.emplace("log", to_json_object(value.log));
    put(object, "stdin_open", value.stdin_open);
    put(object, "stdin_once", value.stdin_once);
    put(object, "init", value.init);
    put(object, "no_pivot", value.no_pivot);
    put(object, "keep_session_keyring", value.keep_session_keyring);
    return object;
}

Result<SandboxRequest> SandboxRequest::parse(const JsonReader& reader) {
    SandboxRequest value;
    value.namespaces = TRY(reader.strings("namespaces"));
    for (const std::string& kind : value.namespaces) {
        if (kind != "ipc" && kind != "uts" && kind != "pid") return reader.wrong("namespaces", "ipc, uts or pid");
    }
    value.hostname = TRY(reader.string_or("hostname", ""));
    value.domainname = TRY(reader.string_or("domainname", ""));
    for (const auto* name : {&value.hostname, &value.domainname}) {
        if (name->size() > 64 || name->find('\0') != std::string::npos)
            return reader.wrong(name == &value.hostname ? "hostname" : "domainname", "at most 64 bytes");
    }
    return value;
}

json::object to_json_object(const SandboxRequest& value) {
    json::object object;
    codec::put_strings(object, "namespaces", value.namespaces);
    put(object, "hostname", value.hostname);
    put(object, "domainname", value.domainname);
    return object;
}

Result<ExecRequest> ExecRequest::parse(const JsonReader& reader) {
    ExecRequest value;
    value.container_id = TRY(codec::identifier(reader, "container_id"));
    value.exec_id = TRY(codec::identifier(reader, "exec_id"));
    value.process = TRY(codec::object(reader, "process"));
    value.stdin_open = TRY(reader.boolean_or("stdin_open", false));
    value.discard_output = TRY(reader.boolean_or("discard_output", false));
    value.privileged = TRY(reader.boolean_or("privileged", false));
    return value;
}

json::object to_json_object(const ExecRequest& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    put(object, "exec_id", value.exec_id);
    object.emplace("process", value.process);
    put(object, "stdin_open", value.stdin_open);
    put(object, "discard_output", value.discard_output);
    put(object, "privileged", value.privileged);
    return object;
}

Result<KillRequest> KillRequest::parse(const JsonReader& reader) {
    KillRequest value;
    value.container_id = TRY(codec::identifier(reader, "container_id"));
    value.exec_id = TRY(codec::optional_identifier(reader, "exec_id"));
    value.signal = TRY(reader.integer_or("signal", 15));
    if (value.signal < 1 || value.signal > 64) return reader.wrong("signal", "a signal number");
    value.all = TRY(reader.boolean_or("all", false));
    return value;
}

json::object to_json_object(const KillRequest& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    put(object, "exec_id", value.exec_id);
    put(object, "signal", value.signal);
    put(object, "all", value.all);
    return object;
}

Result<ResizeRequest> ResizeRequest::parse(const JsonReader& reader) {
    ResizeRequest value;
    value.container_id = TRY(codec::identifier(reader, "container_id"));
    value.exec_id = TRY(codec::optional_identifier(reader, "exec_id"));
    value.width = TRY(codec::integer<std::uint16_t>(reader, "width", 0));
    value.height = TRY(codec::integer<std::uint16_t>(reader, "height", 0));
    return value;
}

json::object to_json_object(const ResizeRequest& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    put(object, "exec_id", value.exec_id);
    put(object, "width", value.width);
    put(object, "height", value.height);
    return object;
}

Result<DeleteRequest> DeleteRequest::parse(const JsonReader& reader) {
    DeleteRequest value;
    value.container_id = TRY(codec::identifier(reader, "container_id"));
    value.force = TRY(reader.boolean_or("force", false));
    return value;
}

json::object to_json_object(const DeleteRequest& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    put(object, "force", value.force);
    return object;
}

Result<UpdateRequest> UpdateRequest::parse(const JsonReader& reader) {
    UpdateRequest value;
    value.container_id = TRY(codec::identifier(reader, "container_id"));
    value.resources = TRY(codec::object(reader, "resources"));
    return value;
}

json::object to_json_object(const UpdateRequest& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    object.emplace("resources", value.resources);
    return object;
}

Result<LogWaitRequest> LogWaitRequest::parse(const JsonReader& reader) {
    LogWaitRequest value;
    value.container_id = TRY(codec::identifier(reader, "container_id"));
    value.after = TRY(codec::integer<std::uint64_t>(reader, "after", 0));
    return value;
}

json::object to_json_object(const LogWaitRequest& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    put(object, "after", value.after);
    return object;
}

Result<StreamRequest> StreamRequest::parse(const JsonReader& reader) {
    StreamRequest value;
    value.container_id = TRY(codec::identifier(reader, "container_id"));
    value.exec_id = TRY(codec::optional_identifier(reader, "exec_id"));
    value.want_stdin = TRY(reader.boolean_or("want_stdin", false));
    value.want_stdout = TRY(reader.boolean_or("want_stdout", false));
    value.want_stderr = TRY(reader.boolean_or("want_stderr", false));
    value.stdout_offset = TRY(reader.unsigned_integer("stdout_offset"));
    value.stderr_offset = TRY(reader.unsigned_integer("stderr_offset"));
    return value;
}

json::object to_json_object(const StreamRequest& value) {
    json::object object;
    put(object, "container_id", value.container_id);
    put(object, "exec_id", value.exec_id);
    put(object, "want_stdin", value.want_stdin);
    put(object, "want_stdout", value.want_stdout);
    put(object, "want_stderr", value.want_stderr);
    if (value.stdout_offset) put(object, "stdout_offset", *value.stdout_offset);
    if (value.stderr_offset) put(object, "stderr_offset", *value.stderr_offset);
    return object;
}

}  // namespace wherry::supervisor
