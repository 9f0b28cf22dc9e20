// sandbox create, ls, rm. (sandbox inspect is with the other inspects.)
#include <boost/json/array.hpp>

#include "base/json.hpp"
#include "cli/bodies.hpp"
#include "cli/command.hpp"
#include "cli/each.hpp"
#include "cli/ports.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/table.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option sandbox_create_options[] = {
    {"add-host", 0, "list", "Add a custom host-to-IP mapping (host:ip)"},
    {"dns", 0, "list", "Set custom DNS servers"},
    {"dns-option", 0, "list", "Set DNS options"},
    {"dns-search", 0, "list", "Set custom DNS search domains"},
    {"domainname", 0, "string", "NIS domain name of the sandbox's containers"},
    {"hostname", 'h', "string", "Host name of the sandbox's containers (default: the sandbox's name)"},
    {"label", 'l', "list", "Set metadata on the sandbox"},
    {"network", 0, "network", "Network of the sandbox: bridge, none or host"},
    {"publish", 'p', "list", "Publish a port of the sandbox to the host"},
    {"share-pid", 0, {}, "The containers see each other's processes"},
};
constexpr Option sandbox_ls_options[] = {
    {"filter", 'f', "filter", "Provide filter values (id, label, name, state)", check_filter},
    {"format", 0, "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"},
    {"no-trunc", 0, {}, "Don't truncate output"},
    {"quiet", 'q', {}, "Only display sandbox IDs"},
};
constexpr Option sandbox_rm_options[] = {
    {"force", 'f', {}, "Remove the sandbox's containers, too, running or not"},
    {"volumes", 'v', {}, "Remove anonymous volumes of these containers"},
};
constexpr Listing::Column sandbox_columns[] = {
    {"Address", "ADDRESS"}, {"Containers", "CONTAINERS"}, {"CreatedAt", "CREATED AT"},
    {"ID", "SANDBOX ID"},   {"Labels", "LABELS"},         {"Name", "NAME"},
    {"Ports", "PORTS"},     {"RunningFor", "CREATED"},    {"State", "STATE"},
};

Result<int> create_sandbox(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    json::object body;
    if (!invocation.arguments.empty()) body["Name"] = invocation.arguments[0];
    if (options.given("hostname")) body["Hostname"] = options.text("hostname");
    if (options.given("domainname")) body["Domainname"] = options.text("domainname");
    if (options.given("network")) body["NetworkMode"] = options.text("network");
    for (const auto& [option, member] : std::initializer_list<std::pair<std::string_view, std::string_view>>{
             {"dns", "Dns"}, {"dns-option", "DnsOptions"}, {"dns-search", "DnsSearch"}, {"add-host", "ExtraHosts"}})
        if (options.given(option)) body[member] = strings(options.list(option));
    if (options.flag("share-pid")) body["SharePid"] = true;
    json::object labels;
    for (const std::string& label : options.list("label")) {
        auto equals = label.find('=');
        labels[label.substr(0, equals)] = equals == std::string::npos ? "" : label.substr(equals + 1);
    }
    body["Labels"] = std::move(labels);
    json::object ports;
    for (const std::string& text : options.list("publish")) {
        for (const PortBinding& binding : TRY(parse_publish(text))) {
            json::value& list = ports[binding.port];
            if (!list.is_array()) list.emplace_array();
            list.get_array().push_back(json::object{{"HostIp", binding.host_ip}, {"HostPort", binding.host_port}});
        }
    }
    body["PortBindings"] = std::move(ports);
    json::value request(std::move(body));
    json::value answer = TRY(session.post("/wherry/sandboxes/create", &request));
    session.out(text_at(answer, "Id") + "\n");
    return 0;
}

Result<int> list_sandboxes(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    QueryText query;
    std::string filters = TRY(encode_filters(options.list("filter")));
    if (!filters.empty()) query.add("filters", filters);
    json::value answer = TRY(session.get("/wherry/sandboxes" + query.text()));
    if (!answer.is_array()) return fail(Code::internal, "the daemon's answer is not a list");
    Listing listing(sandbox_columns, "{{.ID}}\t{{.Name}}\t{{.State}}\t{{.Address}}\t{{.Ports}}\t{{.Containers}}");
    listing.method = label_method;
    bool full = options.flag("no-trunc");
    for (const json::value& sandbox : answer.get_array()) {
        std::string id = text_at(sandbox, "Id");
        std::string names;
        if (const json::value* members = value_at(sandbox, "Containers"); members != nullptr && members->is_array())
            for (const json::value& member : members->get_array())
                names += (names.empty() ? "" : ",") + text_at(member, "Name");
        json::object row{{"ID", full ? id : id.substr(0, 12)},
                         {"Name", text_at(sandbox, "Name")},
                         {"State", text_at(sandbox, "State")},
                         {"Address", text_at(sandbox, "Network.IPAddress")},
                         {"Ports", show_ports(sandbox)},
                         {"Containers", full ? names : shorten(names, 40)},
                         {"Labels", joined_labels(value_at(sandbox, "Config.Labels"))}};
        if (auto created = parse_rfc3339(text_at(sandbox, "Created"))) {
            row["CreatedAt"] = go_time(*created);
            row["RunningFor"] = human_ago(*created, wall_now());
        }
        if (const json::value* labels = value_at(sandbox, "Config.Labels")) row[label_source] = *labels;
        listing.add(std::move(row));
    }
    std::string format = options.text("format");
    if (options.flag("quiet") && format.empty()) format = "{{.ID}}";
    session.out(TRY(listing.render(format)));
    return 0;
}

Result<int> remove_sandbox(Session& session, const Invocation& invocation) {
    QueryText query;
    query.add_flag("force", invocation.options.flag("force"));
    query.add_flag("v", invocation.options.flag("volumes"));
    return for_each_argument(session, invocation, [&](const std::string& name) {
        return session.remove("/wherry/sandboxes/" + segment(name) + query.text());
    });
}

}  // namespace

void add_sandbox_verbs(std::vector<const Command*>& all) {
    static const Command create_command{
        .names = {"sandbox create"},
        .usage = "[OPTIONS] [SANDBOX]",
        .summary = "Create a sandbox: containers that share network, shared memory and host name",
        .example = "wherry sandbox create -p 8080:80 shop\nwherry run -d --sandbox shop --name web busybox httpd -f",
        .options = sandbox_create_options,
        .maximum = 1,
        .run = create_sandbox,
        .details =
            "Containers join it with --sandbox (or, from any client, --network sandbox:NAME). It goes up with "
            "the first of them\nand down with the last; address and ports belong to the sandbox."};
    static const Command list_command{.names = {"sandbox ls", "sandbox list"},
                                      .usage = "[OPTIONS]",
                                      .summary = "List sandboxes",
                                      .example = "wherry sandbox ls -f state=up",
                                      .options = sandbox_ls_options,
                                      .maximum = 0,
                                      .run = list_sandboxes};
    static const Command remove_command{.names = {"sandbox rm", "sandbox remove"},
                                        .usage = "[OPTIONS] SANDBOX [SANDBOX...]",
                                        .summary = "Remove one or more sandboxes",
                                        .example = "wherry sandbox rm -f shop",
                                        .options = sandbox_rm_options,
                                        .minimum = 1,
                                        .run = remove_sandbox,
                                        .details = "A sandbox that has containers can't be removed without --force."};
    all.push_back(&create_command);
    all.push_back(&list_command);
    all.push_back(&remove_command);
}

}  // namespace wherry::cli
