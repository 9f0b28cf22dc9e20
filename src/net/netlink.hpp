// Route netlink (links, addresses, routes, neighbours) over a plain socket: no library, no Asio, usable in a
// static PID 1. A socket belongs to the network namespace its opening thread was in, forever. One thread at a time.
// Errors carry the kernel's errno and, where it says one, its extended acknowledgement.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "net/address.hpp"
#include "net/netlink_message.hpp"

namespace wherry::net {

struct Link {
    int index = 0;
    std::string name;
    std::string kind;  // "bridge", "veth", "tun", …; empty for hardware and loopback
    int master = 0;    // index of its bridge; 0: none
    MacAddress mac;
    unsigned mtu = 0;
    bool up = false;
    bool operational = false;  // carrier there, and the kernel has acted on it (RFC 2863's ifOperStatus up)
    bool forwarding = false;   // as a port of its bridge
    std::string alias;
};

struct LinkAddress {
    int index = 0;
    IpPrefix prefix;  // the address itself, with the subnet's length
};

struct Route {
    IpPrefix destination;  // length 0: default
    IpAddress gateway;     // not set: on link
    int index = 0;         // outgoing link; 0: none or several
    unsigned table = 254;
    unsigned priority = 0;
    unsigned type = 1;  // RTN_UNICAST
};

struct VethOptions {
    std::string name;  // the end in the socket's namespace
    int master = 0;    // bridge that end joins; 0: none
    unsigned mtu = 0;  // of both ends; 0: the kernel's
    std::string peer_name;
    int peer_netns = -1;  // descriptor; -1: the same namespace
    std::optional<MacAddress> peer_mac;
};

struct BridgePortOptions {
    bool hairpin = false;   // frames may leave by the port they came in
    bool isolated = false;  // ports so marked do not reach one another
};

class NetlinkSocket {
  public:
    static Result<NetlinkSocket> open();              // in the calling thread's namespace
    static Result<NetlinkSocket> open_in(int netns);  // by way of a helper thread

    Result<std::vector<Link>> links();
    Result<Link> link(const std::string& name);    // not_found
    Result<Link> link(int index);                  // not_found
    Result<std::vector<LinkAddress>> addresses();  // both families
    Result<std::vector<Route>> routes();           // both families, all tables

    Result<> create_bridge(const std::string& name, const MacAddress& mac, unsigned mtu);
    Result<> create_veth(const VethOptions& options);
    Result<> delete_link(int index);

    Result<> set_up(int index);
    Result<> set_down(int index);
    Result<> set_mtu(int index, unsigned mtu);
    Result<> set_mac(int index, const MacAddress& mac);
    Result<> set_name(int index, const std::string& name);
    Result<> set_master(int index, int master);        // 0: leaves its bridge
    Result<> move_to_namespace(int index, int netns);  // slow: 15 ms
    // A bridge's port: its flags, no IPv6 address of its own, and up; one message.
    Result<> activate_bridge_port(const std::string& name, const BridgePortOptions& options);
    // Until the port and its bridge carry frames. The kernel acts on a new carrier by a work item of its own, and drops
    // what is sent before; a lost first ARP request costs a second. Returns at once from 6.14 on, where asking is
    // enough; gives up after 50 ms without an error.
    Result<> wait_until_forwarding(const std::string& name);

    // `prefix` is the interface's address with the subnet's length. IPv6 without duplicate detection.
    Result<> add_address(int index, const IpPrefix& prefix);
    Result<> remove_address(int index, const IpPrefix& prefix);
    Result<> add_route(const Route& route);
    Result<> add_neighbour(int index, const IpAddress& address, const MacAddress& mac);  // permanent; replaces

    // Everything a fresh sandbox needs, in one write: loopback up, addresses, interface up, default routes.
    struct InterfaceSetup {
        int index = 0;
        std::vector<IpPrefix> addresses;
        std::vector<IpAddress> gateways;  // default routes
        bool loopback = true;
    };
    Result<> set_up_interface(const InterfaceSetup& setup);

    int fd() const { return channel_.fd(); }

  private:
    explicit NetlinkSocket(NetlinkChannel channel) : channel_(std::move(channel)) {}
    // Sends one request, built by `fill` into the writer after the header, and waits for its acknowledgement.
    template <class Body, class Fill>
    Result<> request(std::uint16_t type, std::uint16_t flags, const Body& body, Fill fill, std::string_view what);
    Result<Link> find_link(int index, const std::string& name);
    Result<> send_bridge_port(const std::string& name, const BridgePortOptions& options, bool has_ipv6);

    NetlinkChannel channel_;
};

}  // namespace wherry::net
