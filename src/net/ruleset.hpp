// The one nftables table of a daemon, and the accept rules it needs in other programs' chains. docs/networking.md shows
// the table as nft(8) prints it and says why each rule is there. Not thread-safe: NetworkManager's lock guards it.
//
// Chains hold a few rules for each bridge and are rewritten whole, atomically, when a bridge comes or goes. A
// published port is one element of a map, so that publishing costs the same with one port or ten thousand.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "net/address.hpp"
#include "net/nftables.hpp"
#include "net/ports.hpp"

namespace wherry::net {

struct RulesetNetwork {
    std::string bridge;
    IpPrefix subnet;
    IpPrefix subnet6;  // not set: no IPv6
    bool masquerade = true;
    bool container_traffic = true;
    bool internal = false;
};

// host_address:host_port -> container_address:container_port. Both addresses of one family; host any for all.
struct PortMapping {
    Protocol protocol = Protocol::tcp;
    IpAddress host_address;
    std::uint16_t host_port = 0;
    IpAddress container_address;
    std::uint16_t container_port = 0;
    std::string sandbox_id;  // its first 12 digits are kept as a comment

    auto operator<=>(const PortMapping&) const = default;
};

class Ruleset {
  public:
    static Result<Ruleset> open(std::string table);

    // Writes all chains for these networks; elements of the maps stay. `with_ports` are added as well (a table that
    // another program deleted comes back whole).
    Result<> apply(std::span<const RulesetNetwork> networks, std::span<const PortMapping> with_ports = {});
    Result<> add_ports(std::span<const PortMapping> ports);
    Result<> remove_ports(std::span<const PortMapping> ports);
    // What the kernel has now.
    Result<std::vector<PortMapping>> ports();
    Result<bool> present();  // the table is there and was not flushed

    // An accept rule for each direction of each bridge at the head of `filter FORWARD` (iptables-nft's chain, which
    // dockerd and others set to drop), where that chain is there and lacks it. Others of ours are removed.
    Result<> sync_foreign(std::span<const RulesetNetwork> networks);
    // The table and the foreign rules.
    Result<> remove();

    Result<std::uint32_t> generation() { return nft_generation(channel_); }
    NetlinkChannel& channel() { return channel_; }

  private:
    Ruleset(std::string table, NetlinkChannel channel) : table_(std::move(table)), channel_(std::move(channel)) {}
    void write_family(NftBatch& batch, NftFamily family, std::span<const RulesetNetwork> networks);
    Result<> sync_foreign(NftFamily family, std::span<const RulesetNetwork> networks);

    std::string table_;
    NetlinkChannel channel_;
};

}  // namespace wherry::net
