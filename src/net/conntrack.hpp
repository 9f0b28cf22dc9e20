// Forgetting tracked UDP flows (ctnetlink). A client that keeps sending from one port keeps its flow, and with it the
// address translation of the first packet: without this a republished UDP port stays dead for such a client.
#pragma once

#include <cstdint>
#include <set>

#include "base/result.hpp"
#include "net/netlink_message.hpp"

namespace wherry::net {

// Deletes every UDP flow (IPv4 and IPv6) that was first sent to one of these ports. `channel` speaks NETLINK_NETFILTER.
Result<> forget_udp_flows(NetlinkChannel& channel, const std::set<std::uint16_t>& destination_ports);

}  // namespace wherry::net
