#include "dns/responder.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

namespace wherry::dns {

namespace {

constexpr std::size_t max_chain = 16;     // aliases followed within our zones
constexpr std::size_t cookie_bytes = 16;  // of a server cookie (RFC 9018 section 4)

// Extended error codes (IANA "Extended DNS Error Codes").
enum class ExtendedError : std::uint16_t {
    not_ready = 14,
    prohibited = 18,
    not_authoritative = 20,
    not_supported = 21,
    invalid_data = 24
};

// The state of one answer being made.
class Answer {
  public:
    Answer(const ResponderOptions& options, const ZoneSet& zones, const QueryContext& context,
           std::span<std::uint8_t> buffer, Outcome& outcome)
        : options_(options), zones_(zones), context_(context), buffer_(buffer), writer_(buffer), outcome_(outcome) {}

    std::size_t respond(std::span<const std::uint8_t> query) {
        auto reader = MessageReader::open(query);
        // Answers are never answered, and what has no header has no id to answer to.
        if (!reader || reader->header().response) return 0;
        outcome_.answered = true;
        const Header& asked = reader->header();
        outcome_.opcode = asked.opcode;
        header_ = {.id = asked.id,
                   .response = true,
                   .opcode = asked.opcode,
                   .recursion_desired = asked.recursion_desired,
                   .checking_disabled = asked.checking_disabled};
        writer_.set_limit(std::min<std::size_t>(buffer_.size(), 512));
        if (!writer_.write_header(header_)) return 0;
        if (asked.opcode != Opcode::query) return finish(Rcode::NOTIMP);
        // RFC 9619: one question. None at all is a cookie request (RFC 7873 section 5.4).
        if (asked.questions > 1) return finish(Rcode::FORMERR);
        if (asked.questions == 1) {
            auto question = reader->read_question();
            if (!question) return finish(Rcode::FORMERR);
            question_ = *question;
            outcome_.type = question_.type;
            if (!writer_.write_question(question_)) return finish(Rcode::FORMERR);
            header_.questions = 1;
        }
        if (!read_additional(*reader)) return finish(Rcode::FORMERR);
        if (edns_) {
            if (edns_->version != 0) return finish(Rcode::BADVERS);
            if (auto bad = check_cookie()) return finish(*bad);
        }
        if (context_.transport == Transport::udp) {
            // At least 512 (RFC 6891 section 6.2.3), at most what we are willing to send unfragmented.
            std::size_t limit =
                edns_ ? std::max<std::size_t>(512, std::min(edns_->udp_payload_bytes, options_.udp_payload_bytes))
                      : 512;
            writer_.set_limit(std::min(buffer_.size(), limit));
        } else {
            writer_.set_limit(std::min(buffer_.size(), max_message_bytes));
        }
        // Room for our own OPT is kept aside.
        edns_room_ = edns_ ? 11 + 4 + options_.nsid.size() + 4 + 8 + cookie_bytes + 6 + 6 : 0;
        if (edns_room_ + header_bytes + 300 > writer_.limit()) edns_room_ = edns_ ? 11 + 4 + 8 + cookie_bytes : 0;
        writer_.set_limit(writer_.limit() - edns_room_);
        if (asked.questions == 0) return finish(edns_ && client_cookie_ ? Rcode::NOERROR : Rcode::FORMERR);
        body_start_ = writer_.mark();
        return finish(answer());
    }

  private:
    bool read_additional(MessageReader& reader) {
        const Header& asked = reader.header();
        unsigned skip = unsigned{asked.answers} + asked.authorities;
        for (unsigned i = 0; i < skip + asked.additionals; ++i) {
            auto record = reader.read_record();
            if (!record) return false;
            if (i < skip || record->type != Type::OPT) continue;
            if (edns_) return false;  // RFC 6891 section 6.1.1: more than one is FORMERR
            auto edns = parse_edns(*record);
            if (!edns) return false;
            edns_ = *edns;
        }
        return true;
    }

    // RFC 9018: the server cookie is version, three reserved bytes, time, and a SipHash over all of it and the client.
    void make_server_cookie(std::uint32_t time, std::span<std::uint8_t> out) const {
        std::array<std::uint8_t, 8 + 8 + 16> input{};
        std::memcpy(input.data(), client_cookie_->data(), 8);
        out[0] = 1;
        out[1] = out[2] = out[3] = 0;
        store_u32(out.data() + 4, time);
        std::memcpy(input.data() + 8, out.data(), 8);
        std::memcpy(input.data() + 16, context_.client.data(), context_.client.size());
        std::uint64_t hash = siphash24(options_.cookie_secret, std::span(input).first(16 + context_.client.size()));
        std::memcpy(out.data() + 8, &hash, 8);
    }

    // RFC 7873 section 5.2. The rcode to end with, or nothing to go on.
    std::optional<Rcode> check_cookie() {
        if (!options_.cookies) return std::nullopt;
        auto cookie = edns_->option(EdnsOption::cookie);
        if (!cookie) return std::nullopt;
        if (cookie->size() != 8 && (cookie->size() < 16 || cookie->size() > 40)) return Rcode::FORMERR;
        client_cookie_ = cookie->first(8);
        return std::nullopt;
    }

    Rcode answer() {
        if (question_.dns_class == Class::CH) return chaos();
        if (question_.dns_class != Class::IN && question_.dns_class != Class::ANY)
            return refuse(ExtendedError::not_authoritative);
        if (question_.type == Type::AXFR || question_.type == Type::IXFR) return refuse(ExtendedError::prohibited);
        // OPT, TSIG and the like are no question; NXNAME is never answered (RFC 9824 section 3.5).
        if (is_meta(question_.type) && question_.type != Type::ANY)
            return question_.type == Type::NXNAME || question_.type == Type::OPT ? Rcode::FORMERR : Rcode::NOTIMP;
        Name name = question_.name;
        for (std::size_t step = 0; step < max_chain; ++step) {
            SuffixHashes hashes(name.wire());
            const Zone* zone = zones_.find(name.wire(), hashes);
            if (zone != nullptr && question_.type == Type::DS && zone->origin().size() == name.size()) {
                if (const Zone* above = zones_.find(name.wire(), hashes, true)) zone = above;
            }
            if (zone == nullptr) return step == 0 ? refuse(ExtendedError::not_authoritative) : Rcode::NOERROR;
            if (step == 0) header_.authoritative = true;
            Lookup found = zone->lookup(name.wire(), hashes, question_.type);
            using Kind = Lookup::Kind;
            switch (found.kind) {
                case Kind::records:
                    if (!write_answer(*zone, name, found)) return truncate();
                    return Rcode::NOERROR;
                case Kind::no_data:
                    if (!write_negative(*zone, name, found)) return truncate();
                    return Rcode::NOERROR;
                case Kind::no_name:
                    if (!write_negative(*zone, name, found)) return truncate();
                    return Rcode::NXDOMAIN;  // also at the end of a chain (RFC 6604)
                case Kind::delegation:
                    // AA is about the first owner name: a chain that leads out of the zone keeps it.
                    if (step == 0) header_.authoritative = false;
                    if (!write_delegation(*zone, found)) return truncate();
                    return Rcode::NOERROR;
                case Kind::alias: {
                    auto set = zone->records(found.node, Type::CNAME);
                    if (!write_set(*zone, found.node, *set, name, answers_) ||
                        (found.wildcard && !write_wildcard_proof(*zone, name, found)))
                        return truncate();
                    name = rdata_name(*set->begin());
                    break;
                }
                case Kind::redirect: {
                    auto set = zone->records(found.node, Type::DNAME);
                    Name owner = zone->name_of(found.node);
                    if (!write_set(*zone, found.node, *set, owner, answers_)) return truncate();
                    // RFC 6672 section 2.2: the target replaces the owner as suffix.
                    auto target = rdata_name(*set->begin()).with_prefix(name.wire().first(name.size() - owner.size()));
                    if (!target) return Rcode::YXDOMAIN;
                    if (!writer_.write_record(name, Type::CNAME, Class::IN, set->ttl(), target->wire()))
                        return truncate();
                    ++answers_;
                    name = *target;
                    break;
                }
            }
            // A question for the alias itself was answered as records; a loop ends at max_chain with what there is.
        }
        return Rcode::NOERROR;
    }

    bool dnssec_wanted(const Zone& zone) const { return edns_ && edns_->dnssec_ok && zone.is_signed(); }

    // A record set and its signatures, under `owner`.
    bool write_set(const Zone& zone, NodeIndex node, const RecordSet& set, const Name& owner, std::uint16_t& count,
                   bool with_signatures = true) {
        for (std::span<const std::uint8_t> rdata : set) {
            if (!writer_.write_record(owner, set.type(), Class::IN, set.ttl(), rdata)) return false;
            ++count;
        }
        if (!with_signatures || !dnssec_wanted(zone) || set.type() == Type::RRSIG) return true;
        auto signatures = zone.signatures(node, set.type());
        if (!signatures) return true;
        for (std::span<const std::uint8_t> rdata : *signatures) {
            if (!writer_.write_record(owner, Type::RRSIG, Class::IN, set.ttl(), rdata)) return false;
            ++count;
        }
        return true;
    }

    bool write_answer(const Zone& zone, const Name& owner, const Lookup& found) {
        if (question_.type == Type::ANY) {
            // RFC 8482 section 4.1: one set will do. Over TCP, where nothing is amplified, all are given.
            for (std::size_t i = 0; i < zone.set_count(found.node); ++i) {
                RecordSet set = zone.set(found.node, i);
                if (set.type() == Type::RRSIG) continue;
                if (!write_set(zone, found.node, set, owner, answers_)) return false;
                if (context_.transport == Transport::udp) break;
            }
        } else if (question_.type == Type::RRSIG) {
            for (std::size_t i = 0; i < zone.set_count(found.node); ++i) {
                RecordSet set = zone.set(found.node, i);
                if (set.type() == Type::RRSIG && !write_set(zone, found.node, set, owner, answers_)) return false;
            }
        } else {
            auto set = zone.records(found.node, question_.type);
            if (!write_set(zone, found.node, *set, owner, answers_)) return false;
            write_additional(zone, *set);
        }
        return !found.wildcard || write_wildcard_proof(zone, owner, found);
    }

    // Addresses of the names in NS, MX, SRV and SVCB records; as many as fit, never a reason to truncate.
    void write_additional(const Zone& zone, const RecordSet& set) {
        std::size_t at = 0;
        switch (set.type()) {
            case Type::NS:
                break;
            case Type::MX:
                at = 2;
                break;
            case Type::SRV:
                at = 6;
                break;
            case Type::SVCB:
            case Type::HTTPS:
                at = 2;
                break;
            default:
                return;
        }
        for (std::span<const std::uint8_t> rdata : set) {
            Name target = rdata_name(rdata, at);
            if (target.is_root()) target = question_.name;
            if (!write_addresses(zone, target)) return;
        }
    }

    bool write_addresses(const Zone& zone, const Name& name) {
        if (!name.is_within(zone.origin())) return true;
        NodeIndex node = zone.find(name);
        if (node == no_node) return true;
        for (Type type : {Type::A, Type::AAAA}) {
            auto set = zone.records(node, type);
            if (!set) continue;
            auto before = writer_.mark();
            std::uint16_t count = additionals_;
            if (!write_set(zone, node, *set, name, additionals_, !zone.is_glue(node))) {
                writer_.rollback(before);
                additionals_ = count;
                return false;
            }
        }
        return true;
    }

    bool write_soa(const Zone& zone) {
        auto soa = zone.records(zone.apex(), Type::SOA);
        // RFC 2308 section 3: the TTL of a negative answer is the lesser of the SOA's own and its minimum.
        RecordSet limited(Type::SOA, static_cast<Type>(0), zone.negative_ttl(), 1, soa->packed());
        return write_set(zone, zone.apex(), limited, zone.origin(), authorities_);
    }

    bool write_negative(const Zone& zone, const Name& name, const Lookup& found) {
        if (!write_soa(zone)) return false;
        if (!dnssec_wanted(zone)) return true;
        if (found.kind == Lookup::Kind::no_data && !found.wildcard)
            return write_nsec_at(zone, found.node) || write_nsec_covering(zone, name);
        if (!write_nsec_covering(zone, name)) return false;
        // And that no wildcard would have matched, or what the matching one has (RFC 4035 sections 3.1.3.2
        // and 3.1.3.4).
        if (found.wildcard) return write_nsec_at(zone, found.node);
        auto star = zone.name_of(found.closest_encloser).wildcard();
        return !star || write_nsec_covering(zone, *star);
    }

    bool write_wildcard_proof(const Zone& zone, const Name& name, const Lookup&) {
        return !dnssec_wanted(zone) || write_nsec_covering(zone, name);
    }

    bool write_delegation(const Zone& zone, const Lookup& found) {
        Name owner = zone.name_of(found.node);
        auto servers = zone.records(found.node, Type::NS);
        if (!write_set(zone, found.node, *servers, owner, authorities_, false)) return false;
        if (dnssec_wanted(zone)) {
            if (auto ds = zone.records(found.node, Type::DS)) {
                if (!write_set(zone, found.node, *ds, owner, authorities_)) return false;
            } else if (!write_nsec_at(zone, found.node) && !write_nsec_covering(zone, owner)) {
                return false;
            }
        }
        // RFC 9471: glue below the cut is part of the answer; without all of it the answer is truncated.
        for (std::span<const std::uint8_t> rdata : *servers) {
            Name server = rdata_name(rdata);
            bool needed = server.is_within(owner);
            if (!write_addresses(zone, server) && needed) return false;
        }
        return true;
    }

    // False when the node has no NSEC (or there is no room: the same to the caller, who then truncates or covers).
    bool write_nsec_at(const Zone& zone, NodeIndex node) {
        auto nsec = zone.records(node, Type::NSEC);
        if (!nsec) return false;
        if (nsec_written_ == node) return true;
        nsec_written_ = node;
        return write_set(zone, node, *nsec, zone.name_of(node), authorities_);
    }

    // The NSEC of the nearest name before `name` in canonical order. Zones signed with NSEC3 have none: nothing is
    // added.
    bool write_nsec_covering(const Zone& zone, const Name& name) {
        const std::vector<NodeIndex>& order = zone.canonical_order();
        auto after = std::upper_bound(order.begin(), order.end(), name, [&](const Name& wanted, NodeIndex node) {
            return wanted.canonical_order(zone.name_of(node)) < 0;
        });
        while (after != order.begin()) {
            --after;
            if (zone.records(*after, Type::NSEC)) return write_nsec_at(zone, *after);
        }
        return true;
    }

    Rcode chaos() {
        std::string_view value;
        Name name = question_.name.lower();
        static const Name names[] = {*Name::parse("version.bind."), *Name::parse("version.server."),
                                     *Name::parse("id.server."), *Name::parse("hostname.bind.")};
        if (name == names[0] || name == names[1])
            value = options_.version;
        else if (name == names[2] || name == names[3])
            value = options_.nsid;
        if (value.empty() || value.size() > 255 || (question_.type != Type::TXT && question_.type != Type::ANY))
            return refuse(ExtendedError::prohibited);
        std::array<std::uint8_t, 256> rdata{};
        rdata[0] = static_cast<std::uint8_t>(value.size());
        std::memcpy(rdata.data() + 1, value.data(), value.size());
        header_.authoritative = true;
        if (!writer_.write_record(question_.name, Type::TXT, Class::CH, 0, std::span(rdata).first(value.size() + 1)))
            return truncate();
        ++answers_;
        return Rcode::NOERROR;
    }

    Rcode refuse(ExtendedError why) {
        extended_error_ = why;
        return Rcode::REFUSED;
    }

    // RFC 2181 section 9: whole sets or none; a truncated answer carries the question alone and is asked again over
    // TCP.
    Rcode truncate() {
        writer_.rollback(body_start_);
        answers_ = authorities_ = additionals_ = 0;
        header_.truncated = outcome_.truncated = true;
        return Rcode::NOERROR;
    }

    std::size_t finish(Rcode rcode) {
        outcome_.rcode = rcode;
        header_.rcode = static_cast<std::uint8_t>(static_cast<unsigned>(rcode) & 15U);
        if (rcode == Rcode::REFUSED || rcode == Rcode::FORMERR || rcode == Rcode::NOTIMP) header_.authoritative = false;
        if (edns_) write_edns(rcode);
        header_.answers = answers_;
        header_.authorities = authorities_;
        header_.additionals = additionals_;
        writer_.patch_header(header_);
        return writer_.size();
    }

    void write_edns(Rcode rcode) {
        std::array<std::uint8_t, 512> options{};
        std::size_t size = 0;
        auto add = [&](EdnsOption code, std::span<const std::uint8_t> data) {
            if (size + 4 + data.size() > options.size()) return;
            store_u16(options.data() + size, static_cast<std::uint16_t>(code));
            store_u16(options.data() + size + 2, static_cast<std::uint16_t>(data.size()));
            if (!data.empty()) std::memcpy(options.data() + size + 4, data.data(), data.size());
            size += 4 + data.size();
        };
        if (client_cookie_) {
            std::array<std::uint8_t, 8 + cookie_bytes> cookie{};
            std::memcpy(cookie.data(), client_cookie_->data(), 8);
            make_server_cookie(context_.now, std::span(cookie).subspan(8));
            add(EdnsOption::cookie, cookie);
        }
        if (!options_.nsid.empty() && edns_->option(EdnsOption::NSID)) {
            // SAFETY: text as bytes.
            add(EdnsOption::NSID, {reinterpret_cast<const std::uint8_t*>(options_.nsid.data()), options_.nsid.size()});
        }
        if (context_.transport != Transport::udp && options_.tcp_keepalive_ds != 0 &&
            edns_->option(EdnsOption::tcp_keepalive)) {
            std::array<std::uint8_t, 2> timeout{};
            store_u16(timeout.data(), options_.tcp_keepalive_ds);
            add(EdnsOption::tcp_keepalive, timeout);
        }
        if (extended_error_) {
            std::array<std::uint8_t, 2> code{};
            store_u16(code.data(), static_cast<std::uint16_t>(*extended_error_));
            add(EdnsOption::extended_error, code);
        }
        Edns ours{.udp_payload_bytes = options_.udp_payload_bytes,
                  .extended_rcode = static_cast<std::uint8_t>(static_cast<unsigned>(rcode) >> 4U),
                  .dnssec_ok = edns_->dnssec_ok,
                  .options = std::span(options).first(size)};
        writer_.set_limit(writer_.limit() + edns_room_);
        if (writer_.write_edns(ours)) {
            ++additionals_;
            return;
        }
        ours.options = {};
        if (writer_.write_edns(ours)) ++additionals_;
    }

    const ResponderOptions& options_;
    const ZoneSet& zones_;
    const QueryContext& context_;
    std::span<std::uint8_t> buffer_;
    MessageWriter writer_;
    Outcome& outcome_;
    Header header_;
    Question question_;
    std::optional<Edns> edns_;
    std::optional<std::span<const std::uint8_t>> client_cookie_;
    std::optional<ExtendedError> extended_error_;
    std::size_t edns_room_ = 0;
    MessageWriter::Mark body_start_{};
    NodeIndex nsec_written_ = no_node;
    std::uint16_t answers_ = 0;
    std::uint16_t authorities_ = 0;
    std::uint16_t additionals_ = 0;
};

}  // namespace

std::size_t Responder::respond(const ZoneSet& zones, const QueryContext& context, std::span<const std::uint8_t> query,
                               std::span<std::uint8_t> answer, Outcome& outcome) const {
    return Answer(options_, zones, context, answer, outcome).respond(query);
}

}  // namespace wherry::dns
