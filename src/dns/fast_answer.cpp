#include "dns/fast_answer.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "dns/signer.hpp"

namespace wherry::dns {

namespace {

// Types whose data goes out as it is kept: no name in it that is compressed, and nothing added for it.
constexpr bool is_plain(Type type) {
    return type == Type::A || type == Type::AAAA || type == Type::TXT || type == Type::CAA || type == Type::TLSA ||
           type == Type::SSHFP || type == Type::NAPTR || type == Type::URI;
}

constexpr std::size_t opt_bytes = 11;
constexpr std::size_t edns_room = 128;
constexpr std::uint16_t owner_pointer = 0xC000U | header_bytes;  // to the question's name

// RFC 7871 section 6: family, prefix length, no scope, and as much of the address as the prefix needs, zeros behind it.
bool is_good_subnet(const std::uint8_t* option, std::size_t bytes) {
    if (load_u16(option) != static_cast<std::uint16_t>(EdnsOption::client_subnet) || load_u16(option + 2) != bytes)
        return false;
    const std::uint8_t* data = option + 4;
    const unsigned family = load_u16(data);
    const unsigned bits = data[2];
    const std::size_t most = family == 1 ? 4 : family == 2 ? 16 : 0;
    if (bits > most * 8 || most == 0 || data[3] != 0 || bytes != 4 + (bits + 7) / 8) return false;
    return bits % 8 == 0 || (data[bytes - 1] & (0xFFU >> bits % 8)) == 0;
}

}  // namespace

void FastQuery::prepare(const ZoneSet& zones, const ResponderOptions& options, Transport transport,
                        std::span<const std::uint8_t> query) {
    zone_ = nullptr;
    const std::uint8_t* const q = query.data();
    if (query.size() < header_bytes + 5 || query.size() > 512) return;
    // A query without flags but RD and AD; one question; at most one additional record.
    if ((q[2] & 0xFEU) != 0 || (q[3] & 0xDFU) != 0 || load_u32(q + 4) != 0x00010000U || load_u16(q + 8) != 0 ||
        load_u16(q + 10) > 1)
        return;
    std::size_t at = header_bytes;
    while (q[at] != 0) {
        if (q[at] > max_label_bytes) return;
        at += q[at] + 1U;
        if (at + 5 > query.size()) return;
    }
    const std::size_t name_bytes = at + 1 - header_bytes;
    if (name_bytes > max_name_bytes || load_u16(q + at + 3) != static_cast<std::uint16_t>(Class::IN)) return;
    type_ = static_cast<Type>(load_u16(q + at + 1));
    if (!is_plain(type_)) return;
    const std::size_t question_end = at + 5;
    question_end_ = static_cast<std::uint16_t>(question_end);
    std::size_t limit = 512;
    edns_ = q[11] == 1;
    dnssec_ = false;
    subnet_bytes_ = 0;
    if (edns_) {
        // An OPT record of version 0 without options, or with the client's subnet alone.
        const std::uint8_t* opt = q + question_end;
        if (query.size() < question_end + opt_bytes || opt[0] != 0 ||
            load_u16(opt + 1) != static_cast<std::uint16_t>(Type::OPT) || opt[6] != 0)
            return;
        const std::size_t options_bytes = load_u16(opt + 9);
        if (query.size() != question_end + opt_bytes + options_bytes) return;
        if (options_bytes != 0) {
            if (options_bytes < 8 || options_bytes > 24) return;
            subnet_bytes_ = static_cast<std::uint8_t>(options_bytes - 4);
            if (!is_good_subnet(opt + opt_bytes, subnet_bytes_)) return;
        }
        dnssec_ = (opt[7] & 0x80U) != 0;
        limit = std::max<std::size_t>(512, std::min(load_u16(opt + 3), options.udp_payload_bytes));
    } else if (query.size() != question_end) {
        return;
    }
    limit_ = static_cast<std::uint16_t>(transport == Transport::udp ? limit : max_message_bytes);
    std::span<const std::uint8_t> name = query.subspan(header_bytes, name_bytes);
    const SuffixHashes hashes(name);
    const ServedZone* served = zones.find(name, hashes);
    if (served == nullptr || !served->zone || (served->policy && dnssec_)) return;
    served_ = served;
    zone_ = served->zone.get();
    hash_ = hashes.hash(hashes.labels());
    zone_->prefetch_slot(hash_);
}

void FastQuery::fetch_node() {
    if (zone_ == nullptr) return;
    node_ = zone_->candidate(hash_);
    if (node_ == no_node)
        zone_ = nullptr;
    else
        zone_->prefetch_node(node_);
}

bool FastQuery::fetch_data(std::span<const std::uint8_t> query, std::span<const std::uint8_t> client) {
    if (zone_ == nullptr) return false;
    zone_->prefetch_data(node_);
    if (!served_->policy) return false;
    client_ = {client, static_cast<std::uint8_t>(client.size() * 8)};
    if (subnet_bytes_ != 0) {
        const std::uint8_t* subnet = query.data() + question_end_ + opt_bytes + 4;
        subnet_address_ = {};
        std::memcpy(subnet_address_.data(), subnet + 4, subnet_bytes_ - 4U);
        client_ = {std::span(subnet_address_).first(load_u16(subnet) == 1 ? 4 : 16), subnet[2]};
    }
    served_->policy->begin(node_, type_, client_, search_);
    return true;
}

void FastQuery::step() {
    if (zone_ != nullptr && served_->policy) served_->policy->step(search_);
}

std::size_t FastQuery::answer(const ResponderOptions& options, std::uint32_t now, std::span<const std::uint8_t> query,
                              std::span<std::uint8_t> answer) {
    if (zone_ == nullptr) return 0;
    const std::uint8_t* const q = query.data();
    auto set = zone_->plain_records(node_, query.subspan(header_bytes, question_end_ - header_bytes - 4U), type_);
    if (!set) return 0;
    std::uint8_t scope_bits = 0;
    const std::uint8_t* subnet = q + question_end_ + opt_bytes + 4;
    if (served_->policy) {
        if (auto chosen = served_->policy->end(type_, client_, search_)) {
            set = chosen->records;
            scope_bits = chosen->scope_bits;
        }
    }
    // What comes near the limit is the long way's to decide, which keeps room aside for more options than these.
    const std::size_t limit = std::min<std::size_t>(limit_, answer.size());
    std::size_t size = question_end_ + set->packed().size() + set->size() * 10U;
    if (edns_) size += opt_bytes + (subnet_bytes_ != 0 ? subnet_bytes_ + 4U : 0);
    const std::size_t aside = edns_ ? edns_room + options.nsid.size() : 0;
    if (size + aside > limit) return 0;
    // Signatures: those of the zone, or one made before.
    std::array<std::uint8_t, 512> made;
    std::size_t made_bytes = 0;
    std::optional<RecordSet> signatures;
    if (dnssec_ && served_->signer) {
        made_bytes = served_->signer->cached(served_->signer->key_of(zone_->version(), node_, type_), now,
                                             std::span(made).subspan(2));
        if (made_bytes == 0) return 0;
        store_u16(made.data(), static_cast<std::uint16_t>(made_bytes));
        signatures.emplace(Type::RRSIG, type_, set->ttl(), std::uint16_t{1}, std::span(made).first(made_bytes + 2));
    } else if (dnssec_ && zone_->is_signed()) {
        signatures = zone_->signatures(node_, type_);
    }
    if (signatures) size += signatures->packed().size() + signatures->size() * 10U;
    if (size + aside > limit) return 0;

    std::uint8_t* out = answer.data();
    std::memcpy(out, q, question_end_);
    out[2] = static_cast<std::uint8_t>(0x84U | (q[2] & 1U));  // QR, AA, and RD as it came
    out[3] = 0;
    store_u16(out + 6, static_cast<std::uint16_t>(set->size() + (signatures ? signatures->size() : 0)));
    out += question_end_;
    auto write = [&](const RecordSet& records) {
        for (std::span<const std::uint8_t> rdata : records) {
            store_u16(out, owner_pointer);
            store_u16(out + 2, static_cast<std::uint16_t>(records.type()));
            store_u16(out + 4, static_cast<std::uint16_t>(Class::IN));
            store_u32(out + 6, set->ttl());
            // Data is kept behind its length, which is just how it goes out.
            std::memcpy(out + 10, rdata.data() - 2, rdata.size() + 2);
            out += rdata.size() + 12;
        }
    };
    write(*set);
    if (signatures) write(*signatures);
    if (edns_) {
        std::memset(out, 0, opt_bytes);
        store_u16(out + 1, static_cast<std::uint16_t>(Type::OPT));
        store_u16(out + 3, options.udp_payload_bytes);
        if (dnssec_) out[7] = 0x80;
        if (subnet_bytes_ != 0) {
            store_u16(out + 9, static_cast<std::uint16_t>(subnet_bytes_ + 4U));
            std::memcpy(out + opt_bytes, subnet - 4, subnet_bytes_ + 4U);
            out[opt_bytes + 4 + 3] = scope_bits;
        }
    }
    return size;
}

}  // namespace wherry::dns
