// nf_tables over netlink: atomic batches of tables, chains, maps, elements and rules, and the few dumps we need.
// Our own writer: libnftables costs 2 MiB and 0.13 ms an element, this costs nothing and microseconds
// (docs/decisions/0020-own-netlink.md). Names and vocabulary are nft(8)'s.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "net/address.hpp"
#include "net/netlink_message.hpp"

namespace wherry::net {

enum class NftFamily : std::uint8_t { ip = 2, ip6 = 10 };  // NFPROTO_IPV4, NFPROTO_IPV6

NftFamily nft_family(IpAddress::Family family);

enum class NftHook : std::uint32_t { prerouting = 0, input = 1, forward = 2, output = 3, postrouting = 4 };

// A type as nft(8) shows it; the kernel only looks at the lengths.
struct NftType {
    std::uint32_t id = 0;
    std::uint32_t bytes = 0;  // each part of a concatenation padded to four

    NftType then(const NftType& next) const { return {id << 6U | next.id, bytes + next.bytes}; }
};
NftType nft_address_type(NftFamily family);
inline constexpr NftType nft_protocol_type{12, 4};
inline constexpr NftType nft_port_type{13, 4};

struct NftBaseChain {
    std::string name;
    std::string type;  // "filter", "nat"
    NftHook hook = NftHook::forward;
    std::int32_t priority = 0;
};

struct NftElement {
    std::string key;  // packed as its type says
    std::string data;
    std::string comment;  // shown by nft; at most 100 bytes are kept

    bool operator==(const NftElement&) const = default;
};

// The match and action of one rule, in order. Registers are chosen here; `r` below is the n-th four-byte word.
class NftRule {
  public:
    explicit NftRule(NftFamily family) : family_(family) {}

    NftRule& input_interface(std::string_view name) { return interface(name, 6, true, false); }
    NftRule& not_input_interface(std::string_view name) { return interface(name, 6, false, false); }
    NftRule& output_interface(std::string_view name) { return interface(name, 7, true, false); }
    NftRule& not_output_interface(std::string_view name) { return interface(name, 7, false, false); }
    // In the very form iptables-nft writes, so that it can read the rule back.
    NftRule& input_interface_as_iptables(std::string_view name) { return interface(name, 6, true, true); }
    NftRule& output_interface_as_iptables(std::string_view name) { return interface(name, 7, true, true); }
    NftRule& source_in(const IpPrefix& prefix);
    NftRule& destination_in(const IpPrefix& prefix);
    NftRule& destination_is_local();  // fib daddr type local
    NftRule& connection_established_or_related();
    NftRule& connection_destination_translated();  // ct status dnat
    NftRule& counter();
    NftRule& accept();
    NftRule& drop();
    NftRule& masquerade();
    // dnat to [ip daddr .] meta l4proto . th dport map @map; the map's data is address . port
    enum class WithAddress : unsigned char { no, yes };
    NftRule& translate_destination_by_map(std::string_view map, WithAddress with_address);

    NftRule& comment(std::string_view text) {
        comment_ = text;
        return *this;
    }

  private:
    friend class NftBatch;
    template <class Fill>
    NftRule& expression(std::string_view name, Fill fill);
    NftRule& interface(std::string_view name, std::uint32_t key, bool equal, bool short_form);
    NftRule& payload(std::uint32_t base, std::uint32_t offset, std::uint32_t length, std::uint32_t word);
    NftRule& meta(std::uint32_t key, std::uint32_t word);
    NftRule& compare(bool equal, std::string_view value);
    NftRule& mask(std::string_view mask);
    NftRule& address_in(const IpPrefix& prefix, std::uint32_t offset);
    NftRule& verdict(std::uint32_t code);

    NftFamily family_;
    NetlinkWriter expressions_;
    std::string comment_;
};

// Collects changes and applies them all or none.
class NftBatch {
  public:
    explicit NftBatch(NetlinkChannel& channel);

    void add_table(NftFamily family, const std::string& table);  // there already: fine
    void delete_table(NftFamily family, const std::string& table);
    void add_chain(NftFamily family, const std::string& table, const NftBaseChain& chain);
    void flush_chain(NftFamily family, const std::string& table, const std::string& chain);
    void add_map(NftFamily family, const std::string& table, const std::string& map, NftType key, NftType data);
    void add_elements(NftFamily family, const std::string& table, const std::string& map,
                      std::span<const NftElement> elements);
    void delete_elements(NftFamily family, const std::string& table, const std::string& map,
                         std::span<const NftElement> elements);
    enum class Position : unsigned char { last, first };
    void add_rule(const std::string& table, const std::string& chain, const NftRule& rule,
                  Position position = Position::last);
    void delete_rule(NftFamily family, const std::string& table, const std::string& chain, std::uint64_t handle);

    // Nothing collected: does nothing.
    Result<> commit();

  private:
    void begin(std::uint16_t message, std::uint16_t flags, NftFamily family);
    void elements(std::uint16_t message, NftFamily family, const std::string& table, const std::string& map,
                  std::span<const NftElement> elements);

    NetlinkChannel& channel_;
    NetlinkWriter writer_;
    std::uint32_t last_ = 0;
    std::size_t last_offset_ = 0;
    std::vector<std::string> what_;  // of each message, for errors
    std::uint32_t first_sequence_ = 0;
};

// Changes with every ruleset change on the host, whoever makes it.
Result<std::uint32_t> nft_generation(NetlinkChannel& channel);

struct NftRuleEntry {
    std::uint64_t handle = 0;
    std::string comment;
};
// Empty when table or chain are not there.
Result<std::vector<NftRuleEntry>> nft_rules(NetlinkChannel& channel, NftFamily family, const std::string& table,
                                            const std::string& chain);
// Empty when table or map are not there.
Result<std::vector<NftElement>> nft_elements(NetlinkChannel& channel, NftFamily family, const std::string& table,
                                             const std::string& map);
Result<bool> nft_table_exists(NetlinkChannel& channel, NftFamily family, const std::string& table);
// A base chain of type filter on the forward hook.
Result<bool> nft_forward_chain_exists(NetlinkChannel& channel, NftFamily family, const std::string& table,
                                      const std::string& chain);

}  // namespace wherry::net
