// ps.
#include <algorithm>
#include <map>
#include <span>

#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/reference.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/table.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option ps_options[] = {
    {"all", 'a', {}, "Show all containers (default shows just running)"},
    {"filter", 'f', "filter", "Filter output based on conditions provided (e.g. status=exited, name=web, label=a=b)",
     check_filter},
    {"format", 0, "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"},
    {"last", 'n', "int", "Show n last created containers (includes all states)", check_integer, "-1"},
    {"latest", 'l', {}, "Show the latest created container (includes all states)"},
    {"no-trunc", 0, {}, "Don't truncate output"},
    {"quiet", 'q', {}, "Only display container IDs"},
    {"size", 's', {}, "Display total file sizes"},
};

constexpr Listing::Column ps_columns[] = {
    {"Command", "COMMAND"},   {"CreatedAt", "CREATED AT"}, {"ID", "CONTAINER ID"},
    {"Image", "IMAGE"},       {"Labels", "LABELS"},        {"LocalVolumes", "LOCAL VOLUMES"},
    {"Mounts", "MOUNTS"},     {"Names", "NAMES"},          {"Networks", "NETWORKS"},
    {"Platform", "PLATFORM"}, {"Ports", "PORTS"},          {"RunningFor", "CREATED"},
    {"Size", "SIZE"},         {"State", "STATE"},          {"Status", "STATUS"},
    {"Sandbox", "SANDBOX"},  // the last: wherry's own
};

struct PortRow {
    std::string ip;
    std::int64_t host = 0;
    std::int64_t container = 0;
    std::string protocol;
};

}  // namespace

std::string show_ports(const json::value& container) {
    const json::value* list = value_at(container, "Ports");
    if (list == nullptr || !list->is_array()) return {};
    std::vector<PortRow> rows;
    for (const json::value& port : list->get_array())
        rows.push_back({text_at(port, "IP"), integer_at(port, "PublicPort"), integer_at(port, "PrivatePort"),
                        text_at(port, "Type")});
    std::ranges::sort(rows, [](const PortRow& a, const PortRow& b) {
        return std::tie(a.container, a.ip, a.host, a.protocol) < std::tie(b.container, b.ip, b.host, b.protocol);
    });
    // As Docker: ports without an address, and those published under their own number, are joined into ranges, for each
    // address and protocol apart; those published under another number follow one by one.
    struct Range {
        std::int64_t first = 0;
        std::int64_t last = 0;
    };
    std::vector<std::string> shown;
    std::vector<std::string> mapped;
    std::vector<std::string> order;
    std::map<std::string, Range> ranges;
    auto address_of = [](const std::string& ip) { return ip.find(':') != std::string::npos ? "[" + ip + "]" : ip; };
    auto text_of = [](const std::string& key, const Range& range) {
        std::string span = std::to_string(range.first);
        if (range.last > range.first) span += "-" + std::to_string(range.last);
        auto slash = key.rfind('/');
        std::string text = slash == std::string::npos ? "" : key.substr(0, slash) + ":" + span + "->";
        return text + span + "/" + key.substr(slash + 1);
    };
    for (const PortRow& row : rows) {
        std::string key = row.protocol;
        if (!row.ip.empty()) {
            if (row.host != row.container) {
                mapped.push_back(address_of(row.ip) + ":" + std::to_string(row.host) + "->" +
                                 std::to_string(row.container) + "/" + row.protocol);
                continue;
            }
            key = address_of(row.ip) + "/" + row.protocol;
        }
        auto found = ranges.find(key);
        if (found == ranges.end()) {
            ranges[key] = {row.container, row.container};
            order.push_back(key);
        } else if (row.container == found->second.last + 1) {
            found->second.last = row.container;
        } else {
            shown.push_back(text_of(key, found->second));
            found->second = {row.container, row.container};
        }
    }
    for (const std::string& key : order) shown.push_back(text_of(key, ranges[key]));
    shown.insert(shown.end(), mapped.begin(), mapped.end());
    std::string out;
    for (const std::string& text : shown) out += (out.empty() ? "" : ", ") + text;
    return out;
}

namespace {

std::string joined_keys(const json::value* object) {
    std::vector<std::string> keys;
    if (object != nullptr && object->is_object())
        for (const auto& member : object->get_object()) keys.emplace_back(member.key());
    std::ranges::sort(keys);
    std::string out;
    for (const std::string& key : keys) out += (out.empty() ? "" : ",") + key;
    return out;
}

json::object container_row(const json::value& container, bool full) {
    json::object row;
    std::string id = text_at(container, "Id");
    row["ID"] = full ? id : id.substr(0, 12);
    std::string names;
    if (const json::value* list = value_at(container, "Names"); list != nullptr && list->is_array())
        for (const json::value& name : list->get_array()) {
            std::string text = print_text(name);
            if (text.starts_with('/')) text.erase(0, 1);
            if (!full && text.find('/') != std::string::npos) continue;  // a name by way of a link
            names += (names.empty() ? "" : ",") + text;
        }
    row["Names"] = names;
    std::string image = text_at(container, "Image");
    if (image.empty()) image = "<no image>";
    if (!full) {
        if (image.starts_with("sha256:"))
            image = image.substr(7, 12);
        else if (image == text_at(container, "ImageID") && image.size() > 12)
            image.resize(12);
        else if (auto reference = parse_reference(image); reference && !reference->digest.empty()) {
            reference->digest.clear();
            image = reference->tag.empty() ? reference->familiar_name() : reference->familiar();
        }
    }
    row["Image"] = image;
    std::string command = text_at(container, "Command");
    std::string quoted = "\"";
    for (char c : full ? command : shorten(command, 20)) {
        if (c == '"' || c == '\\') quoted += '\\';
        if (c == '\n')
            quoted += "\\n";
        else if (c == '\t')
            quoted += "\\t";
        else
            quoted += c;
    }
    row["Command"] = quoted + "\"";
    WallTime created(std::chrono::seconds(integer_at(container, "Created")));
    row["CreatedAt"] = go_time(created);
    row["RunningFor"] = human_ago(created, wall_now());
    row["Ports"] = show_ports(container);
    row["State"] = text_at(container, "State");
    row["Sandbox"] = text_at(container, "Sandbox");
    row["Status"] = text_at(container, "Status");
    std::string size = human_size(static_cast<double>(integer_at(container, "SizeRw")));
    if (std::int64_t root = integer_at(container, "SizeRootFs"); root > 0)
        size += " (virtual " + human_size(static_cast<double>(root)) + ")";
    row["Size"] = size;
    row["Labels"] = joined_labels(value_at(container, "Labels"));
    std::string mounts;
    std::int64_t local = 0;
    if (const json::value* list = value_at(container, "Mounts"); list != nullptr && list->is_array())
        for (const json::value& mount : list->get_array()) {
            std::string name = text_at(mount, "Name");
            if (name.empty()) name = text_at(mount, "Source");
            if (!full) name = shorten(name, 15);
            mounts += (mounts.empty() ? "" : ",") + name;
            if (text_at(mount, "Driver") == "local") ++local;
        }
    row["Mounts"] = mounts;
    row["LocalVolumes"] = std::to_string(local);
    row["Networks"] = joined_keys(value_at(container, "NetworkSettings.Networks"));
    const json::value* platform = value_at(container, "ImageManifestDescriptor.platform");
    row["Platform"] = platform == nullptr ? json::value() : *platform;
    if (const json::value* labels = value_at(container, "Labels")) row[label_source] = *labels;
    return row;
}

Result<int> list_containers(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    QueryText query;
    std::int64_t last = options.flag("latest") ? 1 : options.integer("last", -1);
    if (options.flag("all") || last > 0) query.add("all", "1");
    if (last > 0) query.add("limit", std::to_string(last));
    std::string format = options.text("format");
    if (format.empty() && !options.flag("quiet")) format = session.configured("psFormat");
    bool size = options.flag("size") || (!options.given("size") && format.find(".Size") != std::string::npos);
    if (size) query.add("size", "1");
    std::string filters = TRY(encode_filters(options.list("filter")));
    if (!filters.empty()) query.add("filters", filters);
    json::value answer = TRY(session.get("/containers/json" + query.text()));
    if (!answer.is_array()) return fail(Code::internal, "the daemon's answer is not a list");
    std::string table = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";
    // Only where there is something to say: otherwise table and JSON are Docker's.
    const bool in_sandboxes = std::ranges::any_of(
        answer.get_array(), [](const json::value& one) { return !text_at(one, "Sandbox").empty(); });
    if (in_sandboxes) table += "\t{{.Sandbox}}";
    if (size) table += "\t{{.Size}}";
    std::span<const Listing::Column> shown(ps_columns);
    if (!in_sandboxes && format.find(".Sandbox") == std::string::npos) shown = shown.first(shown.size() - 1);
    Listing listing(shown, table);
    listing.method = label_method;
    bool full = options.flag("no-trunc");
    for (const json::value& container : answer.get_array()) listing.add(container_row(container, full));
    if (options.flag("quiet") && (format.empty() || format == "table" || !options.given("format"))) format = "{{.ID}}";
    session.out(TRY(listing.render(format)));
    return 0;
}

}  // namespace

std::string print_text(const json::value& value) {
    return value.is_string() ? std::string(value.get_string()) : std::string();
}

std::string joined_labels(const json::value* labels) {
    std::vector<std::string> pairs;
    if (labels != nullptr && labels->is_object())
        for (const auto& label : labels->get_object())
            pairs.push_back(std::string(label.key()) + "=" + print_text(label.value()));
    std::ranges::sort(pairs);
    std::string out;
    for (const std::string& pair : pairs) out += (out.empty() ? "" : ",") + pair;
    return out;
}

std::optional<json::value> label_method(const json::object& row, std::string_view name,
                                        std::span<const json::value> arguments) {
    if (name != "Label" || arguments.size() != 1 || !arguments[0].is_string()) return std::nullopt;
    const json::value* labels = row.if_contains(label_source);
    if (labels == nullptr || !labels->is_object()) return json::value("");
    const json::value* label = labels->get_object().if_contains(arguments[0].get_string());
    return json::value(label == nullptr ? std::string() : print_text(*label));
}

void add_container_list_verbs(std::vector<const Command*>& all) {
    static const Command ps{
        .names = {"ps", "container ls", "container list", "container ps"},
        .usage = "[OPTIONS]",
        .summary = "List containers",
        .example = "wherry ps -a --filter status=exited\nwherry ps --format 'table {{.Names}}\\t{{.Status}}'",
        .options = ps_options,
        .maximum = 0,
        .run = list_containers};
    all.push_back(&ps);
}

}  // namespace wherry::cli
