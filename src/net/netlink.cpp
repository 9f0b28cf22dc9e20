#include "net/netlink.hpp"

#include <linux/if_addr.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

#include "net/netns.hpp"

namespace wherry::net {

namespace {

// IF_OPER_UP of <linux/if.h>, which can't be included beside <net/if.h>.
constexpr std::uint8_t operational_up = 6;

unsigned char family_of(const IpAddress& address) {
    return address.is_ipv6() ? AF_INET6 : AF_INET;
}

Result<> check_name(const std::string& name) {
    if (name.empty() || name.size() >= IFNAMSIZ || name == "." || name == "..")
        return fail(Code::invalid_argument, "invalid interface name \"" + name + "\"");
    for (char c : name) {
        if (c <= ' ' || c == '/' || c == ':' || c == 0x7f)
            return fail(Code::invalid_argument, "invalid interface name \"" + name + "\"");
    }
    return {};
}

ifinfomsg link_header(int index, unsigned flags = 0, unsigned change = 0) {
    ifinfomsg header{};
    header.ifi_family = AF_UNSPEC;
    header.ifi_index = index;
    header.ifi_flags = flags;
    header.ifi_change = change;
    return header;
}

ifaddrmsg address_header(int index, const IpPrefix& prefix) {
    ifaddrmsg header{};
    header.ifa_family = family_of(prefix.address);
    header.ifa_prefixlen = static_cast<unsigned char>(prefix.length);
    header.ifa_index = static_cast<unsigned>(index);
    // The addresses are ours to give: duplicate detection would only make IPv6 unusable for a second.
    if (prefix.address.is_ipv6()) header.ifa_flags = IFA_F_NODAD;
    return header;
}

void put_address(NetlinkWriter& writer, const IpPrefix& prefix) {
    writer.attribute(IFA_LOCAL, prefix.address.bytes());
    writer.attribute(IFA_ADDRESS, prefix.address.bytes());
    if (prefix.address.is_ipv4() && prefix.length < 31) writer.attribute(IFA_BROADCAST, prefix.last().bytes());
}

rtmsg route_header(const Route& route) {
    rtmsg header{};
    header.rtm_family = family_of(route.gateway.is_set() ? route.gateway : route.destination.address);
    header.rtm_dst_len = static_cast<unsigned char>(route.destination.length);
    header.rtm_table = route.table < 256 ? static_cast<unsigned char>(route.table) : std::uint8_t{RT_TABLE_UNSPEC};
    header.rtm_protocol = RTPROT_STATIC;
    header.rtm_scope = route.gateway.is_set() ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
    header.rtm_type = static_cast<unsigned char>(route.type);
    return header;
}

void put_route(NetlinkWriter& writer, const Route& route) {
    if (route.destination.length != 0) writer.attribute(RTA_DST, route.destination.address.bytes());
    if (route.gateway.is_set()) writer.attribute(RTA_GATEWAY, route.gateway.bytes());
    if (route.index != 0) writer.u32(RTA_OIF, static_cast<std::uint32_t>(route.index));
    if (route.table >= 256) writer.u32(RTA_TABLE, route.table);
    if (route.priority != 0) writer.u32(RTA_PRIORITY, route.priority);
}

IpAddress to_address(std::string_view bytes) {
    if (bytes.size() == 4) {
        std::uint32_t value = 0;
        for (char byte : bytes) value = value << 8U | static_cast<std::uint8_t>(byte);
        return IpAddress::ipv4(value);
    }
    std::array<std::uint8_t, 16> all{};
    if (bytes.size() != all.size()) return {};
    std::memcpy(all.data(), bytes.data(), all.size());
    return IpAddress::ipv6(all);
}

Link to_link(const ifinfomsg& header, const NetlinkAttributes& attributes) {
    Link link;
    link.index = header.ifi_index;
    link.up = (header.ifi_flags & IFF_UP) != 0;
    link.name = attributes.find(IFLA_IFNAME).text();
    link.master = static_cast<int>(attributes.find(IFLA_MASTER).u32());
    link.mtu = attributes.find(IFLA_MTU).u32();
    link.alias = attributes.find(IFLA_IFALIAS).text();
    link.operational = attributes.find(IFLA_OPERSTATE).u8() == operational_up;
    auto slave = attributes.find(IFLA_LINKINFO).nested().find(IFLA_INFO_SLAVE_DATA).nested();
    link.forwarding = slave.find(IFLA_BRPORT_STATE).u8() == BR_STATE_FORWARDING;
    link.kind = attributes.find(IFLA_LINKINFO).nested().find(IFLA_INFO_KIND).text();
    auto mac = attributes.find(IFLA_ADDRESS).data;
    if (mac.size() == link.mac.bytes.size()) std::memcpy(link.mac.bytes.data(), mac.data(), mac.size());
    return link;
}

// Asks until the answer is of one piece: another process may change the table under a dump.
template <class Ask>
Result<> until_consistent(Ask ask) {
    for (int attempt = 0;; ++attempt) {
        auto outcome = ask();
        if (outcome || outcome.error().os_errno() != EINTR || attempt == 20) return outcome;
    }
}

}  // namespace

Result<NetlinkSocket> NetlinkSocket::open() {
    return NetlinkSocket(TRY(NetlinkChannel::open(NETLINK_ROUTE)));
}

Result<NetlinkSocket> NetlinkSocket::open_in(int netns) {
    std::optional<NetlinkSocket> socket;
    TRY(run_in_network_namespace(netns, [&]() -> Result<> {
        socket.emplace(TRY(open()));
        return {};
    }));
    return std::move(*socket);
}

template <class Body, class Fill>
Result<> NetlinkSocket::request(std::uint16_t type, std::uint16_t flags, const Body& body, Fill fill,
                                std::string_view what) {
    NetlinkWriter writer;
    writer.begin(type, static_cast<std::uint16_t>(flags | NLM_F_REQUEST | NLM_F_ACK), channel_.next_sequence(), body);
    fill(writer);
    writer.end();
    TRY(channel_.transact(writer, 1), std::string(what));
    return {};
}

Result<std::vector<Link>> NetlinkSocket::links() {
    std::vector<Link> found;
    TRY(until_consistent([&]() -> Result<> {
            found.clear();
            NetlinkWriter writer;
            writer.begin(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, channel_.next_sequence(), link_header(0));
            writer.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
            writer.end();
            return channel_.query(writer, [&](const NetlinkMessage& message) {
                ifinfomsg header{};
                NetlinkAttributes attributes{{}};
                if (message.type == RTM_NEWLINK && message.split(header, attributes))
                    found.push_back(to_link(header, attributes));
            });
        }),
        "list links");
    return found;
}

Result<Link> NetlinkSocket::link(const std::string& name) {
    TRY(check_name(name));
    return find_link(0, name);
}

Result<Link> NetlinkSocket::link(int index) {
    return find_link(index, {});
}

Result<Link> NetlinkSocket::find_link(int index, const std::string& name) {
    const std::string what = name.empty() ? "with index " + std::to_string(index) : "named " + name;
    NetlinkWriter writer;
    writer.begin(RTM_GETLINK, NLM_F_REQUEST, channel_.next_sequence(), link_header(index));
    if (!name.empty()) writer.string(IFLA_IFNAME, name);
    writer.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    writer.end();
    std::optional<Link> found;
    auto outcome = channel_.query(writer, [&](const NetlinkMessage& message) {
        ifinfomsg header{};
        NetlinkAttributes attributes{{}};
        if (message.type == RTM_NEWLINK && message.split(header, attributes)) found = to_link(header, attributes);
    });
    if (!outcome && outcome.error().os_errno() == ENODEV) return fail(Code::not_found, "no interface " + what, ENODEV);
    TRY(std::move(outcome), "interface " + what);
    if (!found) return fail(Code::internal, "netlink answered nothing about interface " + what);
    return std::move(*found);
}

Result<std::vector<LinkAddress>> NetlinkSocket::addresses() {
    std::vector<LinkAddress> found;
    TRY(until_consistent([&]() -> Result<> {
            found.clear();
            NetlinkWriter writer;
            writer.begin(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, channel_.next_sequence(), ifaddrmsg{});
            writer.end();
            return channel_.query(writer, [&](const NetlinkMessage& message) {
                ifaddrmsg header{};
                NetlinkAttributes attributes{{}};
                if (message.type != RTM_NEWADDR || !message.split(header, attributes)) return;
                // On point-to-point links IFA_ADDRESS is the other side; IFA_LOCAL is absent for IPv6.
                auto local = attributes.find(IFA_LOCAL);
                if (local.data.empty()) local = attributes.find(IFA_ADDRESS);
                IpAddress address = to_address(local.data);
                if (address.is_set())
                    found.push_back({static_cast<int>(header.ifa_index), {address, header.ifa_prefixlen}});
            });
        }),
        "list addresses");
    return found;
}

Result<std::vector<Route>> NetlinkSocket::routes() {
    std::vector<Route> found;
    TRY(until_consistent([&]() -> Result<> {
            found.clear();
            NetlinkWriter writer;
            writer.begin(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, channel_.next_sequence(), rtmsg{});
            writer.end();
            return channel_.query(writer, [&](const NetlinkMessage& message) {
                rtmsg header{};
                NetlinkAttributes attributes{{}};
                if (message.type != RTM_NEWROUTE || !message.split(header, attributes)) return;
                if (header.rtm_family != AF_INET && header.rtm_family != AF_INET6) return;
                Route route;
                auto family = header.rtm_family == AF_INET ? IpAddress::Family::ipv4 : IpAddress::Family::ipv6;
                route.destination = {to_address(attributes.find(RTA_DST).data), header.rtm_dst_len};
                if (!route.destination.address.is_set()) route.destination.address = IpAddress::any(family);
                route.gateway = to_address(attributes.find(RTA_GATEWAY).data);
                route.index = static_cast<int>(attributes.find(RTA_OIF).u32());
                auto table = attributes.find(RTA_TABLE);
                route.table = table.data.empty() ? header.rtm_table : table.u32();
                route.priority = attributes.find(RTA_PRIORITY).u32();
                route.type = header.rtm_type;
                found.push_back(route);
            });
        }),
        "list routes");
    return found;
}

Result<> NetlinkSocket::create_bridge(const std::string& name, const MacAddress& mac, unsigned mtu) {
    TRY(check_name(name));
    return request(
        RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link_header(0),
        [&](NetlinkWriter& writer) {
            writer.string(IFLA_IFNAME, name);
            // A bridge without an address of its own takes its ports', and changes as they come and go.
            writer.attribute(IFLA_ADDRESS, mac.bytes.data(), mac.bytes.size());
            if (mtu != 0) writer.u32(IFLA_MTU, mtu);
            auto info = writer.nest(IFLA_LINKINFO);
            writer.string(IFLA_INFO_KIND, "bridge");
            auto data = writer.nest(IFLA_INFO_DATA);
            writer.u32(IFLA_BR_STP_STATE, 0);
            writer.u8(IFLA_BR_MCAST_SNOOPING, 0);  // no querier here: snooping would only lose multicast
            writer.close(data);
            writer.close(info);
        },
        "create bridge " + name);
}

Result<> NetlinkSocket::create_veth(const VethOptions& options) {
    TRY(check_name(options.name));
    TRY(check_name(options.peer_name));
    return request(
        RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link_header(0),
        [&](NetlinkWriter& writer) {
            writer.string(IFLA_IFNAME, options.name);
            if (options.mtu != 0) writer.u32(IFLA_MTU, options.mtu);
            if (options.master != 0) writer.u32(IFLA_MASTER, static_cast<std::uint32_t>(options.master));
            auto info = writer.nest(IFLA_LINKINFO);
            writer.string(IFLA_INFO_KIND, "veth");
            auto data = writer.nest(IFLA_INFO_DATA);
            auto peer = writer.nest(VETH_INFO_PEER);
            ifinfomsg header = link_header(0);
            writer.append(&header, sizeof header);
            writer.string(IFLA_IFNAME, options.peer_name);
            if (options.mtu != 0) writer.u32(IFLA_MTU, options.mtu);
            if (options.peer_mac)
                writer.attribute(IFLA_ADDRESS, options.peer_mac->bytes.data(), options.peer_mac->bytes.size());
            if (options.peer_netns >= 0) writer.u32(IFLA_NET_NS_FD, static_cast<std::uint32_t>(options.peer_netns));
            writer.close(peer);
            writer.close(data);
            writer.close(info);
        },
        "create veth " + options.name);
}

Result<> NetlinkSocket::delete_link(int index) {
    return request(RTM_DELLINK, 0, link_header(index), [](NetlinkWriter&) {}, "delete link");
}

Result<> NetlinkSocket::set_up(int index) {
    return request(RTM_NEWLINK, 0, link_header(index, IFF_UP, IFF_UP), [](NetlinkWriter&) {}, "set link up");
}

Result<> NetlinkSocket::set_down(int index) {
    return request(RTM_NEWLINK, 0, link_header(index, 0, IFF_UP), [](NetlinkWriter&) {}, "set link down");
}

Result<> NetlinkSocket::set_mtu(int index, unsigned mtu) {
    return request(
        RTM_NEWLINK, 0, link_header(index), [&](NetlinkWriter& writer) { writer.u32(IFLA_MTU, mtu); }, "set link mtu");
}

Result<> NetlinkSocket::set_mac(int index, const MacAddress& mac) {
    return request(
        RTM_NEWLINK, 0, link_header(index),
        [&](NetlinkWriter& writer) { writer.attribute(IFLA_ADDRESS, mac.bytes.data(), mac.bytes.size()); },
        "set link address");
}

Result<> NetlinkSocket::set_name(int index, const std::string& name) {
    TRY(check_name(name));
    return request(
        RTM_NEWLINK, 0, link_header(index), [&](NetlinkWriter& writer) { writer.string(IFLA_IFNAME, name); },
        "rename link to " + name);
}

Result<> NetlinkSocket::set_master(int index, int master) {
    return request(
        RTM_NEWLINK, 0, link_header(index),
        [&](NetlinkWriter& writer) { writer.u32(IFLA_MASTER, static_cast<std::uint32_t>(master)); },
        "set link's bridge");
}

Result<> NetlinkSocket::move_to_namespace(int index, int netns) {
    return request(
        RTM_NEWLINK, 0, link_header(index),
        [&](NetlinkWriter& writer) { writer.u32(IFLA_NET_NS_FD, static_cast<std::uint32_t>(netns)); },
        "move link to namespace");
}

Result<> NetlinkSocket::activate_bridge_port(const std::string& name, const BridgePortOptions& options) {
    TRY(check_name(name));
    auto outcome = send_bridge_port(name, options, true);
    // A kernel started with ipv6.disable=1 knows no IPv6 attributes, and gives no such addresses.
    if (!outcome && outcome.error().os_errno() == EAFNOSUPPORT) return send_bridge_port(name, options, false);
    return outcome;
}

Result<> NetlinkSocket::send_bridge_port(const std::string& name, const BridgePortOptions& options, bool has_ipv6) {
    // Two messages: the kernel handles a message's flags before its IPv6 part, and would have given an address by then.
    NetlinkWriter writer;
    constexpr std::uint16_t flags = NLM_F_REQUEST | NLM_F_ACK;
    writer.begin(RTM_NEWLINK, flags, channel_.next_sequence(), link_header(0));
    writer.string(IFLA_IFNAME, name);
    if (has_ipv6) {
        auto families = writer.nest(IFLA_AF_SPEC);
        auto inet6 = writer.nest(AF_INET6);
        writer.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
        writer.close(inet6);
        writer.close(families);
    }
    auto info = writer.nest(IFLA_LINKINFO);
    writer.string(IFLA_INFO_SLAVE_KIND, "bridge");
    auto data = writer.nest(IFLA_INFO_SLAVE_DATA);
    writer.u8(IFLA_BRPORT_MODE, options.hairpin ? 1 : 0);
    writer.u8(IFLA_BRPORT_ISOLATED, options.isolated ? 1 : 0);
    writer.close(data);
    writer.close(info);
    writer.end();
    writer.begin(RTM_NEWLINK, flags, channel_.next_sequence(), link_header(0, IFF_UP, IFF_UP));
    writer.string(IFLA_IFNAME, name);
    writer.end();
    TRY(channel_.transact(writer, 2), "activate bridge port " + name);
    return {};
}

Result<> NetlinkSocket::wait_until_forwarding(const std::string& name) {
    constexpr int attempts = 250;
    constexpr timespec pause{0, 200'000};
    for (int attempt = 0; attempt < attempts; ++attempt) {
        Link now = TRY(link(name));
        // The bridge's own carrier comes with its first port.
        if (now.operational && now.forwarding && (now.master == 0 || TRY(link(now.master)).operational)) break;
        ::nanosleep(&pause, nullptr);
    }
    return {};
}

Result<> NetlinkSocket::add_address(int index, const IpPrefix& prefix) {
    return request(
        RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, address_header(index, prefix),
        [&](NetlinkWriter& writer) { put_address(writer, prefix); }, "add address " + prefix.to_string());
}

Result<> NetlinkSocket::remove_address(int index, const IpPrefix& prefix) {
    return request(
        RTM_DELADDR, 0, address_header(index, prefix),
        [&](NetlinkWriter& writer) { writer.attribute(IFA_LOCAL, prefix.address.bytes()); },
        "remove address " + prefix.to_string());
}

Result<> NetlinkSocket::add_route(const Route& route) {
    return request(
        RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route_header(route),
        [&](NetlinkWriter& writer) { put_route(writer, route); },
        "add route to " + (route.destination.length == 0 ? std::string("default") : route.destination.to_string()));
}

Result<> NetlinkSocket::add_neighbour(int index, const IpAddress& address, const MacAddress& mac) {
    ndmsg header{};
    header.ndm_family = family_of(address);
    header.ndm_ifindex = index;
    header.ndm_state = NUD_PERMANENT;
    return request(
        RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, header,
        [&](NetlinkWriter& writer) {
            writer.attribute(NDA_DST, address.bytes());
            writer.attribute(NDA_LLADDR, mac.bytes.data(), mac.bytes.size());
        },
        "add neighbour " + address.to_string());
}

Result<> NetlinkSocket::set_up_interface(const InterfaceSetup& setup) {
    NetlinkWriter writer;
    std::size_t count = 0;
    auto message = [&](std::uint16_t type, std::uint16_t flags, const auto& body, auto fill) {
        writer.begin(type, static_cast<std::uint16_t>(flags | NLM_F_REQUEST | NLM_F_ACK), channel_.next_sequence(),
                     body);
        fill();
        writer.end();
        ++count;
    };
    auto nothing = [] {};
    if (setup.loopback) message(RTM_NEWLINK, 0, link_header(1, IFF_UP, IFF_UP), nothing);
    for (const IpPrefix& prefix : setup.addresses)
        message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, address_header(setup.index, prefix),
                [&] { put_address(writer, prefix); });
    message(RTM_NEWLINK, 0, link_header(setup.index, IFF_UP, IFF_UP), nothing);
    for (const IpAddress& gateway : setup.gateways) {
        Route route;
        route.destination.address = IpAddress::any(gateway.family());
        route.gateway = gateway;
        route.index = setup.index;
        message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route_header(route), [&] { put_route(writer, route); });
    }
    TRY(channel_.transact(writer, count), "set up interface");
    return {};
}

}  // namespace wherry::net
