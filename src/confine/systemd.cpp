#include "confine/systemd.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "base/clock.hpp"
#include "confine/cgroup_internal.hpp"
#include "confine/cgroup_resources.hpp"
#include "confine/dbus_message.hpp"

namespace wherry::confine {

namespace {

constexpr const char* manager_path = "/org/freedesktop/systemd1";
constexpr const char* manager_interface = "org.freedesktop.systemd1.Manager";
constexpr const char* manager_name = "org.freedesktop.systemd1";
constexpr std::int64_t patience_ns = 30'000'000'000;

bool good_unit_name(std::string_view name) {
    if (name.empty() || name.size() > 255) return false;
    for (char letter : name) {
        bool good = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                    (letter >= '0' && letter <= '9') ||
                    std::string_view(":-_.\\@").find(letter) != std::string_view::npos;
        if (!good) return false;
    }
    return true;
}

// One (sv) of an array of properties.
void property(dbus::Writer& out, std::string_view name, std::string_view type) {
    out.align(8);
    out.string(name);
    out.signature(type);
}

void number_property(dbus::Writer& out, std::string_view name, std::uint64_t value) {
    property(out, name, "t");
    out.u64(value);
}

void text_property(dbus::Writer& out, std::string_view name, std::string_view value) {
    property(out, name, "s");
    out.string(value);
}

void flag_property(dbus::Writer& out, std::string_view name) {
    property(out, name, "b");
    out.boolean(true);
}

void limit_properties(dbus::Writer& out, const ScopeLimits& limits, bool v2) {
    if (limits.memory_max) number_property(out, v2 ? "MemoryMax" : "MemoryLimit", *limits.memory_max);
    if (limits.memory_low && v2) number_property(out, "MemoryLow", *limits.memory_low);
    if (limits.tasks_max) number_property(out, "TasksMax", *limits.tasks_max);
    if (limits.cpu_shares && v2) number_property(out, "CPUWeight", cpu_shares_to_weight(*limits.cpu_shares));
    if (limits.cpu_shares && !v2) number_property(out, "CPUShares", *limits.cpu_shares);
    if (limits.cpu_quota_us_per_s) {
        // systemd counts in hundredths of a processor: rounded up, for what is asked has to be there.
        std::uint64_t quota = *limits.cpu_quota_us_per_s;
        constexpr std::uint64_t step = 10'000;
        if (quota != ~std::uint64_t{0}) quota = (quota + step - 1) / step * step;
        number_property(out, "CPUQuotaPerSecUSec", quota);
    }
}

bool limits_on_v2() {
    auto system = CgroupSystem::of_this_host();
    return system && (*system)->on_v2("memory");
}

std::string runtime_directory() {
    const char* value = std::getenv("XDG_RUNTIME_DIR");
    return value != nullptr ? std::string(value) : "/run/user/" + std::to_string(::geteuid());
}

}  // namespace

struct SystemdBus::Reply {
    dbus::Message message;
};

Result<ScopeRequest> parse_systemd_cgroups_path(std::string_view cgroups_path, const std::string& id,
                                                bool user_manager) {
    ScopeRequest request;
    request.slice = user_manager ? "user.slice" : "system.slice";
    std::string prefix = "wherry";
    std::string name = id;
    if (!cgroups_path.empty()) {
        auto first = cgroups_path.find(':');
        auto second = first == std::string_view::npos ? first : cgroups_path.find(':', first + 1);
        if (second == std::string_view::npos || cgroups_path.find(':', second + 1) != std::string_view::npos)
            return fail(Code::invalid_argument,
                        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"" +
                            std::string(cgroups_path) + "\" instead");
        if (first != 0) request.slice = cgroups_path.substr(0, first);
        prefix = cgroups_path.substr(first + 1, second - first - 1);
        name = cgroups_path.substr(second + 1);
    }
    if (request.slice == "-") request.slice = "-.slice";
    if (name.ends_with(".slice")) {
        request.unit = name;
    } else {
        request.unit = prefix.empty() ? name + ".scope" : prefix + "-" + name + ".scope";
    }
    if (!good_unit_name(request.unit))
        return fail(Code::invalid_argument, "systemd would not take the name " + request.unit);
    if (!good_unit_name(request.slice) || !request.slice.ends_with(".slice"))
        return fail(Code::invalid_argument, "invalid slice name: " + request.slice);
    return request;
}

Result<std::string> systemd_cgroup_of(std::string_view proc_cgroup) {
    std::optional<std::string> unified;
    for (std::string_view line : cgroup_detail::split(proc_cgroup, '\n')) {
        auto at = line.find(":name=systemd:");
        if (at != std::string_view::npos) return std::string(line.substr(at + 14));
        if (line.starts_with("0::")) unified = line.substr(3);
    }
    if (unified) return *unified;
    return fail(Code::unavailable, "systemd keeps no cgroup hierarchy here");
}

Result<SystemdBus> SystemdBus::connect(bool user_manager) {
    std::string private_socket = user_manager ? runtime_directory() + "/systemd/private" : "/run/systemd/private";
    if (path_exists(private_socket)) {
        auto direct = connect_to(private_socket, false);
        if (direct) return direct;
    }
    std::string bus = user_manager ? runtime_directory() + "/bus" : "/run/dbus/system_bus_socket";
    const char* address = std::getenv(user_manager ? "DBUS_SESSION_BUS_ADDRESS" : "DBUS_SYSTEM_BUS_ADDRESS");
    if (address != nullptr && std::string_view(address).starts_with("unix:path=")) {
        bus = address + 10;
        bus = bus.substr(0, bus.find_first_of(",;"));
    }
    if (!path_exists(bus))
        return fail(Code::unavailable, "systemd is not running: neither " + private_socket + " nor " + bus);
    return connect_to(bus, true);
}

Result<SystemdBus> SystemdBus::connect_to(const std::string& socket_path, bool is_bus) {
    SystemdBus bus(TRY(connect_unix(socket_path)));
    bus.is_bus_ = is_bus;
    TRY(bus.authenticate(), socket_path);
    TRY(bus.subscribe(is_bus), socket_path);
    return bus;
}

// "External" authentication: the kernel says who we are (D-Bus specification, "Authentication Protocol"). BEGIN goes
// out together with AUTH, and the first message only after the answer: a systemd that reads BEGIN and a message at once
// leaves the message in its buffer until more arrives (sd-bus looks at what it has only when the socket becomes
// readable again).
Result<> SystemdBus::authenticate() {
    std::string uid = std::to_string(::geteuid());
    std::string hex;
    for (char digit : uid) hex += std::string("3") + digit;  // '0' is 0x30
    TRY(write_all(socket_.get(), std::string(1, '\0') + "AUTH EXTERNAL " + hex + "\r\nBEGIN\r\n"));
    // Until our first message the other side has nothing to say but this one line.
    std::string answer;
    while (!answer.ends_with("\r\n")) {
        pollfd ready{socket_.get(), POLLIN, 0};
        if (::poll(&ready, 1, static_cast<int>(patience_ns / 1'000'000)) <= 0)
            return fail(Code::deadline_exceeded, "authentication");
        std::array<char, 512> buffer{};
        ssize_t got = ::read(socket_.get(), buffer.data(), buffer.size());
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (got <= 0 || answer.size() > 4096) return fail(Code::unauthenticated, "authentication broke off");
        answer.append(buffer.data(), static_cast<std::size_t>(got));
    }
    if (!answer.starts_with("OK "))
        return fail(Code::unauthenticated, "refused: " + answer.substr(0, answer.size() - 2));
    return {};
}

Result<> SystemdBus::subscribe(bool is_bus) {
    if (is_bus) {
        TRY(call("/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", "", ""));
        dbus::Writer rule;
        rule.string("type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'");
        TRY(call("/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", rule.bytes()));
    }
    TRY(call(manager_path, manager_interface, "Subscribe", "", ""));
    return {};
}

Result<SystemdBus::Reply> SystemdBus::next_message() {
    std::int64_t deadline = monotonic_ns() + patience_ns;
    for (;;) {
        auto length = TRY(dbus::message_length(received_));
        if (length && received_.size() >= *length) {
            Reply reply{TRY(dbus::parse_message(std::string_view(received_).substr(0, *length)))};
            received_.erase(0, *length);
            return reply;
        }
        std::int64_t left_ms = (deadline - monotonic_ns()) / 1'000'000;
        if (left_ms <= 0) return fail(Code::deadline_exceeded, "systemd did not answer");
        pollfd ready{socket_.get(), POLLIN, 0};
        int count = ::poll(&ready, 1, static_cast<int>(left_ms));
        if (count < 0 && errno != EINTR) return fail_errno("poll");
        if (count <= 0) continue;
        std::array<char, 4096> buffer{};
        ssize_t got = ::read(socket_.get(), buffer.data(), buffer.size());
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (got < 0) return fail_errno("systemd");
        if (got == 0) return fail(Code::unavailable, "systemd closed the connection");
        received_.append(buffer.data(), static_cast<std::size_t>(got));
    }
}

Result<SystemdBus::Reply> SystemdBus::call(const std::string& path, const std::string& interface,
                                           const std::string& member, const std::string& signature,
                                           const std::string& body) {
    std::uint32_t serial = ++serial_;
    // Straight to the manager nobody needs a name.
    std::string destination;
    if (is_bus_) destination = interface == "org.freedesktop.DBus" ? "org.freedesktop.DBus" : manager_name;
    TRY(write_all(socket_.get(), dbus::method_call(serial, destination, path, interface, member, signature, body)));
    for (;;) {
        Reply reply = TRY(next_message());
        const dbus::Message& message = reply.message;
        dbus::Reader body_reader(message.body, message.big_endian);
        if (message.type == dbus::MessageType::signal && message.member == "JobRemoved" &&
            message.signature == "uoss") {
            // (id, job, unit, result)
            body_reader.u32();
            auto job = body_reader.string();
            auto unit = body_reader.string();
            auto result = body_reader.string();
            if (job && unit && result && removed_jobs_.size() < 1024) removed_jobs_.emplace_back(*job, *result);
            continue;
        }
        if (message.reply_serial != serial) continue;
        if (message.type == dbus::MessageType::error) {
            auto text = message.signature.starts_with('s') ? body_reader.string() : std::nullopt;
            Code code = message.error_name.ends_with("NoSuchUnit")   ? Code::not_found
                        : message.error_name.ends_with("UnitExists") ? Code::already_exists
                                                                     : Code::internal;
            return fail(code, member + ": " + message.error_name + (text ? ": " + std::string(*text) : std::string()));
        }
        return reply;
    }
}

Result<> SystemdBus::wait_for_job(const std::string& job) {
    std::int64_t deadline = monotonic_ns() + patience_ns;
    for (;;) {
        for (const auto& [path, result] : removed_jobs_) {
            if (path != job) continue;
            if (result == "done" || result == "skipped") return {};
            return fail(Code::internal, "the job of systemd ended with \"" + result + "\"");
        }
        if (monotonic_ns() > deadline) return fail(Code::deadline_exceeded, "systemd's job is not done");
        Reply reply = TRY(next_message());
        const dbus::Message& message = reply.message;
        if (message.type != dbus::MessageType::signal || message.member != "JobRemoved" || message.signature != "uoss")
            continue;
        dbus::Reader body(message.body, message.big_endian);
        body.u32();
        auto path = body.string();
        auto unit = body.string();
        auto result = body.string();
        if (path && unit && result) removed_jobs_.emplace_back(*path, *result);
    }
}

Result<> SystemdBus::start_scope(const ScopeRequest& request) {
    bool v2 = limits_on_v2();
    auto body = [&] {
        dbus::Writer out;
        out.string(request.unit);
        out.string("replace");
        dbus::Writer::Array properties = out.begin_array(8);
        text_property(out, "Description", request.description);
        text_property(out, "Slice", request.slice);
        flag_property(out, "Delegate");
        property(out, "DefaultDependencies", "b");
        out.boolean(false);
        for (const char* accounted : {"MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"})
            flag_property(out, accounted);
        property(out, "PIDs", "au");
        dbus::Writer::Array pids = out.begin_array(4);
        out.u32(static_cast<std::uint32_t>(request.pid));
        out.end_array(pids);
        limit_properties(out, request.limits, v2);
        out.end_array(properties);
        out.end_array(out.begin_array(8));  // no auxiliary units
        return out.bytes();
    }();
    auto started = call(manager_path, manager_interface, "StartTransientUnit", "ssa(sv)a(sa(sv))", body);
    if (!started && started.error().code() == Code::already_exists) {
        // A failed unit of an earlier container keeps its name until it is reset.
        dbus::Writer name;
        name.string(request.unit);
        [[maybe_unused]] auto reset = call(manager_path, manager_interface, "ResetFailedUnit", "s", name.bytes());
        started = call(manager_path, manager_interface, "StartTransientUnit", "ssa(sv)a(sa(sv))", body);
    }
    Reply reply = TRY(std::move(started));
    dbus::Reader answer(reply.message.body, reply.message.big_endian);
    auto job = answer.string();
    if (!job) return fail(Code::data_loss, "systemd named no job");
    return wait_for_job(std::string(*job));
}

Result<> SystemdBus::stop_unit(const std::string& unit) {
    dbus::Writer body;
    body.string(unit);
    body.string("replace");
    auto stopped = call(manager_path, manager_interface, "StopUnit", "ss", body.bytes());
    if (!stopped && stopped.error().code() == Code::not_found) return {};
    Reply reply = TRY(std::move(stopped));
    dbus::Reader answer(reply.message.body, reply.message.big_endian);
    if (auto job = answer.string()) [[maybe_unused]]
        auto done = wait_for_job(std::string(*job));
    dbus::Writer name;
    name.string(unit);
    // Only a failed one is there to be reset.
    [[maybe_unused]] auto reset = call(manager_path, manager_interface, "ResetFailedUnit", "s", name.bytes());
    return {};
}

Result<> SystemdBus::set_limits(const std::string& unit, const ScopeLimits& limits) {
    dbus::Writer out;
    out.string(unit);
    out.boolean(true);  // until the next start, not for good
    dbus::Writer::Array properties = out.begin_array(8);
    limit_properties(out, limits, limits_on_v2());
    out.end_array(properties);
    TRY(call(manager_path, manager_interface, "SetUnitProperties", "sba(sv)", out.bytes()));
    return {};
}

}  // namespace wherry::confine
