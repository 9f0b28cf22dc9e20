// version, info, system df.
#include <sys/utsname.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <map>

#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/table.hpp"
#include "cli/template.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option format_options[] = {{"format", 'f', "string", "Format output: 'json', or a Go template"}};
constexpr Option df_options[] = {
    {"format", 0, "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"},
    {"verbose", 'v', {}, "Show detailed information on space usage"},
};
constexpr Listing::Column df_columns[] = {
    {"Active", "ACTIVE"}, {"Reclaimable", "RECLAIMABLE"}, {"Size", "SIZE"}, {"TotalCount", "TOTAL"}, {"Type", "TYPE"}};

Result<std::string> with_format(const std::string& format, const json::value& document) {
    Template shape = TRY(Template::parse(format == "json" ? "{{json .}}" : format));
    return TRY(shape.execute(document)) + "\n";
}

std::string architecture() {
    utsname name{};
    ::uname(&name);
    std::string machine = name.machine;
    if (machine == "x86_64") return "amd64";
    if (machine == "aarch64") return "arm64";
    return machine;
}

void line(std::string& out, std::size_t indent, std::string_view name, const std::string& value, std::size_t width) {
    std::string text(indent, ' ');
    text += std::string(name) + ":";
    text.append(text.size() < width ? width - text.size() : 1, ' ');
    out += text + value + "\n";
}

Result<int> version(Session& session, const Invocation& invocation) {
    json::object client{{"Version", WHERRY_VERSION},
                        {"ApiVersion", "1.47"},
                        {"Os", "linux"},
                        {"Arch", architecture()},
                        {"Platform", json::object{{"Name", "wherry"}}},
                        {"Context", "default"}};
    auto server = session.get("/version");
    std::string format = invocation.options.text("format");
    if (!format.empty()) {
        json::object document{{"Client", client}, {"Server", server ? *server : json::value()}};
        auto text = with_format(format, json::value(document));
        if (text) session.out(*text);
        if (!server) return std::unexpected(std::move(server).error());
        if (!text) return std::unexpected(std::move(text).error());
        return 0;
    }
    std::string out = "Client: wherry\n";
    line(out, 1, "Version", WHERRY_VERSION, 20);
    line(out, 1, "API version", "1.47", 20);
    line(out, 1, "OS/Arch", "linux/" + architecture(), 20);
    session.out(out);
    if (!server) return std::unexpected(std::move(server).error());
    out = "\nServer: " + text_at(*server, "Platform.Name") + "\n Engine:\n";
    line(out, 2, "Version", text_at(*server, "Version"), 20);
    line(out, 2, "API version",
         text_at(*server, "ApiVersion") + " (minimum version " + text_at(*server, "MinAPIVersion") + ")", 20);
    for (const auto& [label, key] : std::initializer_list<std::pair<std::string_view, std::string_view>>{
             {"Git commit", "GitCommit"}, {"Built", "BuildTime"}, {"Kernel", "KernelVersion"}})
        if (std::string value = text_at(*server, key); !value.empty()) line(out, 2, label, value, 20);
    line(out, 2, "OS/Arch", text_at(*server, "Os") + "/" + text_at(*server, "Arch"), 20);
    if (const json::value* components = value_at(*server, "Components");
        components != nullptr && components->is_array())
        for (const json::value& component : components->get_array()) {
            if (text_at(component, "Name") == "Engine") continue;
            out += " " + text_at(component, "Name") + ":\n";
            line(out, 2, "Version", text_at(component, "Version"), 20);
        }
    session.out(out);
    return 0;
}

std::string joined(const json::value* list) {
    std::string out;
    if (list != nullptr && list->is_array())
        for (const json::value& item : list->get_array()) out += (out.empty() ? "" : " ") + print_text(item);
    return out;
}

Result<int> info(Session& session, const Invocation& invocation) {
    auto answer = session.get("/info");
    std::string format = invocation.options.text("format");
    if (!format.empty()) {
        json::value document = TRY(std::move(answer));
        if (document.is_object())
            document.get_object()["ClientInfo"] = json::object{{"Version", WHERRY_VERSION}, {"Context", "default"}};
        session.out(TRY(with_format(format, document)));
        return 0;
    }
    session.out("Client: wherry\n Version:    " WHERRY_VERSION "\n\nServer:\n");
    if (!answer) {
        session.report(answer.error());
        return 1;
    }
    const json::value& i = *answer;
    std::string out;
    auto text = [&](std::string_view label, std::string_view key) {
        if (std::string value = text_at(i, key); !value.empty()) out += " " + std::string(label) + ": " + value + "\n";
    };
    auto number = [&](std::string_view label, std::string_view key, std::size_t indent = 1) {
        out += std::string(indent, ' ') + std::string(label) + ": " + std::to_string(integer_at(i, key)) + "\n";
    };
    number("Containers", "Containers");
    number("Running", "ContainersRunning", 2);
    number("Paused", "ContainersPaused", 2);
    number("Stopped", "ContainersStopped", 2);
    number("Images", "Images");
    text("Server Version", "ServerVersion");
    text("Storage Driver", "Driver");
    if (const json::value* status = value_at(i, "DriverStatus"); status != nullptr && status->is_array())
        for (const json::value& pair : status->get_array())
            if (pair.is_array() && pair.get_array().size() == 2)
                out += "  " + print_text(pair.get_array()[0]) + ": " + print_text(pair.get_array()[1]) + "\n";
    text("Logging Driver", "LoggingDriver");
    text("Cgroup Driver", "CgroupDriver");
    text("Cgroup Version", "CgroupVersion");
    out += " Plugins:\n  Volume: " + joined(value_at(i, "Plugins.Volume")) +
           "\n  Network: " + joined(value_at(i, "Plugins.Network")) + "\n  Log: " + joined(value_at(i, "Plugins.Log")) +
           "\n";
    out += " Swarm: " + (text_at(i, "Swarm.LocalNodeState").empty() ? "inactive" : text_at(i, "Swarm.LocalNodeState")) +
           "\n";
    if (const json::value* runtimes = value_at(i, "Runtimes"); runtimes != nullptr && runtimes->is_object()) {
        out += " Runtimes:";
        for (const auto& runtime : runtimes->get_object()) out += " " + std::string(runtime.key());
        out += "\n";
    }
    text("Default Runtime", "DefaultRuntime");
    if (const json::value* options = value_at(i, "SecurityOptions");
        options != nullptr && options->is_array() && !options->get_array().empty()) {
        out += " Security Options:\n";
        for (const json::value& option : options->get_array()) {
            std::string_view rest = option.is_string() ? std::string_view(option.get_string()) : std::string_view();
            for (bool first = true; !rest.empty(); first = false) {
                auto comma = rest.find(',');
                std::string field(rest.substr(0, comma));
                rest.remove_prefix(comma == std::string_view::npos ? rest.size() : comma + 1);
                if (field.starts_with("name="))
                    out += "  " + field.substr(5) + "\n";
                else
                    out += (first ? "  " : "   ") + field + "\n";
            }
        }
    }
    text("Kernel Version", "KernelVersion");
    text("Operating System", "OperatingSystem");
    text("OSType", "OSType");
    text("Architecture", "Architecture");
    number("CPUs", "NCPU");
    out += " Total Memory: " + human_binary_size(static_cast<double>(integer_at(i, "MemTotal"))) + "\n";
    text("Name", "Name");
    text("ID", "ID");
    text("Docker Root Dir", "DockerRootDir");
    out += std::string(" Debug Mode: ") + (flag_at(i, "Debug") ? "true" : "false") + "\n";
    out += std::string(" Live Restore Enabled: ") + (flag_at(i, "LiveRestoreEnabled") ? "true" : "false") + "\n\n";
    session.out(out);
    if (const json::value* warnings = value_at(i, "Warnings"); warnings != nullptr && warnings->is_array())
        for (const json::value& warning : warnings->get_array()) session.error(print_text(warning));
    return 0;
}

struct Usage {
    std::int64_t total = 0;
    std::int64_t active = 0;
    std::int64_t size = 0;
    std::int64_t reclaimable = 0;
};

json::object usage_row(std::string_view type, const Usage& usage) {
    std::string reclaimable = human_size(static_cast<double>(usage.reclaimable), 4);
    if (usage.size > 0) reclaimable += " (" + std::to_string(usage.reclaimable * 100 / usage.size) + "%)";
    return {{"Type", type},
            {"TotalCount", std::to_string(usage.total)},
            {"Active", std::to_string(usage.active)},
            {"Size", human_size(static_cast<double>(usage.size), 4)},
            {"Reclaimable", reclaimable}};
}

Result<int> disk_usage(Session& session, const Invocation& invocation) {
    json::value answer = TRY(session.get("/system/df"));
    auto each = [&](std::string_view key, auto action) {
        if (const json::value* list = value_at(answer, key); list != nullptr && list->is_array())
            for (const json::value& item : list->get_array()) action(item);
    };
    Usage images;
    Usage containers;
    Usage volumes;
    Usage cache;
    Usage removed;  // containers that undelete brings back; a row only where there are some: the rest is Docker's
    images.size = integer_at(answer, "LayersSize");
    std::int64_t used = 0;
    each("Images", [&](const json::value& image) {
        ++images.total;
        if (integer_at(image, "Containers") > 0) {
            ++images.active;
            used += integer_at(image, "Size") - std::max<std::int64_t>(integer_at(image, "SharedSize"), 0);
        }
    });
    images.reclaimable = std::max<std::int64_t>(images.size - used, 0);
    each("Containers", [&](const json::value& container) {
        ++containers.total;
        containers.size += integer_at(container, "SizeRw");
        std::string state = text_at(container, "State");
        if (state == "running" || state == "paused" || state == "restarting")
            ++containers.active;
        else
            containers.reclaimable += integer_at(container, "SizeRw");
    });
    each("Volumes", [&](const json::value& volume) {
        ++volumes.total;
        std::int64_t size = std::max<std::int64_t>(integer_at(volume, "UsageData.Size"), 0);
        volumes.size += size;
        if (integer_at(volume, "UsageData.RefCount") > 0)
            ++volumes.active;
        else
            volumes.reclaimable += size;
    });
    each("BuildCache", [&](const json::value& record) {
        ++cache.total;
        cache.size += integer_at(record, "Size");
        if (flag_at(record, "InUse"))
            ++cache.active;
        else
            cache.reclaimable += integer_at(record, "Size");
    });
    each("Removed", [&](const json::value& container) {
        ++removed.total;
        removed.size += integer_at(container, "SizeRw");
    });
    removed.reclaimable = removed.size;
    if (invocation.options.flag("verbose")) {
        std::string out = "Images space usage:\n\n";
        std::string table = "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS\n";
        each("Images", [&](const json::value& image) {
            std::string tag = "<none>:<none>";
            if (const json::value* tags = value_at(image, "RepoTags");
                tags != nullptr && tags->is_array() && !tags->get_array().empty())
                tag = print_text(tags->get_array()[0]);
            auto colon = tag.rfind(':');
            std::int64_t shared = std::max<std::int64_t>(integer_at(image, "SharedSize"), 0);
            std::string id = text_at(image, "Id");
            table += tag.substr(0, colon) + "\t" + tag.substr(colon + 1) + "\t" +
                     (id.starts_with("sha256:") ? id.substr(7, 12) : id) + "\t" +
                     human_ago(WallTime(std::chrono::seconds(integer_at(image, "Created"))), wall_now()) + "\t" +
                     human_size(static_cast<double>(integer_at(image, "Size"))) + "\t" +
                     human_size(static_cast<double>(shared)) + "\t" +
                     human_size(static_cast<double>(integer_at(image, "Size") - shared)) + "\t" +
                     std::to_string(integer_at(image, "Containers")) + "\n";
        });
        out += align(table) + "\nContainers space usage:\n\n";
        table = "CONTAINER ID\tIMAGE\tCOMMAND\tLOCAL VOLUMES\tSIZE\tCREATED\tSTATUS\tNAMES\n";
        each("Containers", [&](const json::value& container) {
            std::string names = joined(value_at(container, "Names"));
            std::size_t local = 0;
            if (const json::value* mounts = value_at(container, "Mounts"); mounts != nullptr && mounts->is_array())
                local = static_cast<std::size_t>(std::ranges::count_if(
                    mounts->get_array(), [](const json::value& one) { return text_at(one, "Type") == "volume"; }));
            table += text_at(container, "Id").substr(0, 12) + "\t" + text_at(container, "Image") + "\t\"" +
                     shorten(text_at(container, "Command"), 20) + "\"\t" + std::to_string(local) + "\t" +
                     human_size(static_cast<double>(integer_at(container, "SizeRw"))) + "\t" +
                     human_ago(WallTime(std::chrono::seconds(integer_at(container, "Created"))), wall_now()) + "\t" +
                     text_at(container, "Status") + "\t" + (names.starts_with('/') ? names.substr(1) : names) + "\n";
        });
        out += align(table) + "\nLocal Volumes space usage:\n\n";
        table = "VOLUME NAME\tLINKS\tSIZE\n";
        each("Volumes", [&](const json::value& volume) {
            table += text_at(volume, "Name") + "\t" + std::to_string(integer_at(volume, "UsageData.RefCount")) + "\t" +
                     human_size(static_cast<double>(std::max<std::int64_t>(integer_at(volume, "UsageData.Size"), 0))) +
                     "\n";
        });
        out += align(table) + "\nBuild cache usage: " + human_size(static_cast<double>(cache.size)) + "\n\n";
        table = "CACHE ID\tCACHE TYPE\tSIZE\tCREATED\tLAST USED\tUSAGE\tSHARED\n";
        out += align(table);
        if (removed.total > 0) {
            out += "\nRemoved containers space usage:\n\n";
            table = "CONTAINER ID\tIMAGE\tSIZE\tNAME\n";
            each("Removed", [&](const json::value& container) {
                table += text_at(container, "Id").substr(0, 12) + "\t" + text_at(container, "Image") + "\t" +
                         human_size(static_cast<double>(integer_at(container, "SizeRw"))) + "\t" +
                         text_at(container, "Name") + "\n";
            });
            out += align(table);
        }
        session.out(out + "\n");
        return 0;
    }
    Listing listing(df_columns, "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}");
    listing.add(usage_row("Images", images));
    listing.add(usage_row("Containers", containers));
    listing.add(usage_row("Local Volumes", volumes));
    listing.add(usage_row("Build Cache", cache));
    if (removed.total > 0) listing.add(usage_row("Removed Containers", removed));
    session.out(TRY(listing.render(invocation.options.text("format"))));
    return 0;
}

}  // namespace

void add_system_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"version"},
         .usage = "[OPTIONS]",
         .summary = "Show the version of the command and the daemon",
         .example = "wherry version -f '{{.Server.Version}}'",
         .options = format_options,
         .maximum = 0,
         .run = version},
        {.names = {"info", "system info"},
         .usage = "[OPTIONS]",
         .summary = "Display system-wide information",
         .example = "wherry info -f '{{.CgroupVersion}}'",
         .options = format_options,
         .maximum = 0,
         .run = info},
        {.names = {"system df"},
         .usage = "[OPTIONS]",
         .summary = "Show disk usage",
         .example = "wherry system df -v",
         .options = df_options,
         .maximum = 0,
         .run = disk_usage},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
