#include "net/ruleset.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <set>

namespace wherry::net {

namespace {

constexpr std::string_view map_any = "ports-any";          // proto . port : address . port
constexpr std::string_view map_address = "ports-address";  // host address . proto . port : address . port

constexpr std::array families{NftFamily::ip, NftFamily::ip6};

IpAddress::Family family_of(NftFamily family) {
    return family == NftFamily::ip ? IpAddress::Family::ipv4 : IpAddress::Family::ipv6;
}

// nft(8)'s names for these priorities are raw, dstnat, filter, srcnat.
constexpr std::int32_t priority_raw = -300;
constexpr std::int32_t priority_dstnat = -100;
constexpr std::int32_t priority_filter = 0;
constexpr std::int32_t priority_srcnat = 100;

// Numbers inside a concatenation take four bytes, network order, padded at the end.
void put_port(std::string& out, std::uint16_t port) {
    std::array<char, 4> bytes{static_cast<char>(port >> 8U), static_cast<char>(port & 0xffU), 0, 0};
    out.append(bytes.data(), bytes.size());
}

std::uint16_t get_port(std::string_view bytes) {
    return static_cast<std::uint16_t>(static_cast<std::uint8_t>(bytes[0]) << 8U | static_cast<std::uint8_t>(bytes[1]));
}

NftElement element_of(const PortMapping& port) {
    NftElement element;
    if (!port.host_address.is_any()) element.key = port.host_address.bytes();
    element.key += static_cast<char>(ip_protocol_number(port.protocol));
    element.key.append(3, '\0');
    put_port(element.key, port.host_port);
    element.data = port.container_address.bytes();
    put_port(element.data, port.container_port);
    element.comment = port.sandbox_id.substr(0, 12);
    return element;
}

IpAddress address_from(std::string_view bytes) {
    if (bytes.size() == 16) {
        std::array<std::uint8_t, 16> all{};
        std::memcpy(all.data(), bytes.data(), all.size());
        return IpAddress::ipv6(all);
    }
    std::uint32_t value = 0;
    for (char byte : bytes) value = value << 8U | static_cast<std::uint8_t>(byte);
    return IpAddress::ipv4(value);
}

// False for an element that is not of our making.
bool mapping_of(const NftElement& element, NftFamily family, bool with_address, PortMapping& port) {
    const std::size_t address_size = family == NftFamily::ip ? 4 : 16;
    std::string_view key = element.key;
    if (key.size() != 8 + (with_address ? address_size : 0) || element.data.size() != address_size + 4) return false;
    port.host_address = with_address ? address_from(key.substr(0, address_size)) : IpAddress::any(family_of(family));
    if (with_address) key = key.substr(address_size);
    switch (static_cast<std::uint8_t>(key[0])) {
        case IPPROTO_TCP:
            port.protocol = Protocol::tcp;
            break;
        case IPPROTO_UDP:
            port.protocol = Protocol::udp;
            break;
        case IPPROTO_SCTP:
            port.protocol = Protocol::sctp;
            break;
        default:
            return false;
    }
    port.host_port = get_port(key.substr(4));
    port.container_address = address_from(std::string_view(element.data).substr(0, address_size));
    port.container_port = get_port(std::string_view(element.data).substr(address_size));
    port.sandbox_id = element.comment;
    return true;
}

struct ByMap {
    NftFamily family;
    std::string map;
    std::vector<NftElement> elements;
};

std::vector<ByMap> by_map(std::span<const PortMapping> ports) {
    std::vector<ByMap> groups;
    for (NftFamily family : families) {
        for (std::string_view map : {map_any, map_address}) {
            ByMap group{family, std::string(map), {}};
            for (const PortMapping& port : ports) {
                if (nft_family(port.host_address.family()) == family && port.host_address.is_any() == (map == map_any))
                    group.elements.push_back(element_of(port));
            }
            if (!group.elements.empty()) groups.push_back(std::move(group));
        }
    }
    return groups;
}

const IpPrefix& subnet_of(const RulesetNetwork& network, NftFamily family) {
    return family == NftFamily::ip ? network.subnet : network.subnet6;
}

bool wants(NftFamily family, std::span<const RulesetNetwork> networks) {
    for (const RulesetNetwork& network : networks) {
        if (subnet_of(network, family).is_set()) return true;
    }
    return false;
}

void forward_rules(NftBatch& batch, const std::string& table, NftFamily family, const RulesetNetwork& network) {
    const std::string& bridge = network.bridge;
    auto rule = [&] { return NftRule(family); };
    auto add = [&](const NftRule& one) { batch.add_rule(table, "forward", one); };
    // From the bridge back into it: only seen where bridge-nf-call-iptables is on, and for published ports.
    if (!network.container_traffic) {
        add(rule().input_interface(bridge).output_interface(bridge).connection_destination_translated().accept());
        add(rule().input_interface(bridge).output_interface(bridge).connection_established_or_related().accept());
        add(rule().input_interface(bridge).output_interface(bridge).counter().drop());
    } else {
        add(rule().input_interface(bridge).output_interface(bridge).accept());
    }
    if (network.internal) {
        add(rule().input_interface(bridge).counter().drop());
        add(rule().output_interface(bridge).counter().drop());
        return;
    }
    add(rule().output_interface(bridge).connection_established_or_related().accept());
    add(rule().output_interface(bridge).connection_destination_translated().accept());
    // Neither an answer nor a published port: another network, or a neighbour that has a route to the subnet.
    add(rule().output_interface(bridge).counter().drop());
}

void postrouting_rules(NftBatch& batch, const std::string& table, NftFamily family, const RulesetNetwork& network) {
    const std::string& bridge = network.bridge;
    const IpPrefix& subnet = subnet_of(network, family);
    auto rule = [&] { return NftRule(family); };
    auto add = [&](const NftRule& one) { batch.add_rule(table, "nat-postrouting", one); };
    if (network.internal) return;
    // The host's own connections to 127.0.0.1: the answer must find its way back.
    if (family == NftFamily::ip)
        add(rule().source_in({IpAddress::ipv4(127U << 24U), 8}).output_interface(bridge).masquerade());
    // A container that reaches one of its own network by a published port: the answer must come by way of the host.
    add(rule().source_in(subnet).output_interface(bridge).connection_destination_translated().masquerade());
    if (network.masquerade) add(rule().source_in(subnet).not_output_interface(bridge).masquerade());
}

std::string foreign_comment(const std::string& table, const std::string& bridge, std::string_view direction) {
    return table + ":" + bridge + ":" + std::string(direction);
}

}  // namespace

Result<Ruleset> Ruleset::open(std::string table) {
    NetlinkChannel channel = TRY(NetlinkChannel::open(NETLINK_NETFILTER));
    return Ruleset(std::move(table), std::move(channel));
}

void Ruleset::write_family(NftBatch& batch, NftFamily family, std::span<const RulesetNetwork> networks) {
    batch.add_table(family, table_);
    NftType address = nft_address_type(family);
    NftType target = address.then(nft_port_type);
    batch.add_map(family, table_, std::string(map_any), nft_protocol_type.then(nft_port_type), target);
    batch.add_map(family, table_, std::string(map_address), address.then(nft_protocol_type).then(nft_port_type),
                  target);
    const std::array chains{
        NftBaseChain{"raw-prerouting", "filter", NftHook::prerouting, priority_raw},
        NftBaseChain{"nat-prerouting", "nat", NftHook::prerouting, priority_dstnat},
        NftBaseChain{"nat-output", "nat", NftHook::output, priority_dstnat},
        NftBaseChain{"forward", "filter", NftHook::forward, priority_filter},
        NftBaseChain{"nat-postrouting", "nat", NftHook::postrouting, priority_srcnat},
    };
    for (const NftBaseChain& chain : chains) {
        batch.add_chain(family, table_, chain);
        batch.flush_chain(family, table_, chain.name);
    }
    auto rule = [&] { return NftRule(family); };
    // route_localnet on the bridges, and ports published on 127.0.0.1 only, must not open the loopback network
    // to anyone who can send us a packet. Kernels drop such packets by themselves only without route_localnet.
    if (family == NftFamily::ip)
        batch.add_rule(
            table_, "raw-prerouting",
            rule().not_input_interface("lo").destination_in({IpAddress::ipv4(127U << 24U), 8}).counter().drop());
    for (const char* chain : {"nat-prerouting", "nat-output"}) {
        batch.add_rule(table_, chain, rule().translate_destination_by_map(map_address, NftRule::WithAddress::yes));
        batch.add_rule(table_, chain,
                       rule().destination_is_local().translate_destination_by_map(map_any, NftRule::WithAddress::no));
    }
    for (const RulesetNetwork& network : networks) {
        if (!subnet_of(network, family).is_set()) continue;
        forward_rules(batch, table_, family, network);
        postrouting_rules(batch, table_, family, network);
    }
}

Result<> Ruleset::apply(std::span<const RulesetNetwork> networks, std::span<const PortMapping> with_ports) {
    NftBatch batch(channel_);
    for (NftFamily family : families) {
        if (wants(family, networks)) {
            write_family(batch, family, networks);
        } else if (TRY(nft_table_exists(channel_, family, table_))) {
            batch.delete_table(family, table_);
        }
    }
    for (const ByMap& group : by_map(with_ports)) batch.add_elements(group.family, table_, group.map, group.elements);
    return batch.commit();
}

Result<> Ruleset::add_ports(std::span<const PortMapping> ports) {
    NftBatch batch(channel_);
    for (const ByMap& group : by_map(ports)) batch.add_elements(group.family, table_, group.map, group.elements);
    return batch.commit();
}

Result<> Ruleset::remove_ports(std::span<const PortMapping> ports) {
    NftBatch batch(channel_);
    for (const ByMap& group : by_map(ports)) batch.delete_elements(group.family, table_, group.map, group.elements);
    auto outcome = batch.commit();
    if (outcome || outcome.error().os_errno() != ENOENT) return outcome;
    // One of them is gone already, and a batch is all or nothing: take out those that are there.
    std::vector<PortMapping> there = TRY(this->ports());
    std::set<PortMapping> wanted;
    for (PortMapping port : ports) {
        port.sandbox_id.clear();
        wanted.insert(std::move(port));
    }
    std::erase_if(there, [&](PortMapping& port) {
        port.sandbox_id.clear();
        return !wanted.contains(port);
    });
    NftBatch second(channel_);
    for (const ByMap& group : by_map(there)) second.delete_elements(group.family, table_, group.map, group.elements);
    return second.commit();
}

Result<std::vector<PortMapping>> Ruleset::ports() {
    std::vector<PortMapping> found;
    for (NftFamily family : families) {
        for (std::string_view map : {map_any, map_address}) {
            std::vector<NftElement> elements = TRY(nft_elements(channel_, family, table_, std::string(map)));
            for (const NftElement& element : elements) {
                PortMapping port;
                if (mapping_of(element, family, map == map_address, port)) found.push_back(std::move(port));
            }
        }
    }
    return found;
}

Result<bool> Ruleset::present() {
    return !TRY(nft_rules(channel_, NftFamily::ip, table_, "nat-prerouting")).empty();
}

Result<> Ruleset::sync_foreign(NftFamily family, std::span<const RulesetNetwork> networks) {
    const std::string table = "filter";
    const std::string chain = "FORWARD";
    if (!TRY(nft_forward_chain_exists(channel_, family, table, chain))) return {};
    std::vector<NftRuleEntry> rules = TRY(nft_rules(channel_, family, table, chain));
    std::set<std::string> wanted;
    for (const RulesetNetwork& network : networks) {
        if (!subnet_of(network, family).is_set()) continue;
        wanted.insert(foreign_comment(table_, network.bridge, "in"));
        wanted.insert(foreign_comment(table_, network.bridge, "out"));
    }
    NftBatch batch(channel_);
    const std::string ours = table_ + ":";
    for (const NftRuleEntry& rule : rules) {
        if (!rule.comment.starts_with(ours)) continue;
        // A second one of the same comment goes as well.
        if (wanted.erase(rule.comment) == 0) batch.delete_rule(family, table, chain, rule.handle);
    }
    for (const RulesetNetwork& network : networks) {
        std::string in = foreign_comment(table_, network.bridge, "in");
        std::string out = foreign_comment(table_, network.bridge, "out");
        if (wanted.contains(in))
            batch.add_rule(table, chain,
                           NftRule(family).input_interface_as_iptables(network.bridge).counter().accept().comment(in),
                           NftBatch::Position::first);
        if (wanted.contains(out))
            batch.add_rule(table, chain,
                           NftRule(family).output_interface_as_iptables(network.bridge).counter().accept().comment(out),
                           NftBatch::Position::first);
    }
    return batch.commit();
}

Result<> Ruleset::sync_foreign(std::span<const RulesetNetwork> networks) {
    for (NftFamily family : families) TRY(sync_foreign(family, networks), "accept rules in filter FORWARD");
    return {};
}

Result<> Ruleset::remove() {
    TRY(sync_foreign({}));
    return apply({});
}

}  // namespace wherry::net
