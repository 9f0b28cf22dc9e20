#include "net/conntrack.hpp"

#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>

#include <cerrno>
#include <string>
#include <vector>

#include "base/fd.hpp"

namespace wherry::net {

namespace {

struct Flow {
    std::uint8_t family = 0;
    std::string tuple;  // CTA_TUPLE_ORIG as the kernel gave it
    std::string zone;   // CTA_ZONE, mostly empty
};

constexpr std::uint16_t conntrack_message(unsigned message) {
    return static_cast<std::uint16_t>(unsigned{NFNL_SUBSYS_CTNETLINK} << 8U | message);
}

}  // namespace

Result<> forget_udp_flows(NetlinkChannel& channel, const std::set<std::uint16_t>& destination_ports) {
    if (destination_ports.empty()) return {};
    // A dump walks the whole hash table, about 4 ms however few flows there are; none at all is common on idle hosts.
    if (auto count = read_file("/proc/sys/net/netfilter/nf_conntrack_count", 64); count && *count == "0\n") return {};
    std::vector<Flow> flows;
    NetlinkWriter request;
    request.begin(conntrack_message(IPCTNL_MSG_CT_GET), NLM_F_REQUEST | NLM_F_DUMP, channel.next_sequence(),
                  nfgenmsg{});
    request.end();
    auto dumped = channel.query(request, [&](const NetlinkMessage& message) {
        nfgenmsg answer{};
        NetlinkAttributes attributes{{}};
        if (!message.split(answer, attributes)) return;
        auto tuple = attributes.find(CTA_TUPLE_ORIG);
        auto protocol = tuple.nested().find(CTA_TUPLE_PROTO).nested();
        if (protocol.find(CTA_PROTO_NUM).u8() != IPPROTO_UDP) return;
        if (!destination_ports.contains(ntohs(protocol.find(CTA_PROTO_DST_PORT).u16()))) return;
        flows.push_back({answer.nfgen_family, std::string(tuple.data), std::string(attributes.find(CTA_ZONE).data)});
    });
    // An inconsistent dump may miss a flow; the ones found still go.
    if (!dumped && dumped.error().os_errno() != EINTR) return dumped;
    for (const Flow& flow : flows) {
        nfgenmsg header{};
        header.nfgen_family = flow.family;
        NetlinkWriter removal;
        removal.begin(conntrack_message(IPCTNL_MSG_CT_DELETE), NLM_F_REQUEST | NLM_F_ACK, channel.next_sequence(),
                      header);
        removal.attribute(unsigned{CTA_TUPLE_ORIG} | NLA_F_NESTED, flow.tuple);
        if (!flow.zone.empty()) removal.attribute(CTA_ZONE, flow.zone);
        removal.end();
        auto outcome = channel.transact(removal, 1);
        if (!outcome && outcome.error().os_errno() != ENOENT) return outcome;
    }
    return {};
}

}  // namespace wherry::net
