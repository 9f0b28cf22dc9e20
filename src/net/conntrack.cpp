#include "net/conntrack.hpp"

#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>

#include <array>
#include <cerrno>
#include <string>
#include <vector>

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
    std::vector<Flow> flows;
    for (std::uint8_t family : std::array<std::uint8_t, 2>{AF_INET, AF_INET6}) {
        nfgenmsg header{};
        header.nfgen_family = family;
        NetlinkWriter request;
        request.begin(conntrack_message(IPCTNL_MSG_CT_GET), NLM_F_REQUEST | NLM_F_DUMP, channel.next_sequence(),
                      header);
        request.end();
        auto outcome = channel.query(request, [&](const NetlinkMessage& message) {
            nfgenmsg answer{};
            NetlinkAttributes attributes{{}};
            if (!message.split(answer, attributes)) return;
            auto tuple = attributes.find(CTA_TUPLE_ORIG);
            auto protocol = tuple.nested().find(CTA_TUPLE_PROTO).nested();
            if (protocol.find(CTA_PROTO_NUM).u8() != IPPROTO_UDP) return;
            if (!destination_ports.contains(ntohs(protocol.find(CTA_PROTO_DST_PORT).u16()))) return;
            flows.push_back(
                {answer.nfgen_family, std::string(tuple.data), std::string(attributes.find(CTA_ZONE).data)});
        });
        // An inconsistent dump may miss a flow; the ones found still go.
        if (!outcome && outcome.error().os_errno() != EINTR) return outcome;
    }
    for (const Flow& flow : flows) {
        nfgenmsg header{};
        header.nfgen_family = flow.family;
        NetlinkWriter request;
        request.begin(conntrack_message(IPCTNL_MSG_CT_DELETE), NLM_F_REQUEST | NLM_F_ACK, channel.next_sequence(),
                      header);
        request.attribute(unsigned{CTA_TUPLE_ORIG} | NLA_F_NESTED, flow.tuple);
        if (!flow.zone.empty()) request.attribute(CTA_ZONE, flow.zone);
        request.end();
        auto outcome = channel.transact(request, 1);
        if (!outcome && outcome.error().os_errno() != ENOENT) return outcome;
    }
    return {};
}

}  // namespace wherry::net
