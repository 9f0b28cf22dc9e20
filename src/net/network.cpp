#include "net/network.hpp"

#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "base/id.hpp"
#include "base/log.hpp"
#include "net/conntrack.hpp"
#include "net/files.hpp"
#include "net/netlink.hpp"
#include "net/netns.hpp"
#include "net/pool.hpp"
#include "net/port_book.hpp"
#include "net/ruleset.hpp"

namespace wherry::net {

namespace {

// What our ends of veth pairs are called: nobody else's links begin so.
constexpr std::string_view host_link_prefix = "wveth";

std::string new_host_link_name() {
    std::array<std::byte, 4> random{};
    fill_random(random);
    return std::string(host_link_prefix) + hex(random);
}

Result<> write_sysctl(const std::string& path, std::string_view value) {
    auto current = read_file(path, 128);
    if (current && std::string_view(*current).substr(0, current->find('\n')) == value) return {};
    return write_control_file(path, value);
}

struct Bridge {
    BridgeOptions options;
    BridgeInfo info;
    AddressPool pool;
    AddressPool pool6;
};

RulesetNetwork ruleset_network(const Bridge& bridge) {
    RulesetNetwork network;
    network.bridge = bridge.info.name;
    network.subnet = bridge.info.subnet;
    if (bridge.info.subnet6) network.subnet6 = *bridge.info.subnet6;
    network.masquerade = bridge.options.masquerade == Switch::on;
    network.container_traffic = bridge.options.container_traffic == Switch::on;
    network.internal = bridge.options.internal == Switch::on;
    return network;
}

// The addresses a host port is taken on: what was asked for, or all of each family the endpoint has.
Result<std::vector<IpAddress>> host_addresses(const Endpoint& endpoint, const PortRequest& request) {
    const IpAddress& asked = request.host_address;
    if (asked.is_ipv6() && !endpoint.address6.is_set())
        return fail(Code::invalid_argument, "cannot publish port " + request.container.to_string() + " on [" +
                                                asked.to_string() + "]: network " + endpoint.bridge + " has no IPv6");
    if (asked.is_set()) return std::vector{asked};
    std::vector<IpAddress> all{IpAddress::any(IpAddress::Family::ipv4)};
    if (endpoint.address6.is_set()) all.push_back(IpAddress::any(IpAddress::Family::ipv6));
    return all;
}

PortMapping mapping(const Endpoint& endpoint, const PublishedPort& port) {
    PortMapping result;
    result.protocol = port.container.protocol;
    result.host_address = port.host_address;
    result.host_port = port.host_port;
    result.container_address = port.host_address.is_ipv6() ? endpoint.address6 : endpoint.address;
    result.container_port = port.container.port;
    result.sandbox_id = endpoint.sandbox_id;
    return result;
}

std::set<std::uint16_t> udp_ports(const std::vector<PortMapping>& mappings) {
    std::set<std::uint16_t> ports;
    for (const PortMapping& one : mappings) {
        if (one.protocol == Protocol::udp) ports.insert(one.host_port);
    }
    return ports;
}

class KernelNetworkManager final : public NetworkManager {
  public:
    KernelNetworkManager(NetworkManagerOptions options, Ruleset ruleset)
        : options_(std::move(options)), ruleset_(std::move(ruleset)) {}

    Result<BridgeInfo> ensure_bridge(const BridgeOptions& options) override;
    Result<> remove_bridge(const std::string& name) override;
    Result<BridgeInfo> bridge(const std::string& name) const override;
    std::vector<BridgeInfo> bridges() const override;
    Result<Attachment> attach(const std::string& bridge, const EndpointOptions& options) override;
    Result<Endpoint> connect(const std::string& bridge, int netns, const EndpointOptions& options) override;
    Result<> disconnect(const Endpoint& endpoint) override;
    Result<Fd> isolated_namespace() override;
    void release(const Endpoint& endpoint) override;
    Result<std::vector<PublishedPort>> publish(const Endpoint& endpoint,
                                               const std::vector<PortRequest>& requests) override;
    Result<> unpublish(const std::string& sandbox_id) override;
    std::vector<PublishedPort> published(const std::string& sandbox_id) const override;
    Result<> reconcile(const std::vector<LiveEndpoint>& live) override;
    Result<> recheck() override;
    Result<> teardown() override;

  private:
    bool managed() const { return options_.firewall == Firewall::managed; }

    // Below: with the lock held.
    Result<Bridge*> find(const std::string& name);
    std::vector<RulesetNetwork> networks() const;
    std::vector<PortMapping> all_mappings() const;
    Result<> apply_rules(bool with_ports);
    Result<> recheck_locked();
    Result<> choose_addresses(Bridge& bridge, const std::optional<Link>& link, NetlinkSocket& socket);
    Result<Endpoint> reserve(const std::string& bridge, const EndpointOptions& options, BridgePortOptions& port,
                             int& master);
    void give_back(const Endpoint& endpoint);
    Result<> forget_ports(const std::vector<PortMapping>& mappings);

    NetworkManagerOptions options_;
    mutable std::mutex mutex_;  // everything below
    Ruleset ruleset_;
    std::uint32_t generation_ = 0;  // of the host's ruleset when we last looked; 0: never
    std::map<std::string, Bridge> bridges_;
    PortBook book_;
    std::map<std::string, std::vector<PortMapping>> ports_;  // by sandbox
};

Result<Bridge*> KernelNetworkManager::find(const std::string& name) {
    auto at = bridges_.find(name);
    if (at == bridges_.end()) return fail(Code::not_found, "no bridge named " + name);
    return &at->second;
}

std::vector<RulesetNetwork> KernelNetworkManager::networks() const {
    std::vector<RulesetNetwork> all;
    for (const auto& [name, bridge] : bridges_) all.push_back(ruleset_network(bridge));
    return all;
}

std::vector<PortMapping> KernelNetworkManager::all_mappings() const {
    std::vector<PortMapping> all;
    for (const auto& [sandbox, mappings] : ports_) all.insert(all.end(), mappings.begin(), mappings.end());
    return all;
}

Result<> KernelNetworkManager::apply_rules(bool with_ports) {
    if (!managed()) return {};
    std::vector<PortMapping> mappings;
    if (with_ports) mappings = all_mappings();
    TRY(ruleset_.apply(networks(), mappings));
    TRY(ruleset_.sync_foreign(networks()));
    generation_ = TRY(ruleset_.generation());
    return {};
}

Result<> KernelNetworkManager::recheck_locked() {
    if (!managed() || bridges_.empty()) return {};
    std::uint32_t now = TRY(ruleset_.generation());
    if (now == generation_) return {};
    if (!TRY(ruleset_.present())) {
        log_warn("net.firewall.restored",
                 {{"table", options_.table}, {"reason", "the table was deleted by another program"}});
        return apply_rules(true);
    }
    TRY(ruleset_.sync_foreign(networks()));
    generation_ = TRY(ruleset_.generation());
    return {};
}

Result<> KernelNetworkManager::choose_addresses(Bridge& bridge, const std::optional<Link>& link,
                                                NetlinkSocket& socket) {
    const BridgeOptions& options = bridge.options;
    std::vector<LinkAddress> addresses = TRY(socket.addresses());
    std::vector<IpPrefix> connected;  // of other links
    std::optional<IpPrefix> present;  // of the bridge itself
    for (const LinkAddress& address : addresses) {
        if (link && address.index == link->index) {
            if (address.prefix.address.is_ipv4() && !present) present = address.prefix;
        } else {
            connected.push_back(address.prefix.network());
        }
    }
    if (options.subnet) {
        bridge.info.subnet = options.subnet->network();
        if (!bridge.info.subnet.address.is_ipv4() || bridge.info.subnet.length > 30)
            return fail(Code::invalid_argument,
                        "invalid subnet " + options.subnet->to_string() + ": IPv4 and at most /30");
    } else if (present) {
        bridge.info.subnet = present->network();
        bridge.info.gateway = present->address;
    } else {
        std::vector<IpPrefix> taken = connected;
        for (const Route& route : TRY(socket.routes())) {
            // A VPN's 0.0.0.0/1 is a default route in disguise.
            if (route.destination.length >= 4) taken.push_back(route.destination);
        }
        for (const std::string& server : TRY(read_host_resolver()).servers) {
            if (auto address = IpAddress::parse(server)) taken.push_back({*address, address->bits()});
        }
        bridge.info.subnet = TRY(choose_subnet(taken));
    }
    if (options.gateway) {
        bridge.info.gateway = *options.gateway;
    } else if (!bridge.info.gateway.is_set()) {
        // --bip gives subnet and gateway in one: 10.1.0.5/16.
        bool host_part = options.subnet && options.subnet->address != bridge.info.subnet.address;
        bridge.info.gateway = host_part ? options.subnet->address : bridge.info.subnet.address.plus(1);
    }
    if (!bridge.info.subnet.contains(bridge.info.gateway))
        return fail(Code::invalid_argument, "gateway " + bridge.info.gateway.to_string() + " is not in subnet " +
                                                bridge.info.subnet.to_string());
    if (options.range &&
        !(bridge.info.subnet.contains(options.range->address) && options.range->length >= bridge.info.subnet.length))
        return fail(Code::invalid_argument, "address range " + options.range->to_string() + " is not in subnet " +
                                                bridge.info.subnet.to_string());
    if (options.subnet6) {
        bridge.info.subnet6 = options.subnet6->network();
        if (!bridge.info.subnet6->address.is_ipv6() || bridge.info.subnet6->length > 126)
            return fail(Code::invalid_argument,
                        "invalid subnet " + options.subnet6->to_string() + ": IPv6 and at most /126");
        bridge.info.gateway6 = options.gateway6 ? *options.gateway6 : bridge.info.subnet6->address.plus(1);
        if (!bridge.info.subnet6->contains(*bridge.info.gateway6))
            return fail(Code::invalid_argument, "gateway " + bridge.info.gateway6->to_string() + " is not in subnet " +
                                                    bridge.info.subnet6->to_string());
    }
    for (const IpPrefix& other : connected) {
        if (bridge.info.subnet.overlaps(other) || (bridge.info.subnet6 && bridge.info.subnet6->overlaps(other)))
            return fail(Code::conflict, "subnet " + bridge.info.subnet.to_string() + " of " + bridge.info.name +
                                            " overlaps " + other.to_string() + " of another interface");
    }
    return {};
}

Result<BridgeInfo> KernelNetworkManager::ensure_bridge(const BridgeOptions& options) {
    std::lock_guard lock(mutex_);
    NetlinkSocket socket = TRY(NetlinkSocket::open());
    Bridge bridge;
    bridge.options = options;
    bridge.info.name = options.name;

    std::vector<Link> links = TRY(socket.links());
    std::optional<Link> link;
    for (const Link& one : links) {
        if (one.name == options.name) link = one;
    }
    if (link && link->kind != "bridge")
        return fail(Code::conflict, "interface " + options.name + " is there already and is not a bridge");
    TRY(choose_addresses(bridge, link, socket), "bridge " + options.name);

    bridge.info.mtu = options.mtu;
    if (bridge.info.mtu == 0) {
        bridge.info.mtu = 1500;
        for (const Route& route : TRY(socket.routes())) {
            if (route.destination.length != 0 || !route.destination.address.is_ipv4() || route.type != 1) continue;
            for (const Link& one : links) {
                if (one.index == route.index && one.mtu != 0) bridge.info.mtu = std::min(bridge.info.mtu, one.mtu);
            }
        }
    }

    if (managed() && bridges_.empty()) {
        // iptables-legacy's tables are another world that nf_tables can't see, and a DROP there is final.
        auto legacy = read_file("/proc/thread-self/net/ip_tables_names", 4096);
        if (legacy && legacy->find("filter") != std::string::npos)
            log_warn(
                "net.firewall.legacy",
                {{"reason", "iptables-legacy rules are loaded: if their FORWARD chain drops, accept the bridge there"},
                 {"bridge", options.name}});
    }

    const bool created = !link;
    if (created) {
        TRY(socket.create_bridge(options.name, MacAddress::from_ip(bridge.info.gateway), bridge.info.mtu));
        link = TRY(socket.link(options.name));
    }
    bridge.info.link_index = link->index;
    auto set_up = [&]() -> Result<> {
        const std::string base = "/proc/sys/net/ipv4/conf/" + options.name;
        const std::string base6 = "/proc/sys/net/ipv6/conf/" + options.name;
        if (path_exists(base6)) {
            TRY(write_sysctl(base6 + "/disable_ipv6", bridge.info.subnet6 ? "0" : "1"));
            if (bridge.info.subnet6) TRY(write_sysctl(base6 + "/accept_ra", "0"));
        }
        // Addresses: ours there, other ones of the same family away, unless containers live by them.
        std::vector<IpPrefix> wanted{{bridge.info.gateway, bridge.info.subnet.length}};
        if (bridge.info.subnet6) wanted.push_back({*bridge.info.gateway6, bridge.info.subnet6->length});
        const bool has_ports = std::ranges::any_of(links, [&](const Link& one) { return one.master == link->index; });
        for (const LinkAddress& address : TRY(socket.addresses())) {
            if (address.index != link->index) continue;
            if (std::erase(wanted, address.prefix) != 0) continue;
            // fe80::/10 is the kernel's.
            if (address.prefix.address.is_ipv6() && address.prefix.address.bytes().starts_with("\xfe\x80")) continue;
            if (has_ports)
                return fail(Code::conflict, options.name + " has address " + address.prefix.to_string() +
                                                " and containers that use it: remove them before its subnet changes");
            TRY(socket.remove_address(link->index, address.prefix));
        }
        for (const IpPrefix& prefix : wanted) TRY(socket.add_address(link->index, prefix));
        if (!created && link->mtu != bridge.info.mtu) TRY(socket.set_mtu(link->index, bridge.info.mtu));
        TRY(socket.set_up(link->index));

        // The rule that guards 127.0.0.0/8 comes before the sysctl that needs it.
        auto previous = bridges_.extract(options.name);
        bridges_.emplace(options.name, bridge);
        auto ruled = apply_rules(false);
        if (!ruled) {
            bridges_.erase(options.name);
            if (previous) bridges_.insert(std::move(previous));
            return ruled;
        }
        if (previous) {
            // Addresses already given out stay so.
            Bridge& now = bridges_.at(options.name);
            if (previous.mapped().info.subnet == now.info.subnet &&
                previous.mapped().info.gateway == now.info.gateway) {
                now.pool = std::move(previous.mapped().pool);
                now.pool6 = std::move(previous.mapped().pool6);
            }
        }
        if (options.internal == Switch::off) {
            if (managed()) TRY(write_sysctl(base + "/route_localnet", "1"));
            TRY(write_sysctl("/proc/sys/net/ipv4/ip_forward", "1"));
            if (bridge.info.subnet6) TRY(write_sysctl("/proc/sys/net/ipv6/conf/all/forwarding", "1"));
        }
        return {};
    };
    if (auto outcome = set_up(); !outcome) {
        if (created) {
            bridges_.erase(options.name);
            static_cast<void>(socket.delete_link(link->index));
        }
        return std::unexpected(std::move(outcome).error().context("bridge " + options.name));
    }
    Bridge& kept = bridges_.at(options.name);
    if (!kept.pool.subnet().is_set()) {
        kept.pool = AddressPool(kept.info.subnet, options.range.value_or(kept.info.subnet), kept.info.gateway);
        if (kept.info.subnet6) kept.pool6 = AddressPool(*kept.info.subnet6, *kept.info.subnet6, *kept.info.gateway6);
    }
    for (const IpAddress& address : options.reserved) {
        kept.pool.mark_used(address);
        kept.pool6.mark_used(address);
    }
    return kept.info;
}

Result<> KernelNetworkManager::remove_bridge(const std::string& name) {
    std::lock_guard lock(mutex_);
    Bridge* bridge = TRY(find(name));
    NetlinkSocket socket = TRY(NetlinkSocket::open());
    std::optional<Link> link;
    for (const Link& one : TRY(socket.links())) {
        if (one.name == name && one.kind == "bridge") link = one;
        if (one.master == bridge->info.link_index && bridge->info.link_index != 0)
            return fail(Code::conflict, "bridge " + name + " has endpoints");
    }
    if (link) TRY(socket.delete_link(link->index), "bridge " + name);
    bridges_.erase(name);
    return apply_rules(false);
}

Result<BridgeInfo> KernelNetworkManager::bridge(const std::string& name) const {
    std::lock_guard lock(mutex_);
    auto at = bridges_.find(name);
    if (at == bridges_.end()) return fail(Code::not_found, "no bridge named " + name);
    return at->second.info;
}

std::vector<BridgeInfo> KernelNetworkManager::bridges() const {
    std::lock_guard lock(mutex_);
    std::vector<BridgeInfo> all;
    for (const auto& [name, bridge] : bridges_) all.push_back(bridge.info);
    return all;
}

Result<Endpoint> KernelNetworkManager::reserve(const std::string& name, const EndpointOptions& options,
                                               BridgePortOptions& port, int& master) {
    TRY(recheck_locked());
    Bridge* bridge = TRY(find(name));
    Endpoint endpoint;
    endpoint.sandbox_id = options.sandbox_id;
    endpoint.bridge = name;
    endpoint.interface = options.interface;
    endpoint.host_link = new_host_link_name();
    endpoint.mtu = bridge->info.mtu;
    if (options.address) {
        TRY(bridge->pool.allocate(*options.address));
        endpoint.address = *options.address;
    } else {
        endpoint.address = TRY(bridge->pool.allocate());
    }
    endpoint.prefix_length = bridge->info.subnet.length;
    const bool internal = bridge->options.internal == Switch::on;
    if (!internal) endpoint.gateway = bridge->info.gateway;
    if (bridge->info.subnet6) {
        auto second = options.address6 ? [&]() -> Result<IpAddress> {
            TRY(bridge->pool6.allocate(*options.address6));
            return *options.address6;
        }()
            : bridge->pool6.allocate();
        if (!second) {
            bridge->pool.release(endpoint.address);
            return std::unexpected(std::move(second).error());
        }
        endpoint.address6 = *second;
        endpoint.prefix_length6 = bridge->info.subnet6->length;
        if (!internal) endpoint.gateway6 = *bridge->info.gateway6;
    } else if (options.address6) {
        bridge->pool.release(endpoint.address);
        return fail(Code::invalid_argument,
                    "network " + name + " has no IPv6 for address " + options.address6->to_string());
    }
    endpoint.mac = options.mac ? *options.mac : MacAddress::from_ip(endpoint.address);
    // With bridge-nf-call-iptables a container that reaches its own published port goes out by the port it came in.
    port.hairpin = true;
    port.isolated = bridge->options.container_traffic == Switch::off;
    master = bridge->info.link_index;
    return endpoint;
}

void KernelNetworkManager::give_back(const Endpoint& endpoint) {
    auto at = bridges_.find(endpoint.bridge);
    if (at == bridges_.end()) return;
    at->second.pool.release(endpoint.address);
    if (endpoint.address6.is_set()) at->second.pool6.release(endpoint.address6);
}

// The pair, from a thread inside the namespace; `host` belongs to the host's.
Result<> make_pair(NetlinkSocket& host, int netns, const Endpoint& endpoint, const BridgePortOptions& port, int master,
                   Switch default_route, bool fresh) {
    VethOptions veth;
    veth.name = endpoint.host_link;
    veth.master = master;
    veth.mtu = endpoint.mtu;
    veth.peer_name = endpoint.interface;
    veth.peer_netns = netns;
    veth.peer_mac = endpoint.mac;
    const std::string inet6 = "/proc/sys/net/ipv6/conf/";
    if (fresh && path_exists(inet6)) {
        // No link-local addresses, no solicitations, where the network has no IPv6; loopback keeps its ::1.
        TRY(write_control_file(inet6 + "default/disable_ipv6", endpoint.address6.is_set() ? "0" : "1"));
    }
    TRY(host.create_veth(veth));
    auto set_up = [&]() -> Result<> {
        NetlinkSocket inside = TRY(NetlinkSocket::open());
        Link link = TRY(inside.link(endpoint.interface));
        if (!fresh && path_exists(inet6))
            TRY(write_control_file(inet6 + endpoint.interface + "/disable_ipv6",
                                   endpoint.address6.is_set() ? "0" : "1"));
        NetlinkSocket::InterfaceSetup setup;
        setup.index = link.index;
        setup.loopback = fresh;
        setup.addresses.push_back({endpoint.address, endpoint.prefix_length});
        if (endpoint.address6.is_set()) setup.addresses.push_back({endpoint.address6, endpoint.prefix_length6});
        if (default_route == Switch::on) {
            if (endpoint.gateway.is_set()) setup.gateways.push_back(endpoint.gateway);
            if (endpoint.gateway6.is_set()) setup.gateways.push_back(endpoint.gateway6);
        }
        // The inner end comes up last: then it can send at once, and only the port has to be waited for.
        TRY(host.activate_bridge_port(endpoint.host_link, port));
        TRY(inside.set_up_interface(setup));
        return host.wait_until_forwarding(endpoint.host_link);
    };
    auto outcome = set_up();
    if (!outcome && !fresh) {
        // A fresh namespace takes the pair with it; this one goes on living.
        if (auto link = host.link(endpoint.host_link)) static_cast<void>(host.delete_link(link->index));
    }
    return outcome;
}

Result<Attachment> KernelNetworkManager::attach(const std::string& bridge, const EndpointOptions& options) {
    BridgePortOptions port;
    int master = 0;
    Attachment attachment;
    {
        std::lock_guard lock(mutex_);
        attachment.endpoint = TRY(reserve(bridge, options, port, master), "attach to " + bridge);
    }
    auto make = [&]() -> Result<Fd> {
        NetlinkSocket host = TRY(NetlinkSocket::open());
        return create_network_namespace([&](int netns) -> Result<> {
            TRY(apply_default_sysctls());
            return make_pair(host, netns, attachment.endpoint, port, master, options.default_route, true);
        });
    };
    auto netns = make();
    if (!netns) {
        std::lock_guard lock(mutex_);
        give_back(attachment.endpoint);
        return std::unexpected(std::move(netns).error().context("attach to " + bridge));
    }
    attachment.netns = std::move(*netns);
    return attachment;
}

Result<Endpoint> KernelNetworkManager::connect(const std::string& bridge, int netns, const EndpointOptions& options) {
    BridgePortOptions port;
    int master = 0;
    Endpoint endpoint;
    {
        std::lock_guard lock(mutex_);
        endpoint = TRY(reserve(bridge, options, port, master), "connect to " + bridge);
    }
    auto make = [&]() -> Result<> {
        NetlinkSocket host = TRY(NetlinkSocket::open());
        return run_in_network_namespace(
            netns, [&] { return make_pair(host, netns, endpoint, port, master, options.default_route, false); });
    };
    if (auto outcome = make(); !outcome) {
        std::lock_guard lock(mutex_);
        give_back(endpoint);
        return std::unexpected(std::move(outcome).error().context("connect to " + bridge));
    }
    return endpoint;
}

Result<> KernelNetworkManager::disconnect(const Endpoint& endpoint) {
    NetlinkSocket socket = TRY(NetlinkSocket::open());
    auto link = socket.link(endpoint.host_link);
    if (link) {
        TRY(socket.delete_link(link->index), "disconnect from " + endpoint.bridge);
    } else if (link.error().code() != Code::not_found) {
        return std::unexpected(std::move(link).error());
    }
    release(endpoint);
    return {};
}

Result<Fd> KernelNetworkManager::isolated_namespace() {
    return create_network_namespace([](int) -> Result<> {
        TRY(apply_default_sysctls());
        NetlinkSocket socket = TRY(NetlinkSocket::open());
        return socket.set_up(1);
    });
}

void KernelNetworkManager::release(const Endpoint& endpoint) {
    std::lock_guard lock(mutex_);
    give_back(endpoint);
}

Result<std::vector<PublishedPort>> KernelNetworkManager::publish(const Endpoint& endpoint,
                                                                 const std::vector<PortRequest>& requests) {
    if (requests.empty()) return std::vector<PublishedPort>{};
    if (!managed()) return fail(Code::conflict, "cannot publish ports: the firewall is not managed by this daemon");
    std::lock_guard lock(mutex_);
    TRY(recheck_locked());
    Bridge* bridge = TRY(find(endpoint.bridge));
    if (bridge->options.internal == Switch::on) return std::vector<PublishedPort>{};
    std::vector<PublishedPort> published;
    std::vector<PortMapping> mappings;
    auto choose = [&]() -> Result<> {
        for (const PortRequest& request : requests) {
            std::vector<IpAddress> addresses = TRY(host_addresses(endpoint, request));
            std::uint16_t port =
                TRY(book_.take_one_of(endpoint.sandbox_id, request.container.protocol, addresses, request.host_ports));
            for (const IpAddress& address : addresses) {
                published.push_back({request.container, address, port});
                mappings.push_back(mapping(endpoint, published.back()));
            }
        }
        TRY(ruleset_.add_ports(mappings));
        // A flow that began before the port was open would never be translated.
        return forget_udp_flows(ruleset_.channel(), udp_ports(mappings));
    };
    if (auto outcome = choose(); !outcome) {
        static_cast<void>(ruleset_.remove_ports(mappings));
        for (const PortMapping& one : mappings) book_.give_back(one.protocol, one.host_address, one.host_port);
        return std::unexpected(std::move(outcome).error());
    }
    // The change of ours is no reason to look again; one that another program made in between would be missed, so
    // only a step of exactly one is believed.
    if (std::uint32_t now = TRY(ruleset_.generation()); now == generation_ + 1) generation_ = now;
    auto& kept = ports_[endpoint.sandbox_id];
    kept.insert(kept.end(), mappings.begin(), mappings.end());
    return published;
}

Result<> KernelNetworkManager::forget_ports(const std::vector<PortMapping>& mappings) {
    TRY(ruleset_.remove_ports(mappings));
    if (std::uint32_t now = TRY(ruleset_.generation()); now == generation_ + 1) generation_ = now;
    for (const PortMapping& one : mappings) book_.give_back(one.protocol, one.host_address, one.host_port);
    return forget_udp_flows(ruleset_.channel(), udp_ports(mappings));
}

Result<> KernelNetworkManager::unpublish(const std::string& sandbox_id) {
    std::lock_guard lock(mutex_);
    auto at = ports_.find(sandbox_id);
    if (at == ports_.end()) return {};
    TRY(forget_ports(at->second), "close published ports");
    ports_.erase(at);
    return {};
}

std::vector<PublishedPort> KernelNetworkManager::published(const std::string& sandbox_id) const {
    std::lock_guard lock(mutex_);
    std::vector<PublishedPort> all;
    if (auto at = ports_.find(sandbox_id); at != ports_.end()) {
        for (const PortMapping& one : at->second)
            all.push_back({{one.container_port, one.protocol}, one.host_address, one.host_port});
    }
    return all;
}

Result<> KernelNetworkManager::reconcile(const std::vector<LiveEndpoint>& live) {
    std::lock_guard lock(mutex_);
    std::set<std::string> links;
    std::set<PortMapping> wanted;
    for (const LiveEndpoint& one : live) {
        links.insert(one.endpoint.host_link);
        if (auto at = bridges_.find(one.endpoint.bridge); at != bridges_.end()) {
            at->second.pool.mark_used(one.endpoint.address);
            at->second.pool6.mark_used(one.endpoint.address6);
        }
        auto& mappings = ports_[one.endpoint.sandbox_id];
        for (const PublishedPort& port : one.ports) {
            PortMapping entry = mapping(one.endpoint, port);
            if (!book_.adopt(entry.sandbox_id, entry.protocol, entry.host_address, entry.host_port))
                log_warn("net.port.shadowed",
                         {{"port", entry.host_port},
                          {"protocol", to_string(entry.protocol)},
                          {"reason", "a process of the host took a published port; the container still gets it"}});
            if (std::ranges::find(mappings, entry) == mappings.end()) mappings.push_back(entry);
            entry.sandbox_id.clear();
            wanted.insert(std::move(entry));
        }
        if (mappings.empty()) ports_.erase(one.endpoint.sandbox_id);
    }
    if (managed() && !bridges_.empty()) {
        std::vector<PortMapping> dead;
        for (PortMapping& there : TRY(ruleset_.ports())) {
            there.sandbox_id.clear();
            if (!wanted.contains(there)) dead.push_back(std::move(there));
        }
        TRY(ruleset_.remove_ports(dead));
        TRY(forget_udp_flows(ruleset_.channel(), udp_ports(dead)));
        TRY(apply_rules(true));
    }
    NetlinkSocket socket = TRY(NetlinkSocket::open());
    for (const Link& link : TRY(socket.links())) {
        if (!link.name.starts_with(host_link_prefix) || links.contains(link.name)) continue;
        bool ours = std::ranges::any_of(
            bridges_, [&](const auto& bridge) { return bridge.second.info.link_index == link.master; });
        if (!ours) continue;
        log_info("net.link.removed", {{"link", link.name}, {"reason", "belongs to no sandbox"}});
        auto outcome = socket.delete_link(link.index);
        if (!outcome && outcome.error().os_errno() != ENODEV) return outcome;
    }
    return {};
}

Result<> KernelNetworkManager::recheck() {
    std::lock_guard lock(mutex_);
    return recheck_locked();
}

Result<> KernelNetworkManager::teardown() {
    std::lock_guard lock(mutex_);
    NetlinkSocket socket = TRY(NetlinkSocket::open());
    for (const Link& link : TRY(socket.links())) {
        bool port = link.name.starts_with(host_link_prefix) && std::ranges::any_of(bridges_, [&](const auto& bridge) {
                        return bridge.second.info.link_index == link.master;
                    });
        if (!port && !(bridges_.contains(link.name) && link.kind == "bridge")) continue;
        auto outcome = socket.delete_link(link.index);
        if (!outcome && outcome.error().os_errno() != ENODEV) return outcome;
    }
    bridges_.clear();
    for (const PortMapping& one : all_mappings()) book_.give_back(one.protocol, one.host_address, one.host_port);
    ports_.clear();
    if (managed()) TRY(ruleset_.remove());
    return {};
}

}  // namespace

Result<std::unique_ptr<NetworkManager>> NetworkManager::open(NetworkManagerOptions options) {
    const bool good = !options.table.empty() && options.table.size() < 64 &&
                      std::ranges::all_of(
                          options.table,
                          [](char c) {
                              return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                                     c == '-' || c == '_';
                          });
    if (!good) return fail(Code::invalid_argument, "invalid table name \"" + options.table + "\"");
    Ruleset ruleset = TRY(Ruleset::open(options.table));
    return std::make_unique<KernelNetworkManager>(std::move(options), std::move(ruleset));
}

}  // namespace wherry::net
