// network ls, create, rm, connect, disconnect.
#include <algorithm>

#include "base/json.hpp"
#include "cli/bodies.hpp"
#include "cli/command.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/table.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr std::string_view no_swarm = "swarm networks are not supported";

constexpr Option network_create_options[] = {
    {"attachable", 0, {}, "Enable manual container attachment"},
    {"aux-address", 0, "map", "Auxiliary IPv4 or IPv6 addresses used by Network driver"},
    {"config-from", 0, "string", "The network from which to copy the configuration", nullptr, {}, true, no_swarm},
    {"config-only", 0, {}, "Create a configuration only network", nullptr, {}, true, no_swarm},
    {"driver", 'd', "string", "Driver to manage the Network", nullptr, "\"bridge\""},
    {"gateway", 0, "strings", "IPv4 or IPv6 Gateway for the master subnet"},
    {"ingress", 0, {}, "Create swarm routing-mesh network", nullptr, {}, true, no_swarm},
    {"internal", 0, {}, "Restrict external access to the network"},
    {"ip-range", 0, "strings", "Allocate container ip from a sub-range"},
    {"ipam-driver", 0, "string", "IP Address Management Driver", nullptr, "\"default\""},
    {"ipam-opt", 0, "map", "Set IPAM driver specific options"},
    {"ipv4", 0, {}, "Enable or disable IPv4 address assignment", nullptr, "true"},
    {"ipv6", 0, {}, "Enable or disable IPv6 address assignment"},
    {"label", 0, "list", "Set metadata on a network"},
    {"opt", 'o', "map", "Set driver specific options"},
    {"scope", 0, "string", "Control the network's scope", nullptr, {}, true},
    {"subnet", 0, "strings", "Subnet in CIDR format that represents a network segment"},
};
constexpr Option network_ls_options[] = {
    {"filter", 'f', "filter", "Provide filter values (e.g. \"driver=bridge\")", check_filter},
    {"format", 0, "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"},
    {"no-trunc", 0, {}, "Do not truncate the output"},
    {"quiet", 'q', {}, "Only display network IDs"},
};
constexpr Option network_rm_options[] = {{"force", 'f', {}, "Do not error if the network does not exist"}};
constexpr Option connect_options[] = {
    {"alias", 0, "strings", "Add network-scoped alias for the container"},
    {"driver-opt", 0, "strings", "Driver options for the network"},
    {"gw-priority", 0, "int", "Highest gw-priority provides the default gateway", check_integer},
    {"ip", 0, "string", "IPv4 address (e.g., \"172.30.100.104\")"},
    {"ip6", 0, "string", "IPv6 address (e.g., \"2001:db8::33\")"},
    {"link", 0, "list", "Add link to another container"},
    {"link-local-ip", 0, "strings", "Add a link-local address for the container"},
};
constexpr Option disconnect_options[] = {{"force", 'f', {}, "Force the container to disconnect from a network"}};
constexpr Listing::Column network_columns[] = {
    {"CreatedAt", "CREATED AT"}, {"Driver", "DRIVER"}, {"ID", "NETWORK ID"}, {"IPv4", "IPV4"},   {"IPv6", "IPV6"},
    {"Internal", "INTERNAL"},    {"Labels", "LABELS"}, {"Name", "NAME"},     {"Scope", "SCOPE"},
};

Result<int> list_networks(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    QueryText query;
    std::string filters = TRY(encode_filters(options.list("filter")));
    if (!filters.empty()) query.add("filters", filters);
    json::value answer = TRY(session.get("/networks" + query.text()));
    if (!answer.is_array()) return fail(Code::internal, "the daemon's answer is not a list");
    std::vector<const json::value*> networks;
    for (const json::value& network : answer.get_array()) networks.push_back(&network);
    std::ranges::sort(networks, {}, [](const json::value* network) { return text_at(*network, "Name"); });
    Listing listing(network_columns, "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}");
    listing.method = label_method;
    auto yes = [](bool value) { return value ? "true" : "false"; };
    for (const json::value* network : networks) {
        std::string id = text_at(*network, "Id");
        std::string created = text_at(*network, "Created");
        auto time = parse_rfc3339(created);
        json::object row{{"ID", options.flag("no-trunc") ? id : id.substr(0, 12)},
                         {"Name", text_at(*network, "Name")},
                         {"Driver", text_at(*network, "Driver")},
                         {"Scope", text_at(*network, "Scope")},
                         {"IPv4", yes(value_at(*network, "EnableIPv4") == nullptr || flag_at(*network, "EnableIPv4"))},
                         {"IPv6", yes(flag_at(*network, "EnableIPv6"))},
                         {"Internal", yes(flag_at(*network, "Internal"))},
                         {"CreatedAt", time ? go_time(*time) : created},
                         {"Labels", joined_labels(value_at(*network, "Labels"))}};
        if (const json::value* labels = value_at(*network, "Labels")) row[label_source] = *labels;
        listing.add(std::move(row));
    }
    std::string format = options.text("format");
    if (options.flag("quiet") && format.empty()) format = "{{.ID}}";
    session.out(TRY(listing.render(format)));
    return 0;
}

Result<int> create_network(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    auto subnets = options.split_list("subnet");
    auto gateways = options.split_list("gateway");
    auto ranges = options.split_list("ip-range");
    if (subnets.size() < gateways.size() || subnets.size() < ranges.size())
        return fail(Code::invalid_argument, "every ip-range or gateway must have a corresponding subnet");
    json::array configs;
    for (std::size_t i = 0; i < subnets.size(); ++i) {
        json::object config{{"Subnet", subnets[i]}};
        if (i < ranges.size()) config["IPRange"] = ranges[i];
        if (i < gateways.size()) config["Gateway"] = gateways[i];
        if (i == 0 && options.given("aux-address")) config["AuxiliaryAddresses"] = pairs(options.list("aux-address"));
        configs.emplace_back(std::move(config));
    }
    json::object body{
        {"Name", invocation.arguments[0]}, {"Driver", options.text("driver", "bridge")}, {"CheckDuplicate", true}};
    body["IPAM"] = json::object{{"Driver", options.text("ipam-driver", "default")},
                                {"Options", pairs(options.list("ipam-opt"))},
                                {"Config", std::move(configs)}};
    body["Options"] = pairs(options.list("opt"));
    body["Labels"] = pairs(options.list("label"));
    if (options.given("internal")) body["Internal"] = options.flag("internal");
    if (options.given("attachable")) body["Attachable"] = options.flag("attachable");
    if (options.given("ipv6")) body["EnableIPv6"] = options.flag("ipv6");
    if (options.given("ipv4")) body["EnableIPv4"] = options.flag("ipv4");
    if (options.given("scope")) body["Scope"] = options.text("scope");
    json::value request(std::move(body));
    json::value answer = TRY(session.post("/networks/create", &request));
    session.out(text_at(answer, "Id") + "\n");
    return 0;
}

Result<int> remove_network(Session& session, const Invocation& invocation) {
    int code = 0;
    for (const std::string& name : invocation.arguments) {
        auto removed = session.remove("/networks/" + segment(name));
        if (removed) {
            session.out(name + "\n");
        } else if (!(invocation.options.flag("force") && removed.error().code() == Code::not_found)) {
            session.report(removed.error());
            code = 1;
        }
    }
    return code;
}

Result<int> connect(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    json::object endpoint;
    json::object ipam;
    if (options.given("ip")) ipam["IPv4Address"] = options.text("ip");
    if (options.given("ip6")) ipam["IPv6Address"] = options.text("ip6");
    if (options.given("link-local-ip")) ipam["LinkLocalIPs"] = strings(options.split_list("link-local-ip"));
    if (!ipam.empty()) endpoint["IPAMConfig"] = std::move(ipam);
    if (options.given("alias")) endpoint["Aliases"] = strings(options.split_list("alias"));
    if (options.given("link")) endpoint["Links"] = strings(options.list("link"));
    if (options.given("driver-opt")) endpoint["DriverOpts"] = pairs(options.split_list("driver-opt"));
    if (options.given("gw-priority")) endpoint["GwPriority"] = options.integer("gw-priority");
    json::value request(json::object{{"Container", invocation.arguments[1]}, {"EndpointConfig", std::move(endpoint)}});
    TRY(session.post("/networks/" + segment(invocation.arguments[0]) + "/connect", &request));
    return 0;
}

Result<int> disconnect(Session& session, const Invocation& invocation) {
    json::value request(
        json::object{{"Container", invocation.arguments[1]}, {"Force", invocation.options.flag("force")}});
    TRY(session.post("/networks/" + segment(invocation.arguments[0]) + "/disconnect", &request));
    return 0;
}

}  // namespace

void add_network_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"network ls", "network list"},
         .usage = "[OPTIONS]",
         .summary = "List networks",
         .example = "wherry network ls --format '{{.Name}}'",
         .options = network_ls_options,
         .maximum = 0,
         .run = list_networks},
        {.names = {"network create"},
         .usage = "[OPTIONS] NETWORK",
         .summary = "Create a network",
         .example = "wherry network create --subnet 10.9.0.0/24 back",
         .options = network_create_options,
         .minimum = 1,
         .maximum = 1,
         .run = create_network},
        {.names = {"network rm", "network remove"},
         .usage = "NETWORK [NETWORK...]",
         .summary = "Remove one or more networks",
         .example = "wherry network rm back",
         .options = network_rm_options,
         .minimum = 1,
         .run = remove_network},
        {.names = {"network connect"},
         .usage = "[OPTIONS] NETWORK CONTAINER",
         .summary = "Connect a container to a network",
         .example = "wherry network connect back web",
         .options = connect_options,
         .minimum = 2,
         .maximum = 2,
         .run = connect},
        {.names = {"network disconnect"},
         .usage = "[OPTIONS] NETWORK CONTAINER",
         .summary = "Disconnect a container from a network",
         .example = "wherry network disconnect back web",
         .options = disconnect_options,
         .minimum = 2,
         .maximum = 2,
         .run = disconnect},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
