// stats.
#include <algorithm>
#include <cstdio>
#include <thread>

#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/table.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option stats_options[] = {
    {"all", 'a', {}, "Show all containers (default shows just running)"},
    {"format", 0, "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"},
    {"no-stream", 0, {}, "Disable streaming stats and only pull the first result"},
    {"no-trunc", 0, {}, "Do not truncate output"},
};
constexpr Listing::Column stats_columns[] = {
    {"BlockIO", "BLOCK I/O"}, {"CPUPerc", "CPU %"}, {"Container", "CONTAINER"},
    {"ID", "CONTAINER ID"},   {"MemPerc", "MEM %"}, {"MemUsage", "MEM USAGE / LIMIT"},
    {"Name", "NAME"},         {"NetIO", "NET I/O"}, {"PIDs", "PIDS"},
};

std::string percent(double value) {
    char text[32];
    int length = std::snprintf(text, sizeof text, "%.2f%%", value);
    return {text, static_cast<std::size_t>(length)};
}

double number_at(const json::value& value, std::string_view path) {
    const json::value* found = value_at(value, path);
    if (found == nullptr) return 0;
    if (found->is_double()) return found->get_double();
    return found->is_uint64()  ? static_cast<double>(found->get_uint64())
           : found->is_int64() ? static_cast<double>(found->get_int64())
                               : 0;
}

double cpu_percent(const json::value& stats) {
    double used =
        number_at(stats, "cpu_stats.cpu_usage.total_usage") - number_at(stats, "precpu_stats.cpu_usage.total_usage");
    double system = number_at(stats, "cpu_stats.system_cpu_usage") - number_at(stats, "precpu_stats.system_cpu_usage");
    double processors = number_at(stats, "cpu_stats.online_cpus");
    if (processors == 0)
        if (const json::value* list = value_at(stats, "cpu_stats.cpu_usage.percpu_usage");
            list != nullptr && list->is_array())
            processors = static_cast<double>(list->get_array().size());
    return used > 0 && system > 0 ? used / system * processors * 100 : 0;
}

// As Docker's CLI: without what the kernel can drop at once (inactive file pages).
double memory_used(const json::value& stats) {
    double usage = number_at(stats, "memory_stats.usage");
    for (std::string_view key : {"memory_stats.stats.total_inactive_file", "memory_stats.stats.inactive_file"})
        if (double inactive = number_at(stats, key); inactive > 0 && inactive < usage) return usage - inactive;
    return usage;
}

json::object stats_row(const std::string& asked, const json::value& stats, bool full) {
    std::string id = text_at(stats, "id");
    std::string name = text_at(stats, "name");
    if (name.starts_with('/')) name.erase(0, 1);
    double received = 0;
    double sent = 0;
    if (const json::value* networks = value_at(stats, "networks"); networks != nullptr && networks->is_object())
        for (const auto& network : networks->get_object()) {
            received += number_at(network.value(), "rx_bytes");
            sent += number_at(network.value(), "tx_bytes");
        }
    double read = 0;
    double written = 0;
    if (const json::value* entries = value_at(stats, "blkio_stats.io_service_bytes_recursive");
        entries != nullptr && entries->is_array())
        for (const json::value& entry : entries->get_array()) {
            std::string op = text_at(entry, "op");
            if (op.empty()) continue;
            if (op[0] == 'r' || op[0] == 'R') read += number_at(entry, "value");
            if (op[0] == 'w' || op[0] == 'W') written += number_at(entry, "value");
        }
    double used = memory_used(stats);
    double limit = number_at(stats, "memory_stats.limit");
    return {{"Container", asked},
            {"Name", name},
            {"ID", full ? id : id.substr(0, 12)},
            {"CPUPerc", percent(cpu_percent(stats))},
            {"MemUsage", human_binary_size(used) + " / " + human_binary_size(limit)},
            {"MemPerc", percent(limit > 0 ? used / limit * 100 : 0)},
            {"NetIO", human_size(received) + " / " + human_size(sent)},
            {"BlockIO", human_size(read) + " / " + human_size(written)},
            {"PIDs", std::to_string(integer_at(stats, "pids_stats.current"))}};
}

json::object empty_row(const std::string& asked, const std::string& name, bool full) {
    return {{"Container", asked},
            {"Name", name.empty() ? "--" : name},
            {"ID", full ? asked : asked.substr(0, 12)},
            {"CPUPerc", "--"},
            {"MemUsage", "-- / --"},
            {"MemPerc", "--"},
            {"NetIO", "--"},
            {"BlockIO", "--"},
            {"PIDs", "--"}};
}

// One sample of each container; a sample takes the daemon a second, so they are asked for together.
Result<std::vector<json::object>> sample(Session& session, const std::vector<std::string>& names, bool full) {
    std::vector<std::optional<Result<json::value>>> answers(names.size());
    {
        std::vector<std::jthread> threads;
        for (std::size_t i = 0; i < names.size(); ++i) {
            // Each thread has a session of its own: requests share nothing.
            threads.emplace_back([&, i] {
                Session own = session.sibling();
                answers[i].emplace(own.get("/containers/" + segment(names[i]) + "/stats?stream=0"));
            });
        }
    }
    std::vector<json::object> rows;
    for (std::size_t i = 0; i < names.size(); ++i) {
        Result<json::value>& answer = *answers[i];
        if (answer)
            rows.push_back(stats_row(names[i], *answer, full));
        else if (answer.error().code() == Code::not_found && names.size() > 1)
            rows.push_back(empty_row(names[i], "", full));
        else
            return std::unexpected(std::move(answer).error());
    }
    return rows;
}

Result<std::vector<std::string>> running(Session& session, bool every) {
    json::value list = TRY(session.get(std::string("/containers/json") + (every ? "?all=1" : "")));
    std::vector<std::string> ids;
    if (list.is_array())
        for (const json::value& container : list.get_array()) ids.push_back(text_at(container, "Id"));
    return ids;
}

Result<int> stats(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    bool once = options.flag("no-stream");
    bool full = options.flag("no-trunc");
    std::string format = options.text("format");
    if (format.empty()) format = session.configured("statsFormat");
    bool live = session.stdout_is_terminal() && (format.empty() || format.starts_with("table"));
    while (true) {
        std::vector<std::string> names = invocation.arguments;
        if (names.empty()) names = TRY(running(session, options.flag("all")));
        Listing listing(
            stats_columns,
            "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}");
        for (json::object& row : TRY(sample(session, names, full))) listing.add(std::move(row));
        std::string text = TRY(listing.render(format));
        session.out(live && !once ? "\x1b[H\x1b[2J" + text : text);
        session.flush();
        if (once) return 0;
        if (names.empty()) std::this_thread::sleep_for(std::chrono::seconds(1));
    }
}

}  // namespace

void add_stats_verbs(std::vector<const Command*>& all) {
    static const Command command{.names = {"stats", "container stats"},
                                 .usage = "[OPTIONS] [CONTAINER...]",
                                 .summary = "Display a live stream of container(s) resource usage statistics",
                                 .example = "wherry stats --no-stream",
                                 .options = stats_options,
                                 .run = stats};
    all.push_back(&command);
}

}  // namespace wherry::cli
