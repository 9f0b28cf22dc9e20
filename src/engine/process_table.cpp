#include "engine/process_table.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>
#include <map>
#include <regex>
#include <sstream>

#include "base/fd.hpp"
#include "confine/cgroup.hpp"

namespace wherry::engine {
namespace {

struct Process {
    int pid = 0, ppid = 0, pgid = 0, sid = 0, tty = 0, nice = 0, threads = 0;
    unsigned uid = 0, gid = 0;
    char state = '?';
    std::uint64_t user_ticks = 0, system_ticks = 0, start_ticks = 0, virtual_kib = 0, resident_kib = 0;
    std::string name, command;
};

std::map<unsigned, std::string> host_users() {
    std::map<unsigned, std::string> users;
    const auto text = read_file("/etc/passwd", 1U << 20U);
    if (!text) return users;
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
        const std::size_t name_end = line.find(':');
        const std::size_t uid_start = line.find(':', name_end + 1);
        if (name_end == std::string::npos || uid_start == std::string::npos) continue;
        unsigned uid = 0;
        if (std::from_chars(line.data() + uid_start + 1, line.data() + line.size(), uid).ec == std::errc{}) {
            users.emplace(uid, line.substr(0, name_end));
        }
    }
    return users;
}

std::optional<Process> read_process(int pid) {
    const std::string base = "/proc/" + std::to_string(pid);
    const auto stat = read_file(base + "/stat");
    if (!stat) return std::nullopt;
    const std::size_t open = stat->find('(');
    const std::size_t close = stat->rfind(')');  // the name may hold anything
    if (open == std::string::npos || close == std::string::npos || close + 2 > stat->size()) return std::nullopt;
    Process process;
    process.pid = pid;
    process.name = stat->substr(open + 1, close - open - 1);
    std::istringstream fields(stat->substr(close + 2));
    std::array<std::string, 22> field;
    for (std::string& one : field) fields >> one;
    const auto number = [&](std::size_t index) {  // index as in proc(5), which counts from 1
        std::uint64_t value = 0;
        const std::string& text = field[index - 3];
        const bool negative = text.starts_with('-');
        std::from_chars(text.data() + (negative ? 1 : 0), text.data() + text.size(), value);
        return negative ? ~value + 1 : value;
    };
    process.state = field[0].empty() ? '?' : field[0][0];
    process.ppid = static_cast<int>(number(4));
    process.pgid = static_cast<int>(number(5));
    process.sid = static_cast<int>(number(6));
    process.tty = static_cast<int>(number(7));
    process.user_ticks = number(14);
    process.system_ticks = number(15);
    process.nice = static_cast<int>(number(19));
    process.threads = static_cast<int>(number(20));
    process.start_ticks = number(22);
    process.virtual_kib = number(23) / 1024;
    process.resident_kib = number(24) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) / 1024;
    struct stat info{};
    if (::stat(base.c_str(), &info) == 0) {
        process.uid = info.st_uid;
        process.gid = info.st_gid;
    }
    if (const auto command = read_file(base + "/cmdline", 64U << 10U)) {
        process.command = *command;
        while (process.command.ends_with('\0')) process.command.pop_back();
        std::ranges::replace(process.command, '\0', ' ');
    } else {
        process.command.clear();
    }
    if (process.command.empty()) process.command = "[" + process.name + "]";
    return process;
}

std::string clock_text(std::time_t time) {
    std::tm parts{};
    ::gmtime_r(&time, &parts);
    std::array<char, 16> text{};
    const std::time_t now = ::time(nullptr);
    std::strftime(text.data(), text.size(), now - time < 86400 ? "%H:%M" : "%b%d", &parts);
    return text.data();
}

struct Context {
    std::map<unsigned, std::string> users;
    std::time_t boot = 0;
    std::uint64_t ticks = 100;
    std::uint64_t memory_kib = 1;
};

std::time_t started_at(const Process& process, const Context& context) {
    return context.boot + static_cast<std::time_t>(process.start_ticks / context.ticks);
}

std::string column(const std::string& name, const Process& process, const Context& context) {
    const auto two = [](std::uint64_t value) { return (value < 10 ? "0" : "") + std::to_string(value); };
    const std::uint64_t seconds = (process.user_ticks + process.system_ticks) / context.ticks;
    const std::time_t age = std::max<std::time_t>(::time(nullptr) - started_at(process, context), 1);
    if (name == "UID" || name == "USER") {
        const auto user = context.users.find(process.uid);
        return user == context.users.end() ? std::to_string(process.uid) : user->second;
    }
    if (name == "UID_NUMBER") return std::to_string(process.uid);
    if (name == "GID") return std::to_string(process.gid);
    if (name == "PID") return std::to_string(process.pid);
    if (name == "PPID") return std::to_string(process.ppid);
    if (name == "PGID") return std::to_string(process.pgid);
    if (name == "SID") return std::to_string(process.sid);
    if (name == "C") return std::to_string(seconds * 100 / static_cast<std::uint64_t>(age));
    if (name == "STIME" || name == "START") return clock_text(started_at(process, context));
    if (name == "TTY") return process.tty == 0 ? "?" : "pts/" + std::to_string(process.tty & 0xff);
    if (name == "TIME") return two(seconds / 3600) + ":" + two(seconds / 60 % 60) + ":" + two(seconds % 60);
    if (name == "ELAPSED")
        return two(static_cast<std::uint64_t>(age) / 60) + ":" + two(static_cast<std::uint64_t>(age) % 60);
    if (name == "CMD" || name == "COMMAND") return process.command;
    if (name == "COMM") return process.name;
    if (name == "%CPU" || name == "%MEM") {
        const std::uint64_t tenths = name == "%CPU" ? seconds * 1000 / static_cast<std::uint64_t>(age)
                                                    : process.resident_kib * 1000 / context.memory_kib;
        return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10);
    }
    if (name == "VSZ") return std::to_string(process.virtual_kib);
    if (name == "RSS") return std::to_string(process.resident_kib);
    if (name == "STAT" || name == "S") return std::string(1, process.state);
    if (name == "NI") return std::to_string(process.nice);
    if (name == "NLWP") return std::to_string(process.threads);
    return "-";
}

// What a name of `-o` is called in the title and which column it is.
const std::map<std::string, std::pair<std::string, std::string>, std::less<>>& known_columns() {
    static const std::map<std::string, std::pair<std::string, std::string>, std::less<>> columns{
        {"pid", {"PID", "PID"}},
        {"ppid", {"PPID", "PPID"}},
        {"user", {"USER", "USER"}},
        {"uid", {"UID", "UID_NUMBER"}},
        {"gid", {"GID", "GID"}},
        {"pgid", {"PGID", "PGID"}},
        {"sid", {"SID", "SID"}},
        {"comm", {"COMMAND", "COMM"}},
        {"cmd", {"CMD", "CMD"}},
        {"args", {"COMMAND", "COMMAND"}},
        {"command", {"COMMAND", "COMMAND"}},
        {"time", {"TIME", "TIME"}},
        {"etime", {"ELAPSED", "ELAPSED"}},
        {"tty", {"TT", "TTY"}},
        {"rss", {"RSS", "RSS"}},
        {"vsz", {"VSZ", "VSZ"}},
        {"pcpu", {"%CPU", "%CPU"}},
        {"%cpu", {"%CPU", "%CPU"}},
        {"pmem", {"%MEM", "%MEM"}},
        {"%mem", {"%MEM", "%MEM"}},
        {"stat", {"STAT", "STAT"}},
        {"s", {"S", "S"}},
        {"ni", {"NI", "NI"}},
        {"nlwp", {"NLWP", "NLWP"}},
        {"stime", {"STIME", "STIME"}},
        {"c", {"C", "C"}}};
    return columns;
}

}  // namespace

Result<TopResult> list_processes(const std::string& cgroup, std::string_view ps_arguments) {
    TopResult result;
    std::vector<std::string> columns;
    std::string arguments(ps_arguments);
    std::erase(arguments, '-');
    if (arguments.starts_with('o') || arguments.starts_with("eo")) {
        std::istringstream words(arguments.substr(arguments.find('o') + 1));
        for (std::string word; std::getline(words, word, ',');) {
            std::erase(word, ' ');
            const auto known = known_columns().find(word);
            if (known == known_columns().end())
                return fail(Code::invalid_argument, "ps: unknown user-defined format specifier \"" + word + "\"");
            result.titles.push_back(known->second.first);
            columns.push_back(known->second.second);
        }
    } else if (arguments.empty() || arguments == "ef" || arguments == "e" || arguments == "f") {
        columns = {"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"};
        result.titles = columns;
    } else if (arguments == "aux" || arguments == "ux" || arguments == "axu") {
        columns = {"USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"};
        result.titles = columns;
    } else {
        return fail(Code::invalid_argument, "ps arguments \"" + std::string(ps_arguments) +
                                                "\" are not supported: use -ef, aux or -o with columns");
    }
    if (std::ranges::find(columns, "PID") == columns.end())
        return fail(Code::invalid_argument, "Couldn't find PID field in ps output");
    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    const confine::Cgroup group = TRY(confine::Cgroup::open(*system, cgroup));
    Context context{.users = host_users()};
    context.ticks = static_cast<std::uint64_t>(std::max(::sysconf(_SC_CLK_TCK), 1L));
    context.memory_kib = std::max<std::uint64_t>(static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                                                     static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) / 1024,
                                                 1);
    timespec up{};
    ::clock_gettime(CLOCK_BOOTTIME, &up);
    context.boot = ::time(nullptr) - up.tv_sec;
    for (const pid_t pid : TRY(group.pids())) {
        const auto process = read_process(pid);
        if (!process) continue;  // it has ended meanwhile
        Strings row;
        for (const std::string& name : columns) row.push_back(column(name, *process, context));
        result.processes.push_back(std::move(row));
    }
    return result;
}

std::uint64_t host_cpu_time_ns() {
    const auto text = read_file("/proc/stat");
    if (!text) return 0;
    std::istringstream line(text->substr(0, text->find('\n')));
    std::string name;
    line >> name;
    std::uint64_t total = 0;
    // user nice system idle iowait irq softirq; steal and guest are counted elsewhere already
    for (int i = 0; i < 7; ++i) {
        std::uint64_t value = 0;
        line >> value;
        total += value;
    }
    return total * (1'000'000'000ULL / static_cast<std::uint64_t>(std::max(::sysconf(_SC_CLK_TCK), 1L)));
}

bool name_matches(const std::string& name, const std::string& pattern) {
    if (pattern.find_first_of("^$.*+?()[]{}|\\") == std::string::npos) {
        return ("/" + name).find(pattern) != std::string::npos;
    }
    if (pattern.size() > 256) return false;
    try {  // std::regex throws on a pattern that is none
        const std::regex expression(pattern);
        return std::regex_search(name, expression) || std::regex_search("/" + name, expression);
    } catch (const std::regex_error&) {
        return false;
    }
}

std::map<std::string, InterfaceStats> parse_interface_stats(std::string_view text) {
    std::map<std::string, InterfaceStats> interfaces;
    while (!text.empty()) {
        std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(text.size(), line.size() + 1));
        const std::size_t colon = line.find(':');
        if (colon == std::string_view::npos) continue;  // the headings
        const std::size_t name = line.find_first_not_of(' ');
        const std::string interface(line.substr(name, colon - name));
        if (interface == "lo") continue;
        // bytes packets errs drop fifo frame compressed multicast, received and sent
        std::array<std::uint64_t, 16> values{};
        const char* at = line.data() + colon + 1;
        const char* end = line.data() + line.size();
        bool good = true;
        for (std::uint64_t& value : values) {
            while (at != end && *at == ' ') ++at;
            const auto [rest, error] = std::from_chars(at, end, value);
            good = good && error == std::errc{};
            at = rest;
        }
        if (!good) continue;
        interfaces[interface] = {.received_bytes = values[0],
                                 .received_packets = values[1],
                                 .received_errors = values[2],
                                 .received_dropped = values[3],
                                 .sent_bytes = values[8],
                                 .sent_packets = values[9],
                                 .sent_errors = values[10],
                                 .sent_dropped = values[11]};
    }
    return interfaces;
}

}  // namespace wherry::engine
