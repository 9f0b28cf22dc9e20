// The host's side of container networking: bridges, endpoints, published ports and the rules behind them.
//
// One NetworkManager per daemon. All calls block, but briefly (an attach takes about 1.5 ms), and may be made from any
// thread. What lasts lives in the kernel (links, one nftables table) and in the caller's records: the manager can be
// destroyed or killed at any time without disturbing containers, and a new one picks up from `reconcile`.
//
//     auto manager = TRY(NetworkManager::open({.table = "wherry"}));
//     TRY(manager->ensure_bridge({.name = "wherry0"}));
//     Attachment a = TRY(manager->attach("wherry0", {.sandbox_id = id}));   // a.netns goes to the shim
//     auto ports = TRY(manager->publish(a.endpoint, requests));             // record a.endpoint and ports
//     ...
//     manager->unpublish(endpoint.sandbox_id);                              // container gone
//     manager->release(endpoint);                                          // the namespace's last descriptor is
//     dropped by the shim
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "net/address.hpp"
#include "net/ports.hpp"

namespace wherry::net {

enum class Firewall : unsigned char { managed, untouched };  // untouched: Docker's --iptables=false

struct NetworkManagerOptions {
    // Name of the nftables table, of its own for each daemon on the host. Letters, digits, '-', '_'.
    std::string table = "wherry";
    Firewall firewall = Firewall::managed;
};

enum class Switch : unsigned char { off, on };

struct BridgeOptions {
    std::string name = "wherry0";      // of the link; at most 15 bytes
    std::optional<IpPrefix> subnet;    // not set: what the link has already, or a free one is chosen
    std::optional<IpAddress> gateway;  // not set: the first address of the subnet
    std::optional<IpPrefix> range;     // addresses for containers come from here (--ip-range); not set: subnet
    std::optional<IpPrefix> subnet6;   // not set: no IPv6
    std::optional<IpAddress> gateway6;
    std::vector<IpAddress> reserved;        // never given to a container (--aux-address)
    unsigned mtu = 0;                       // 0: that of the default route's link, at most 1500
    Switch masquerade = Switch::on;         // source NAT for what leaves the host
    Switch container_traffic = Switch::on;  // icc: containers of this bridge reach one another
    Switch internal = Switch::off;          // no way out of the host, no way in
};

// A bridge as it stands.
struct BridgeInfo {
    std::string name;
    int link_index = 0;
    IpPrefix subnet;
    IpAddress gateway;
    std::optional<IpPrefix> subnet6;
    std::optional<IpAddress> gateway6;
    unsigned mtu = 0;
};

struct EndpointOptions {
    std::string sandbox_id;             // who it belongs to
    std::optional<IpAddress> address;   // --ip; conflict when taken
    std::optional<IpAddress> address6;  // --ip6
    std::optional<MacAddress> mac;      // --mac-address; not set: from the address
    std::string interface = "eth0";     // name inside
    Switch default_route = Switch::on;  // off for second networks
};

// One interface of one sandbox: plain data that the caller records and gives back at reconcile, publish and release.
struct Endpoint {
    std::string sandbox_id;
    std::string bridge;
    std::string host_link;  // the host's end of the pair
    std::string interface;
    MacAddress mac;
    IpAddress address;
    unsigned prefix_length = 0;
    IpAddress gateway;
    IpAddress address6;  // not set without IPv6
    unsigned prefix_length6 = 0;
    IpAddress gateway6;
    unsigned mtu = 0;
};

struct Attachment {
    Fd netns;
    Endpoint endpoint;
};

// A port as it is published. Plain data, recorded by the caller.
struct PublishedPort {
    ContainerPort container;
    IpAddress host_address;  // 0.0.0.0 when all
    std::uint16_t host_port = 0;

    bool operator==(const PublishedPort&) const = default;
};

struct LiveEndpoint {
    Endpoint endpoint;
    std::vector<PublishedPort> ports;
};

class NetworkManager {
  public:
    static Result<std::unique_ptr<NetworkManager>> open(NetworkManagerOptions options = {});
    virtual ~NetworkManager() = default;

    // Makes the bridge or adopts the one that is there, enables forwarding, writes the rules. Idempotent.
    // conflict when `subnet` differs from what a bridge with endpoints has, or overlaps a route of the host.
    virtual Result<BridgeInfo> ensure_bridge(const BridgeOptions& options) = 0;
    // Removes link and rules. conflict while endpoints are on it; not_found.
    virtual Result<> remove_bridge(const std::string& name) = 0;
    virtual Result<BridgeInfo> bridge(const std::string& name) const = 0;
    virtual std::vector<BridgeInfo> bridges() const = 0;

    // A new namespace with loopback up, Docker's sysctls and one interface on the bridge.
    virtual Result<Attachment> attach(const std::string& bridge, const EndpointOptions& options) = 0;
    // One more interface, in a namespace that exists.
    virtual Result<Endpoint> connect(const std::string& bridge, int netns, const EndpointOptions& options) = 0;
    // Takes the interface out of a namespace that goes on living (about 20 ms), and gives its addresses back.
    virtual Result<> disconnect(const Endpoint& endpoint) = 0;
    // A new namespace with loopback up and Docker's sysctls, and nothing else: --network none.
    virtual Result<Fd> isolated_namespace() = 0;
    // Gives the addresses back after the sandbox's end; the link goes with its namespace. Never fails.
    virtual void release(const Endpoint& endpoint) = 0;

    // Chooses host ports and opens them, all or none. conflict with Docker's words when one is taken, by another
    // container ("port is already allocated") or by a process of the host ("address already in use").
    virtual Result<std::vector<PublishedPort>> publish(const Endpoint& endpoint,
                                                       const std::vector<PortRequest>& requests) = 0;
    // Closes all ports of the sandbox. Nothing published is fine.
    virtual Result<> unpublish(const std::string& sandbox_id) = 0;
    virtual std::vector<PublishedPort> published(const std::string& sandbox_id) const = 0;

    // After ensure_bridge at the daemon's start: takes over what is alive, and removes every link of our bridges and
    // every published port that belongs to nothing in `live`.
    virtual Result<> reconcile(const std::vector<LiveEndpoint>& live) = 0;

    // Puts back what other firewall programs took away (dockerd resets its FORWARD chain when it starts).
    // Cheap when nothing changed (0.02 ms): call it every few seconds; attach and publish do it as well.
    virtual Result<> recheck() = 0;

    // Removes table, foreign rules and all our bridges: uninstalling, and tests. Containers lose their network.
    virtual Result<> teardown() = 0;
};

}  // namespace wherry::net
