#include "net/nftables.hpp"

#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

namespace wherry::net {

namespace {

constexpr std::uint16_t nft_message(unsigned message) {
    return static_cast<std::uint16_t>(unsigned{NFNL_SUBSYS_NFTABLES} << 8U | message);
}

nfgenmsg header_of(std::uint8_t family, std::uint16_t resource = 0) {
    nfgenmsg header{};
    header.nfgen_family = family;
    header.version = NFNETLINK_V0;
    header.res_id = htons(resource);
    return header;
}

nfgenmsg header_of(NftFamily family) {
    return header_of(std::to_underlying(family));
}

// nft(8) keeps comments as type 0, length, zero-terminated text.
constexpr std::size_t comment_limit = 100;

void put_comment(NetlinkWriter& writer, unsigned attribute, std::string_view comment) {
    if (comment.empty()) return;
    comment = comment.substr(0, comment_limit);
    std::string data{'\0', static_cast<char>(comment.size() + 1)};
    data += comment;
    data += '\0';
    writer.attribute(attribute, data);
}

std::string get_comment(std::string_view data) {
    while (data.size() >= 2) {
        auto length = static_cast<std::uint8_t>(data[1]);
        if (data.size() - 2 < length) break;
        if (data[0] == 0) return std::string(data.substr(2, data.substr(2, length).find('\0')));
        data = data.substr(2U + length);
    }
    return {};
}

template <class T>
std::string_view raw(const T& value) {
    // SAFETY: the bytes of a trivially copyable value that outlives the view.
    static_assert(std::is_trivially_copyable_v<T>);
    return {reinterpret_cast<const char*>(&value), sizeof value};
}

constexpr std::uint32_t word(std::uint32_t index) {
    return NFT_REG32_00 + index;
}

// Offsets of addresses in the network header.
std::uint32_t source_offset(NftFamily family) {
    return family == NftFamily::ip ? 12 : 8;
}
std::uint32_t destination_offset(NftFamily family) {
    return family == NftFamily::ip ? 16 : 24;
}
std::uint32_t address_bytes(NftFamily family) {
    return family == NftFamily::ip ? 4 : 16;
}

}  // namespace

NftFamily nft_family(IpAddress::Family family) {
    return family == IpAddress::Family::ipv6 ? NftFamily::ip6 : NftFamily::ip;
}

NftType nft_address_type(NftFamily family) {
    return family == NftFamily::ip ? NftType{7, 4} : NftType{8, 16};
}

template <class Fill>
NftRule& NftRule::expression(std::string_view name, Fill fill) {
    auto element = expressions_.nest(NFTA_LIST_ELEM);
    expressions_.string(NFTA_EXPR_NAME, name);
    auto data = expressions_.nest(NFTA_EXPR_DATA);
    fill(expressions_);
    expressions_.close(data);
    expressions_.close(element);
    return *this;
}

NftRule& NftRule::payload(std::uint32_t base, std::uint32_t offset, std::uint32_t length, std::uint32_t index) {
    return expression("payload", [&](NetlinkWriter& writer) {
        writer.be32(NFTA_PAYLOAD_DREG, word(index));
        writer.be32(NFTA_PAYLOAD_BASE, base);
        writer.be32(NFTA_PAYLOAD_OFFSET, offset);
        writer.be32(NFTA_PAYLOAD_LEN, length);
    });
}

NftRule& NftRule::meta(std::uint32_t key, std::uint32_t index) {
    return expression("meta", [&](NetlinkWriter& writer) {
        writer.be32(NFTA_META_KEY, key);
        // The first word under its old name, which is the one iptables-nft knows.
        writer.be32(NFTA_META_DREG, index == 0 ? std::uint32_t{NFT_REG_1} : word(index));
    });
}

NftRule& NftRule::compare(bool equal, std::string_view value) {
    return expression("cmp", [&](NetlinkWriter& writer) {
        writer.be32(NFTA_CMP_SREG, NFT_REG_1);
        writer.be32(NFTA_CMP_OP, equal ? NFT_CMP_EQ : NFT_CMP_NEQ);
        auto data = writer.nest(NFTA_CMP_DATA);
        writer.attribute(NFTA_DATA_VALUE, value);
        writer.close(data);
    });
}

NftRule& NftRule::mask(std::string_view mask) {
    return expression("bitwise", [&](NetlinkWriter& writer) {
        writer.be32(NFTA_BITWISE_SREG, NFT_REG_1);
        writer.be32(NFTA_BITWISE_DREG, NFT_REG_1);
        writer.be32(NFTA_BITWISE_LEN, static_cast<std::uint32_t>(mask.size()));
        auto data = writer.nest(NFTA_BITWISE_MASK);
        writer.attribute(NFTA_DATA_VALUE, mask);
        writer.close(data);
        data = writer.nest(NFTA_BITWISE_XOR);
        writer.attribute(NFTA_DATA_VALUE, std::string(mask.size(), '\0'));
        writer.close(data);
    });
}

NftRule& NftRule::interface(std::string_view name, std::uint32_t key, bool equal, bool short_form) {
    static_assert(NFT_META_IIFNAME == 6 && NFT_META_OIFNAME == 7);
    std::string padded(name);
    padded.resize(short_form ? padded.size() + 1 : std::size_t{IFNAMSIZ});
    return meta(key, 0).compare(equal, padded);
}

NftRule& NftRule::address_in(const IpPrefix& prefix, std::uint32_t offset) {
    payload(NFT_PAYLOAD_NETWORK_HEADER, offset, address_bytes(family_), 0);
    if (prefix.length < prefix.address.bits()) {
        // Ones where the network part is: the highest address without the lowest.
        IpPrefix zero{IpAddress::any(prefix.address.family()), prefix.length};
        std::string bits(zero.last().bytes());
        for (char& byte : bits) byte = static_cast<char>(~byte);
        mask(bits);
    }
    IpPrefix network = prefix.network();
    return compare(true, network.address.bytes());
}

NftRule& NftRule::source_in(const IpPrefix& prefix) {
    return address_in(prefix, source_offset(family_));
}
NftRule& NftRule::destination_in(const IpPrefix& prefix) {
    return address_in(prefix, destination_offset(family_));
}

NftRule& NftRule::destination_is_local() {
    expression("fib", [](NetlinkWriter& writer) {
        writer.be32(NFTA_FIB_DREG, NFT_REG_1);
        writer.be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
        writer.be32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
    });
    std::uint32_t local = RTN_LOCAL;
    return compare(true, raw(local));
}

namespace {
void put_ct(NetlinkWriter& writer, std::uint32_t key) {
    writer.be32(NFTA_CT_KEY, key);
    writer.be32(NFTA_CT_DREG, NFT_REG_1);
}
}  // namespace

NftRule& NftRule::connection_established_or_related() {
    expression("ct", [](NetlinkWriter& writer) { put_ct(writer, NFT_CT_STATE); });
    std::uint32_t bits = NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED);
    std::uint32_t zero = 0;
    return mask(raw(bits)).compare(false, raw(zero));
}

NftRule& NftRule::connection_destination_translated() {
    expression("ct", [](NetlinkWriter& writer) { put_ct(writer, NFT_CT_STATUS); });
    std::uint32_t bits = IPS_DST_NAT;
    std::uint32_t zero = 0;
    return mask(raw(bits)).compare(false, raw(zero));
}

NftRule& NftRule::counter() {
    return expression("counter", [](NetlinkWriter& writer) {
        writer.be64(NFTA_COUNTER_BYTES, 0);
        writer.be64(NFTA_COUNTER_PACKETS, 0);
    });
}

NftRule& NftRule::verdict(std::uint32_t code) {
    return expression("immediate", [&](NetlinkWriter& writer) {
        writer.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
        auto data = writer.nest(NFTA_IMMEDIATE_DATA);
        auto inner = writer.nest(NFTA_DATA_VERDICT);
        writer.be32(NFTA_VERDICT_CODE, code);
        writer.close(inner);
        writer.close(data);
    });
}

NftRule& NftRule::accept() {
    return verdict(NF_ACCEPT);
}
NftRule& NftRule::drop() {
    return verdict(NF_DROP);
}

NftRule& NftRule::masquerade() {
    return expression("masq", [](NetlinkWriter&) {});
}

NftRule& NftRule::translate_destination_by_map(std::string_view map, WithAddress with_address) {
    std::uint32_t next = 0;
    if (with_address == WithAddress::yes) {
        payload(NFT_PAYLOAD_NETWORK_HEADER, destination_offset(family_), address_bytes(family_), 0);
        next = address_bytes(family_) / 4;
    }
    meta(NFT_META_L4PROTO, next);
    // The destination port is at the same place in TCP, UDP and SCTP.
    payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, next + 1);
    expression("lookup", [&](NetlinkWriter& writer) {
        writer.string(NFTA_LOOKUP_SET, map);
        writer.be32(NFTA_LOOKUP_SREG, NFT_REG_1);
        writer.be32(NFTA_LOOKUP_DREG, NFT_REG_1);
    });
    return expression("nat", [&](NetlinkWriter& writer) {
        writer.be32(NFTA_NAT_TYPE, NFT_NAT_DNAT);
        writer.be32(NFTA_NAT_FAMILY, std::to_underlying(family_));
        writer.be32(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1);
        writer.be32(NFTA_NAT_REG_PROTO_MIN, word(address_bytes(family_) / 4));
    });
}

NftBatch::NftBatch(NetlinkChannel& channel) : channel_(channel) {
    writer_.begin(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, channel_.next_sequence(),
                  header_of(AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
    writer_.end();
}

void NftBatch::begin(std::uint16_t message, std::uint16_t flags, NftFamily family) {
    last_ = channel_.next_sequence();
    if (what_.empty()) first_sequence_ = last_;
    last_offset_ = writer_.data().size();
    writer_.begin(nft_message(message), static_cast<std::uint16_t>(flags | NLM_F_REQUEST), last_, header_of(family));
}

void NftBatch::add_table(NftFamily family, const std::string& table) {
    begin(NFT_MSG_NEWTABLE, NLM_F_CREATE, family);
    writer_.string(NFTA_TABLE_NAME, table);
    writer_.be32(NFTA_TABLE_FLAGS, 0);
    writer_.end();
    what_.push_back("add table " + table);
}

void NftBatch::delete_table(NftFamily family, const std::string& table) {
    begin(NFT_MSG_DELTABLE, 0, family);
    writer_.string(NFTA_TABLE_NAME, table);
    writer_.end();
    what_.push_back("delete table " + table);
}

void NftBatch::add_chain(NftFamily family, const std::string& table, const NftBaseChain& chain) {
    begin(NFT_MSG_NEWCHAIN, NLM_F_CREATE, family);
    writer_.string(NFTA_CHAIN_TABLE, table);
    writer_.string(NFTA_CHAIN_NAME, chain.name);
    auto hook = writer_.nest(NFTA_CHAIN_HOOK);
    writer_.be32(NFTA_HOOK_HOOKNUM, std::to_underlying(chain.hook));
    writer_.be32(NFTA_HOOK_PRIORITY, static_cast<std::uint32_t>(chain.priority));
    writer_.close(hook);
    writer_.be32(NFTA_CHAIN_POLICY, NF_ACCEPT);
    writer_.string(NFTA_CHAIN_TYPE, chain.type);
    writer_.end();
    what_.push_back("add chain " + chain.name);
}

void NftBatch::flush_chain(NftFamily family, const std::string& table, const std::string& chain) {
    begin(NFT_MSG_DELRULE, 0, family);
    writer_.string(NFTA_RULE_TABLE, table);
    writer_.string(NFTA_RULE_CHAIN, chain);
    writer_.end();
    what_.push_back("flush chain " + chain);
}

void NftBatch::add_map(NftFamily family, const std::string& table, const std::string& map, NftType key, NftType data) {
    begin(NFT_MSG_NEWSET, NLM_F_CREATE, family);
    writer_.string(NFTA_SET_TABLE, table);
    writer_.string(NFTA_SET_NAME, map);
    writer_.be32(NFTA_SET_FLAGS, NFT_SET_MAP);
    writer_.be32(NFTA_SET_KEY_TYPE, key.id);
    writer_.be32(NFTA_SET_KEY_LEN, key.bytes);
    writer_.be32(NFTA_SET_DATA_TYPE, data.id);
    writer_.be32(NFTA_SET_DATA_LEN, data.bytes);
    writer_.be32(NFTA_SET_ID, last_);  // any number unique within the batch
    writer_.end();
    what_.push_back("add map " + map);
}

void NftBatch::elements(std::uint16_t message, NftFamily family, const std::string& table, const std::string& map,
                        std::span<const NftElement> elements) {
    // An attribute's length is 16 bits: many elements go as several messages.
    constexpr std::size_t at_once = 200;
    for (std::size_t start = 0; start < elements.size(); start += at_once) {
        begin(message, message == NFT_MSG_NEWSETELEM ? NLM_F_CREATE : 0, family);
        writer_.string(NFTA_SET_ELEM_LIST_TABLE, table);
        writer_.string(NFTA_SET_ELEM_LIST_SET, map);
        auto list = writer_.nest(NFTA_SET_ELEM_LIST_ELEMENTS);
        for (const NftElement& element : elements.subspan(start, std::min(at_once, elements.size() - start))) {
            auto item = writer_.nest(NFTA_LIST_ELEM);
            auto key = writer_.nest(NFTA_SET_ELEM_KEY);
            writer_.attribute(NFTA_DATA_VALUE, element.key);
            writer_.close(key);
            if (message == NFT_MSG_NEWSETELEM) {
                auto data = writer_.nest(NFTA_SET_ELEM_DATA);
                writer_.attribute(NFTA_DATA_VALUE, element.data);
                writer_.close(data);
                put_comment(writer_, NFTA_SET_ELEM_USERDATA, element.comment);
            }
            writer_.close(item);
        }
        writer_.close(list);
        writer_.end();
        what_.push_back(message == NFT_MSG_NEWSETELEM ? "add elements to " + map : "delete elements of " + map);
    }
}

void NftBatch::add_elements(NftFamily family, const std::string& table, const std::string& map,
                            std::span<const NftElement> list) {
    elements(NFT_MSG_NEWSETELEM, family, table, map, list);
}

void NftBatch::delete_elements(NftFamily family, const std::string& table, const std::string& map,
                               std::span<const NftElement> list) {
    elements(NFT_MSG_DELSETELEM, family, table, map, list);
}

void NftBatch::add_rule(const std::string& table, const std::string& chain, const NftRule& rule, Position position) {
    // Without NLM_F_APPEND a new rule goes to the head of its chain.
    begin(NFT_MSG_NEWRULE, static_cast<std::uint16_t>(NLM_F_CREATE | (position == Position::last ? NLM_F_APPEND : 0)),
          rule.family_);
    writer_.string(NFTA_RULE_TABLE, table);
    writer_.string(NFTA_RULE_CHAIN, chain);
    auto list = writer_.nest(NFTA_RULE_EXPRESSIONS);
    std::string_view expressions = rule.expressions_.data();
    writer_.append(expressions.data(), expressions.size());
    writer_.close(list);
    put_comment(writer_, NFTA_RULE_USERDATA, rule.comment_);
    writer_.end();
    what_.push_back("add rule to " + chain);
}

void NftBatch::delete_rule(NftFamily family, const std::string& table, const std::string& chain, std::uint64_t handle) {
    begin(NFT_MSG_DELRULE, 0, family);
    writer_.string(NFTA_RULE_TABLE, table);
    writer_.string(NFTA_RULE_CHAIN, chain);
    writer_.be64(NFTA_RULE_HANDLE, handle);
    writer_.end();
    what_.push_back("delete rule of " + chain);
}

Result<> NftBatch::commit() {
    if (what_.empty()) return {};
    writer_.acknowledge(last_offset_);
    writer_.begin(NFNL_MSG_BATCH_END, NLM_F_REQUEST, channel_.next_sequence(),
                  header_of(AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
    writer_.end();
    std::uint32_t failed = 0;
    auto outcome = channel_.transact_batch(writer_, last_, &failed);
    if (!outcome) {
        std::size_t index = failed - first_sequence_;
        std::string what = index < what_.size() ? what_[index] : std::string("commit");
        return std::unexpected(std::move(outcome).error().context("nftables: " + what));
    }
    return {};
}

Result<std::uint32_t> nft_generation(NetlinkChannel& channel) {
    NetlinkWriter request;
    request.begin(nft_message(NFT_MSG_GETGEN), NLM_F_REQUEST, channel.next_sequence(), header_of(AF_UNSPEC));
    request.end();
    std::uint32_t generation = 0;
    TRY(channel.query(request,
                      [&](const NetlinkMessage& message) {
                          nfgenmsg header{};
                          NetlinkAttributes attributes{{}};
                          if (message.split(header, attributes)) generation = attributes.find(NFTA_GEN_ID).be32();
                      }),
        "nftables: read the generation");
    return generation;
}

namespace {

// A dump with its filter, repeated while the ruleset changes under it. Missing tables and chains are an empty dump.
template <class Fill, class Visit, class Clear>
Result<> dump(NetlinkChannel& channel, std::uint16_t message, NftFamily family, Fill fill, Clear clear, Visit visit) {
    for (int attempt = 0;; ++attempt) {
        clear();
        NetlinkWriter request;
        request.begin(nft_message(message), NLM_F_REQUEST | NLM_F_DUMP, channel.next_sequence(), header_of(family));
        fill(request);
        request.end();
        auto outcome = channel.query(request, [&](const NetlinkMessage& answer) {
            nfgenmsg header{};
            NetlinkAttributes attributes{{}};
            if (answer.split(header, attributes)) visit(attributes);
        });
        if (outcome) return {};
        if (outcome.error().os_errno() == ENOENT) {
            clear();
            return {};
        }
        if (outcome.error().os_errno() != EINTR || attempt == 20) return outcome;
    }
}

}  // namespace

Result<std::vector<NftRuleEntry>> nft_rules(NetlinkChannel& channel, NftFamily family, const std::string& table,
                                            const std::string& chain) {
    std::vector<NftRuleEntry> rules;
    TRY(dump(
            channel, NFT_MSG_GETRULE, family,
            [&](NetlinkWriter& request) {
                request.string(NFTA_RULE_TABLE, table);
                request.string(NFTA_RULE_CHAIN, chain);
            },
            [&] { rules.clear(); },
            [&](const NetlinkAttributes& attributes) {
                if (attributes.find(NFTA_RULE_TABLE).text() != table ||
                    attributes.find(NFTA_RULE_CHAIN).text() != chain)
                    return;
                rules.push_back(
                    {attributes.find(NFTA_RULE_HANDLE).be64(), get_comment(attributes.find(NFTA_RULE_USERDATA).data)});
            }),
        "nftables: list rules of " + table + " " + chain);
    return rules;
}

Result<std::vector<NftElement>> nft_elements(NetlinkChannel& channel, NftFamily family, const std::string& table,
                                             const std::string& map) {
    std::vector<NftElement> found;
    TRY(dump(
            channel, NFT_MSG_GETSETELEM, family,
            [&](NetlinkWriter& request) {
                request.string(NFTA_SET_ELEM_LIST_TABLE, table);
                request.string(NFTA_SET_ELEM_LIST_SET, map);
            },
            [&] { found.clear(); },
            [&](const NetlinkAttributes& attributes) {
                NetlinkAttributes list = attributes.find(NFTA_SET_ELEM_LIST_ELEMENTS).nested();
                NetlinkAttributes::Attribute item;
                while (list.next(item)) {
                    NftElement element;
                    element.key = item.nested().find(NFTA_SET_ELEM_KEY).nested().find(NFTA_DATA_VALUE).data;
                    element.data = item.nested().find(NFTA_SET_ELEM_DATA).nested().find(NFTA_DATA_VALUE).data;
                    element.comment = get_comment(item.nested().find(NFTA_SET_ELEM_USERDATA).data);
                    found.push_back(std::move(element));
                }
            }),
        "nftables: list elements of " + table + " " + map);
    return found;
}

Result<bool> nft_table_exists(NetlinkChannel& channel, NftFamily family, const std::string& table) {
    bool found = false;
    TRY(dump(
            channel, NFT_MSG_GETTABLE, family, [](NetlinkWriter&) {}, [&] { found = false; },
            [&](const NetlinkAttributes& attributes) {
                if (attributes.find(NFTA_TABLE_NAME).text() == table) found = true;
            }),
        "nftables: list tables");
    return found;
}

Result<bool> nft_forward_chain_exists(NetlinkChannel& channel, NftFamily family, const std::string& table,
                                      const std::string& chain) {
    bool found = false;
    TRY(dump(
            channel, NFT_MSG_GETCHAIN, family, [](NetlinkWriter&) {}, [&] { found = false; },
            [&](const NetlinkAttributes& attributes) {
                if (attributes.find(NFTA_CHAIN_TABLE).text() != table ||
                    attributes.find(NFTA_CHAIN_NAME).text() != chain)
                    return;
                auto hook = attributes.find(NFTA_CHAIN_HOOK);
                if (!hook.data.empty() && hook.nested().find(NFTA_HOOK_HOOKNUM).be32() == NF_INET_FORWARD) found = true;
            }),
        "nftables: list chains");
    return found;
}

}  // namespace wherry::net
