// state, list, ps, events.
#include <dirent.h>
#include <pwd.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <memory>

#include "base/log.hpp"
#include "commands.hpp"
#include "context.hpp"

namespace wherry::runtime {

namespace {

void print_json(const json::value& value) {
    std::printf("%s\n", to_json(value).c_str());
}

Result<std::string> format_of(const CommandLine& line, const std::string& fallback) {
    std::string format = line.local.value("format", fallback);
    if (format != "table" && format != "json") return fail(Code::invalid_argument, "invalid format option");
    return format;
}

Result<std::vector<std::string>> container_ids(const std::string& root) {
    std::vector<std::string> ids;
    std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(root.c_str()), ::closedir);
    if (!directory) {
        if (errno == ENOENT) return ids;
        return fail_errno(root);
    }
    while (const dirent* entry = ::readdir(directory.get())) {
        std::string name = entry->d_name;
        if (check_id(name) && path_exists(root + "/" + name + "/state.json")) ids.push_back(std::move(name));
    }
    std::ranges::sort(ids);
    return ids;
}

// "01:02:03" of clock ticks.
std::string clock_text(std::uint64_t ticks) {
    auto per_second = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
    std::uint64_t seconds = ticks / (per_second == 0 ? 100 : per_second);
    std::array<char, 48> text{};
    std::snprintf(text.data(), text.size(), "%02llu:%02llu:%02llu", static_cast<unsigned long long>(seconds / 3600),
                  static_cast<unsigned long long>(seconds / 60 % 60), static_cast<unsigned long long>(seconds % 60));
    return text.data();
}

std::vector<std::uint64_t> numbers_in(std::string_view text) {
    std::vector<std::uint64_t> numbers;
    std::size_t at = 0;
    while (at < text.size()) {
        std::size_t end = std::min(text.find(' ', at), text.size());
        std::uint64_t value = 0;
        std::from_chars(text.data() + at, text.data() + end, value);
        numbers.push_back(value);
        at = end + 1;
    }
    return numbers;
}

std::string terminal_name(std::uint64_t device) {
    unsigned major_number = major(device);
    if (device == 0) return "?";
    if (major_number >= 136 && major_number <= 143)
        return "pts/" + std::to_string((major_number - 136) * 256 + minor(device));
    return "tty" + std::to_string(minor(device));
}

std::string start_text(std::uint64_t ticks_after_boot) {
    timespec now{};
    timespec since_boot{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    ::clock_gettime(CLOCK_BOOTTIME, &since_boot);
    long per_second = ::sysconf(_SC_CLK_TCK);
    time_t started =
        now.tv_sec - since_boot.tv_sec + static_cast<time_t>(ticks_after_boot / static_cast<std::uint64_t>(per_second));
    tm local{};
    ::localtime_r(&started, &local);
    std::array<char, 16> text{};
    std::strftime(text.data(), text.size(), now.tv_sec - started < 24 * 3600 ? "%H:%M" : "%b%d", &local);
    return text.data();
}

// One line as `ps -ef` prints it; nullopt when the process has gone meanwhile. What it calls itself is its own choice:
// control characters are not passed on.
std::optional<std::string> process_line(pid_t pid) {
    std::string folder = "/proc/" + std::to_string(pid);
    struct stat info{};
    if (::stat(folder.c_str(), &info) < 0) return std::nullopt;
    auto stat_text = read_file(folder + "/stat", 4096);
    auto words = read_file(folder + "/cmdline", 1U << 20U);
    auto status = read_file(folder + "/status", 1U << 16U);
    if (!stat_text || !words || !status) return std::nullopt;
    std::size_t open = stat_text->find('(');
    std::size_t close = stat_text->rfind(')');
    if (open == std::string::npos || close == std::string::npos || close + 4 > stat_text->size()) return std::nullopt;
    // Fields from the 4th on: parent, group, session, terminal, ...
    std::vector<std::uint64_t> fields = numbers_in(std::string_view(*stat_text).substr(close + 4));
    if (fields.size() < 19) return std::nullopt;
    std::string command = *words;
    std::ranges::replace(command, '\0', ' ');
    while (!command.empty() && command.back() == ' ') command.pop_back();
    if (command.empty()) command = "[" + stat_text->substr(open + 1, close - open - 1) + "]";
    for (char& letter : command) letter = static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f ? '?' : letter;
    std::string user = "?";
    if (std::size_t at = status->find("\nUid:\t"); at != std::string::npos) {
        std::size_t start = at + 6;
        user = status->substr(start, status->find_first_of("\t\n", start) - start);
        if (user == "0") user = "root";
    }
    std::array<char, 160> head{};
    std::snprintf(head.data(), head.size(), "%-8s %7d %7llu  0 %5s %-8s %8s ", user.c_str(), pid,
                  static_cast<unsigned long long>(fields[0]), start_text(fields[18]).c_str(),
                  terminal_name(fields[3]).c_str(), clock_text(fields[10] + fields[11]).c_str());
    return head.data() + command;
}

json::array blkio_entries(const std::vector<confine::BlockIoEntry>& entries) {
    json::array out;
    for (const confine::BlockIoEntry& entry : entries)
        out.push_back(json::object{
            {"major", entry.major}, {"minor", entry.minor}, {"op", entry.operation}, {"value", entry.value}});
    return out;
}

json::object statistics_json(const confine::CgroupStatistics& statistics) {
    const confine::CpuStatistics& cpu = statistics.cpu;
    const confine::MemoryStatistics& memory = statistics.memory;
    json::object usage{{"total", cpu.usage_ns}, {"kernel", cpu.system_ns}, {"user", cpu.user_ns}};
    if (!cpu.per_cpu_ns.empty()) usage["percpu"] = json::array(cpu.per_cpu_ns.begin(), cpu.per_cpu_ns.end());
    json::object raw;
    for (const auto& [name, value] : memory.raw) raw[name] = value;
    json::object out;
    out["cpu"] = json::object{{"usage", std::move(usage)},
                              {"throttling", json::object{{"periods", cpu.periods},
                                                          {"throttledPeriods", cpu.throttled_periods},
                                                          {"throttledTime", cpu.throttled_ns}}}};
    out["memory"] = json::object{{"cache", memory.cache},
                                 {"usage", json::object{{"limit", memory.limit},
                                                        {"usage", memory.usage},
                                                        {"max", memory.max_usage},
                                                        {"failcnt", memory.fail_count}}},
                                 {"swap", json::object{{"usage", memory.swap_usage}}},
                                 {"raw", std::move(raw)}};
    out["pids"] = json::object{{"current", statistics.pids_current}, {"limit", statistics.pids_limit}};
    out["blkio"] = json::object{{"ioServiceBytesRecursive", blkio_entries(statistics.io_bytes)},
                                {"ioServicedRecursive", blkio_entries(statistics.io_operations)}};
    return out;
}

void print_event(const std::string& id, const char* type, json::value data) {
    json::object event{{"type", type}, {"id", id}};
    if (!data.is_null()) event["data"] = std::move(data);
    print_json(event);
    std::fflush(stdout);
}

// "5s", "100ms", "1m": milliseconds.
Result<long> parse_interval(const std::string& text) {
    double value = 0;
    auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
    double factor = unit == "ms" ? 1 : unit == "s" ? 1000 : unit == "m" ? 60'000 : 0;
    if (problem != std::errc() || factor == 0 || value * factor < 1 || value * factor > 86'400'000)
        return fail(Code::invalid_argument, "duration interval must be greater than 0");
    return static_cast<long>(value * factor);
}

Result<> watch_events(const std::string& id, const oci::Container& container, const confine::Cgroup& cgroup,
                      long interval_ms) {
    Fd loop(::epoll_create1(EPOLL_CLOEXEC));
    Fd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    if (!loop || !timer) return fail_errno("events");
    itimerspec period{};
    period.it_interval = {interval_ms / 1000, interval_ms % 1000 * 1'000'000};
    period.it_value = period.it_interval;
    if (::timerfd_settime(timer.get(), 0, &period, nullptr) < 0) return fail_errno("timer");
    auto oom = cgroup.watch_oom();
    auto watch = [&](int fd, std::uint32_t events) -> Result<> {
        epoll_event event{};
        event.events = events;
        event.data.fd = fd;
        if (::epoll_ctl(loop.get(), EPOLL_CTL_ADD, fd, &event) < 0) return fail_errno("epoll");
        return {};
    };
    TRY(watch(timer.get(), EPOLLIN));
    TRY(watch(container.pidfd(), EPOLLIN));
    std::uint64_t kills = 0;
    if (oom) {
        TRY(watch(oom->fd(), oom->events()));
        kills = oom->read().value_or(0);
    }
    for (;;) {
        epoll_event event{};
        int count = ::epoll_wait(loop.get(), &event, 1, -1);
        if (count < 0 && errno != EINTR) return fail_errno("epoll");
        if (count <= 0) continue;
        if (event.data.fd == container.pidfd()) return {};
        if (event.data.fd == timer.get()) {
            std::uint64_t ticks = 0;
            [[maybe_unused]] ssize_t got = ::read(timer.get(), &ticks, sizeof ticks);
            auto statistics = cgroup.statistics();
            if (!statistics) return {};  // gone
            print_event(id, "stats", statistics_json(*statistics));
        } else if (oom) {
            std::uint64_t now = oom->read().value_or(kills);
            if (now > kills || oom->events() == EPOLLIN) print_event(id, "oom", nullptr);
            kills = now;
        }
    }
}

}  // namespace

Result<int> state_command(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    Known known = TRY(find(line, id));
    print_json(describe(known, id));
    return 0;
}

Result<int> list_command(const CommandLine& line) {
    if (!line.local.arguments.empty()) return fail(Code::invalid_argument, "list: takes no arguments");
    std::string format = TRY(format_of(line, "table"));
    json::array all;
    for (const std::string& id : TRY(container_ids(root_of(line)))) {
        auto known = find(line, id);
        if (!known) {
            // Deleted while we looked, or damaged: the others are still worth listing.
            if (known.error().code() != Code::not_found)
                log_warn("list.skipped", {{"id", id}, {"error", known.error()}});
            continue;
        }
        all.push_back(describe(*known, id));
    }
    if (line.local.has("quiet")) {
        for (const json::value& entry : all) std::printf("%s\n", entry.at("id").as_string().c_str());
        return 0;
    }
    if (format == "json") {
        if (all.empty()) {
            std::printf("null\n");  // as runc prints an empty list
        } else {
            print_json(all);
        }
        return 0;
    }
    static constexpr std::array<const char*, 6> columns{"id", "pid", "status", "bundle", "created", "owner"};
    std::vector<std::array<std::string, 6>> rows{{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}};
    for (const json::value& entry : all) {
        std::array<std::string, 6> row;
        for (std::size_t i = 0; i < columns.size(); ++i) {
            const json::value& cell = entry.at(columns[i]);
            row[i] = cell.is_string() ? std::string(cell.as_string()) : to_json(cell);
        }
        rows.push_back(std::move(row));
    }
    std::array<std::size_t, 6> widths{};
    for (const auto& row : rows) {
        for (std::size_t i = 0; i < row.size(); ++i)
            widths[i] = std::max(widths[i], std::max<std::size_t>(row[i].size(), 9) + 3);
    }
    for (const auto& row : rows) {
        for (std::size_t i = 0; i + 1 < row.size(); ++i)
            std::printf("%-*s", static_cast<int>(widths[i]), row[i].c_str());
        std::printf("%s\n", row.back().c_str());
    }
    return 0;
}

Result<int> ps_command(const CommandLine& line) {
    const auto& arguments = line.local.arguments;
    if (arguments.empty()) return fail(Code::invalid_argument, "ps: expected a container id");
    std::string format = TRY(format_of(line, "table"));
    // What `ps` itself could print differently is `ps`'s business; -ef is what this table is.
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        if (arguments[i] != "-ef") return fail(Code::unimplemented, "ps: only the columns of `ps -ef` are known");
    }
    Known known = TRY(find(line, arguments.front()));
    auto cgroup = TRY(known.cgroup());
    std::vector<pid_t> pids;
    if (cgroup) {
        pids = TRY(cgroup->pids());
    } else if (known.container) {
        pids = {known.container->pid()};
    }
    if (format == "json") {
        print_json(json::array(pids.begin(), pids.end()));
        return 0;
    }
    std::printf("%-8s %7s %7s  C %5s %-8s %8s %s\n", "UID", "PID", "PPID", "STIME", "TTY", "TIME", "CMD");
    for (pid_t pid : pids) {
        if (auto text = process_line(pid)) std::printf("%s\n", text->c_str());
    }
    return 0;
}

Result<int> events_command(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    long interval_ms = TRY(parse_interval(line.local.value("interval", "5s")));
    Known known = TRY(find(line, id));
    if (!known.container) return fail(Code::conflict, "container with id " + id + " is not running");
    auto cgroup = TRY(known.cgroup());
    if (!cgroup) return fail(Code::conflict, "the container has no cgroup");
    if (line.local.has("stats")) {
        print_event(id, "stats", statistics_json(TRY(cgroup->statistics())));
        return 0;
    }
    known.directory.unlock();
    TRY(watch_events(id, *known.container, *cgroup, interval_ms));
    return 0;
}

}  // namespace wherry::runtime
