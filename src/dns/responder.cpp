#include "dns/responder.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "dns/dnssec.hpp"
#include "dns/fast_answer.hpp"
#include "dns/signer.hpp"

namespace wherry::dns {

namespace {

constexpr std::size_t max_chain = 16;     // aliases followed within our zones
constexpr std::size_t cookie_bytes = 16;  // of a server cookie (RFC 9018 section 4)
constexpr std::size_t subnet_room = 24;   // of a client subnet option

// Extended error codes (IANA "Extended DNS Error Codes").
enum class ExtendedError : std::uint16_t {
    other = 0,
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
        if (asked.opcode == Opcode::update || asked.opcode == Opcode::notify) return leave_to_caller(*reader);
        if (asked.opcode != Opcode::query) {
            // What the flags mean to an operation that is not known is not known either: none is copied.
            header_.recursion_desired = header_.checking_disabled = false;
            return finish(Rcode::NOTIMP);
        }
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
        if (tsig_record_ && !check_signature(query)) return finish(tsig_->malformed ? Rcode::FORMERR : Rcode::NOTAUTH);
        if (edns_) {
            if (edns_->version != 0) return finish(Rcode::BADVERS);
            if (auto bad = check_cookie()) return finish(*bad);
            if (!edns_->options.empty() && !read_subnet()) return finish(Rcode::FORMERR);
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
        if (edns_) {
            edns_room_ = 11 + 4 + options_.nsid.size() + 4 + 8 + cookie_bytes + 6 + 6 + subnet_room;
            if (edns_room_ + header_bytes + 300 > writer_.limit()) edns_room_ = 11 + 4 + 8 + cookie_bytes;
        }
        writer_.set_limit(writer_.limit() - edns_room_ - tsig_room_);
        if (asked.questions == 1 && (question_.type == Type::AXFR || question_.type == Type::IXFR) &&
            question_.dns_class == Class::IN) {
            outcome_.action = Action::transfer;
            return 0;
        }
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
            if (record->type == Type::TSIG) {
                // RFC 8945 section 5.1: the last record of all, once.
                if (i + 1 != skip + asked.additionals || i < skip) return false;
                tsig_record_ = *record;
                continue;
            }
            if (i < skip || record->type != Type::OPT) continue;
            if (edns_) return false;  // RFC 6891 section 6.1.1: more than one is FORMERR
            auto edns = parse_edns(*record);
            if (!edns) return false;
            edns_ = *edns;
        }
        return true;
    }

    // False: the answer is an error, and tsig_ says which.
    bool check_signature(std::span<const std::uint8_t> query) {
        tsig_ = tsig_verify(zones_.keys(), query, *tsig_record_, {.now = context_.now});
        if (tsig_->malformed || tsig_->error != 0) return false;
        tsig_room_ = tsig_room(*tsig_->key);
        outcome_.key = tsig_->key;
        outcome_.mac = tsig_->mac;
        return true;
    }

    // UPDATE and NOTIFY: their sections are read by whoever acts on them.
    std::size_t leave_to_caller(MessageReader& reader) {
        if (reader.header().questions != 1) return finish(Rcode::FORMERR);
        auto question = reader.read_question();
        if (!question) return finish(Rcode::FORMERR);
        question_ = *question;
        outcome_.type = question_.type;
        if (!writer_.write_question(question_)) return finish(Rcode::FORMERR);
        header_.questions = 1;
        if (!read_additional(reader)) return finish(Rcode::FORMERR);
        if (tsig_record_ && !check_signature(reader.packet()))
            return finish(tsig_->malformed ? Rcode::FORMERR : Rcode::NOTAUTH);
        if (edns_ && edns_->version != 0) return finish(Rcode::BADVERS);
        outcome_.action = reader.header().opcode == Opcode::update ? Action::update : Action::notify;
        return 0;
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
        if (cookie->size() == 8 + cookie_bytes) {
            // RFC 9018 section 4.3: an hour old at most, five minutes ahead at most.
            std::span<const std::uint8_t> server = cookie->subspan(8);
            const std::uint32_t time = load_u32(server.data() + 4);
            const auto age = static_cast<std::int32_t>(context_.now - time);
            std::array<std::uint8_t, cookie_bytes> expected{};
            make_server_cookie(time, expected);
            outcome_.cookie_valid = age <= 3600 && age >= -300 && std::ranges::equal(server, expected);
        }
        return std::nullopt;
    }

    // RFC 7871 section 7.1: what is malformed is FORMERR.
    bool read_subnet() {
        auto option = edns_->option(EdnsOption::client_subnet);
        if (!option) return true;
        if (option->size() < 4) return false;
        const unsigned family = load_u16(option->data());
        const unsigned bits = (*option)[2];
        const std::size_t bytes = family == 1 ? 4 : family == 2 ? 16 : 0;
        if (bytes == 0 || bits > bytes * 8 || (*option)[3] != 0 || option->size() != 4 + (bits + 7) / 8) return false;
        if (bits % 8 != 0 && (option->back() & (0xFFU >> bits % 8)) != 0) return false;
        std::ranges::copy(option->subspan(4), subnet_address_.begin());
        subnet_ = option;
        client_ = {std::span(subnet_address_).first(bytes), static_cast<std::uint8_t>(bits)};
        return true;
    }

    Rcode answer() {
        if (question_.dns_class == Class::CH) return chaos();
        if (question_.dns_class != Class::IN && question_.dns_class != Class::ANY)
            return refuse(ExtendedError::not_authoritative);
        // OPT, TSIG and the like are no question; NXNAME is never answered (RFC 9824 section 3.5).
        if (is_meta(question_.type) && question_.type != Type::ANY)
            return question_.type == Type::NXNAME || question_.type == Type::OPT ? Rcode::FORMERR : Rcode::NOTIMP;
        Name name = question_.name;
        std::array<std::uint64_t, max_chain> visited;
        for (std::size_t step = 0; step < max_chain; ++step) {
            SuffixHashes hashes(name.wire());
            const std::uint64_t name_hash = hashes.hash(hashes.labels());
            if (step == 0) outcome_.name_hash = name_hash;
            // An alias that leads back: what was found so far is the answer.
            if (std::find(visited.begin(), visited.begin() + step, name_hash) != visited.begin() + step)
                return Rcode::NOERROR;
            visited[step] = name_hash;
            served_ = zones_.find(name.wire(), hashes);
            if (served_ != nullptr && question_.type == Type::DS && served_->origin.size() == name.size()) {
                if (const ServedZone* above = zones_.find(name.wire(), hashes, true)) served_ = above;
            }
            if (served_ == nullptr) return step == 0 ? refuse(ExtendedError::not_authoritative) : Rcode::NOERROR;
            const Zone* zone = served_->zone.get();
            if (zone == nullptr) {
                // Ours, and not here (yet, or no longer): somebody else may know better.
                if (step > 0) return Rcode::NOERROR;
                extended_error_ = ExtendedError::not_ready;
                return Rcode::SERVFAIL;
            }
            if (step == 0) header_.authoritative = true;
            if (served_->signer && name.size() == zone->origin().size())
                if (auto set = served_->signer->apex_set(question_.type)) {
                    if (!write_set(*zone, no_node, *set, name, answers_)) return truncate();
                    return Rcode::NOERROR;
                }
            Lookup found = zone->lookup(name.wire(), hashes, question_.type);
            using Kind = Lookup::Kind;
            switch (found.kind) {
                case Kind::records:
                    if (!write_answer(*zone, name, found)) return truncate();
                    return Rcode::NOERROR;
                case Kind::no_data:
                    if (wants_own_nsec(*zone))
                        return write_compact(*zone, name, found.node, answers_) ? Rcode::NOERROR : truncate();
                    if (!write_negative(*zone, name, found)) return truncate();
                    return Rcode::NOERROR;
                case Kind::no_name:
                    if (wants_own_nsec(*zone))
                        return write_compact(*zone, name, no_node, answers_) ? Rcode::NOERROR : truncate();
                    if (!write_negative(*zone, name, found)) return truncate();
                    // RFC 9824 section 3.1: a proof that the name has no type does not go with NXDOMAIN, unless the
                    // client knows what to make of it (section 5).
                    if (served_->signer && !served_->signer->nsec3() && dnssec_wanted(*zone) && !edns_->compact_ok)
                        return Rcode::NOERROR;
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
                    // The CNAME that was made is what was asked for.
                    if (question_.type == Type::CNAME) return Rcode::NOERROR;
                    name = *target;
                    break;
                }
            }
            // A question for the alias itself was answered as records; a loop ends at max_chain with what there is.
        }
        return Rcode::NOERROR;
    }

    bool dnssec_wanted(const Zone& zone) const {
        return edns_ && edns_->dnssec_ok && (zone.is_signed() || served_->signer);
    }

    // NSEC records that are made for each question are there for who asks for them (RFC 9824 section 3.4).
    bool wants_own_nsec(const Zone& zone) const {
        return question_.type == Type::NSEC && served_->signer && !served_->signer->nsec3() && dnssec_wanted(zone);
    }

    // A record set and its signatures, under `owner`.
    bool write_set(const Zone& zone, NodeIndex node, const RecordSet& set, const Name& owner, std::uint16_t& count,
                   bool with_signatures = true) {
        for (std::span<const std::uint8_t> rdata : set) {
            if (!writer_.write_record(owner, set.type(), Class::IN, set.ttl(), rdata)) return false;
            ++count;
        }
        if (!with_signatures || !dnssec_wanted(zone) || set.type() == Type::RRSIG) return true;
        if (served_->signer) return write_signatures(zone, node, set, owner, count);
        auto signatures = zone.signatures(node, set.type());
        if (!signatures) return true;
        for (std::span<const std::uint8_t> rdata : *signatures) {
            if (!writer_.write_record(owner, Type::RRSIG, Class::IN, set.ttl(), rdata)) return false;
            ++count;
        }
        return true;
    }

    // Signatures made here. An expanded wildcard is signed as if the name were there: it then needs no proof.
    bool write_signatures(const Zone& zone, NodeIndex node, const RecordSet& set, const Name& owner,
                          std::uint16_t& count) {
        const ZoneSigner& signer = *served_->signer;
        // A negative answer's SOA goes out with a lower TTL than the one that is signed.
        std::optional<RecordSet> whole;
        if (node != no_node) whole = zone.records(node, set.type());
        std::uint64_t key = 0;
        if (!whole || (set.type() != Type::SOA && whole->packed().data() != set.packed().data())) {
            key = signer.key_of(zone.version(), owner, set.type()) ^ signer.key_of(set.packed());
            whole = set;
        } else {
            const bool own = !zone.name_of(node).is_wildcard();
            key = own ? signer.key_of(zone.version(), node, set.type())
                      : signer.key_of(zone.version(), owner, set.type());
        }
        std::vector<Bytes> signatures = signer.sign(key, owner, *whole, context_.now);
        if (signatures.empty()) {
            failed_ = true;
            return false;
        }
        for (const Bytes& rdata : signatures) {
            if (!writer_.write_record(owner, Type::RRSIG, Class::IN, set.ttl(), rdata)) return false;
            ++count;
        }
        return true;
    }

    // A record made for this answer, with its signature.
    bool write_made(const Zone& zone, const Name& owner, Type type, std::span<const std::uint8_t> rdata,
                    std::uint16_t& count) {
        Bytes packed(2);
        store_u16(packed.data(), static_cast<std::uint16_t>(rdata.size()));
        packed.insert(packed.end(), rdata.begin(), rdata.end());
        return write_set(zone, no_node, RecordSet(type, static_cast<Type>(0), zone.negative_ttl(), 1, packed), owner,
                         count);
    }

    // The types that a proof says a node has, with those of the proof itself.
    std::vector<Type> types_at(const Zone& zone, NodeIndex node) const {
        std::vector<Type> types;
        const bool cut = node != no_node && zone.is_delegation(node);
        for (std::size_t i = 0; node != no_node && i < zone.set_count(node); ++i) {
            Type type = zone.set(node, i).type();
            if (type == Type::RRSIG || (cut && type != Type::NS && type != Type::DS)) continue;
            types.push_back(type);
        }
        if (node == zone.apex())
            types.insert(types.end(), served_->signer->apex_types().begin(), served_->signer->apex_types().end());
        return types;
    }

    // RFC 9824: the name is there, and has nothing that was asked for.
    bool write_compact(const Zone& zone, const Name& name, NodeIndex node, std::uint16_t& count) {
        constexpr std::array<std::uint8_t, 2> zero_label{1, 0};
        auto next = name.with_prefix(zero_label);
        Bytes rdata;
        if (next) {
            rdata.assign(next->wire().begin(), next->wire().end());
        } else {
            // Nothing can be below a name of full length: the next one differs in its first label.
            rdata.assign(name.wire().begin(), name.wire().end());
            for (std::size_t i = rdata[0]; i > 0; --i)
                if (++rdata[i] != 0) break;
        }
        std::vector<Type> types = types_at(zone, node);
        types.push_back(Type::RRSIG);
        types.push_back(Type::NSEC);
        if (node == no_node) types.push_back(Type::NXNAME);
        Bytes map = encode_type_bitmap(std::move(types));
        rdata.insert(rdata.end(), map.begin(), map.end());
        return write_made(zone, name, Type::NSEC, rdata, count);
    }

    // An NSEC3 record of the smallest range: from `first` to the hash after the one it is about (RFC 7129 appendix B).
    bool write_nsec3_range(const Zone& zone, const Nsec3Hash& first, const Nsec3Hash& next, std::vector<Type> types) {
        Bytes rdata{1, 0, 0, 0, 0, 20};
        rdata.insert(rdata.end(), next.begin(), next.end());
        Bytes map = encode_type_bitmap(std::move(types));
        rdata.insert(rdata.end(), map.begin(), map.end());
        return write_made(zone, nsec3_owner(first, zone.origin()), Type::NSEC3, rdata, authorities_);
    }
    bool write_nsec3_match(const Zone& zone, const Name& name, NodeIndex node) {
        std::vector<Type> types = types_at(zone, node);
        const bool unsigned_cut = zone.is_delegation(node) && !zone.records(node, Type::DS);
        if (!types.empty() && !unsigned_cut) types.push_back(Type::RRSIG);
        Nsec3Hash hash = nsec3_hash(name.wire(), {}, 0);
        return write_nsec3_range(zone, hash, neighbour(hash, 1), std::move(types));
    }
    bool write_nsec3_cover(const Zone& zone, const Name& name) {
        Nsec3Hash hash = nsec3_hash(name.wire(), {}, 0);
        return write_nsec3_range(zone, neighbour(hash, -1), neighbour(hash, 1), {});
    }

    bool write_online_denial(const Zone& zone, const Name& name, const Lookup& found) {
        const bool no_name = found.kind == Lookup::Kind::no_name;
        if (!served_->signer->nsec3()) return write_compact(zone, name, no_name ? no_node : found.node, authorities_);
        // An expanded wildcard is there under its own name, with the wildcard's types.
        if (!no_name) return write_nsec3_match(zone, name, found.node);
        Name encloser = zone.name_of(found.closest_encloser);
        auto star = encloser.wildcard();
        return write_nsec3_match(zone, encloser, found.closest_encloser) &&
               write_nsec3_cover(zone, name.suffix(encloser.label_count() + 1)) &&
               (!star || write_nsec3_cover(zone, *star));
    }

    // Proofs of a zone that came signed with NSEC3 (RFC 5155 section 7.2).
    bool write_chain_node(const Zone& zone, NodeIndex node) {
        if (node == no_node) return true;
        for (std::size_t i = 0; i < chain_written_count_; ++i)
            if (chain_written_[i] == node) return true;
        if (chain_written_count_ < chain_written_.size()) chain_written_[chain_written_count_++] = node;
        auto set = zone.records(node, Type::NSEC3);
        return !set || write_set(zone, node, *set, zone.name_of(node), authorities_);
    }
    NodeIndex chain_match(const Zone& zone, const Name& name) const {
        const Zone::Nsec3Chain& chain = zone.nsec3_chain();
        return chain.matching(nsec3_hash(name.wire(), chain.salt, chain.iterations));
    }
    bool write_chain_cover(const Zone& zone, const Name& name) {
        const Zone::Nsec3Chain& chain = zone.nsec3_chain();
        return write_chain_node(zone, chain.covering(nsec3_hash(name.wire(), chain.salt, chain.iterations)));
    }
    // The closest encloser that the chain has, and that the next closer name is not there.
    bool write_chain_encloser(const Zone& zone, const Name& name) {
        for (std::size_t labels = name.label_count(); labels-- > zone.origin().label_count();) {
            Name ancestor = name.suffix(labels);
            NodeIndex node = chain_match(zone, ancestor);
            if (node == no_node) continue;
            return write_chain_node(zone, node) && write_chain_cover(zone, name.suffix(labels + 1));
        }
        return true;
    }
    bool write_chain_denial(const Zone& zone, const Name& name, const Lookup& found) {
        if (found.kind != Lookup::Kind::no_name && !found.wildcard) {
            NodeIndex node = chain_match(zone, name);
            return node != no_node ? write_chain_node(zone, node) : write_chain_encloser(zone, name);
        }
        if (!write_chain_encloser(zone, name)) return false;
        auto star = zone.name_of(found.closest_encloser).wildcard();
        if (!star) return true;
        return found.wildcard ? write_chain_node(zone, chain_match(zone, *star)) : write_chain_cover(zone, *star);
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
            std::optional<RecordSet> set;
            if (served_->policy) {
                if (subnet_ == std::nullopt)
                    client_ = {context_.client, static_cast<std::uint8_t>(context_.client.size() * 8)};
                if (auto chosen = served_->policy->answer(found.node, question_.type, client_)) {
                    set = chosen->records;
                    scope_bits_ = chosen->scope_bits;
                }
            }
            if (!set) set = zone.records(found.node, question_.type);
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
        if (served_->signer) return write_online_denial(zone, name, found);
        if (!zone.nsec3_chain().nodes.empty()) return write_chain_denial(zone, name, found);
        if (found.kind == Lookup::Kind::no_data && !found.wildcard)
            return write_nsec_at(zone, found.node) || write_nsec_covering(zone, name);
        if (!write_nsec_covering(zone, name)) return false;
        // And that no wildcard would have matched, or what the matching one has (RFC 4035 sections 3.1.3.2
        // and 3.1.3.4).
        if (found.wildcard) return write_nsec_at(zone, found.node);
        auto star = zone.name_of(found.closest_encloser).wildcard();
        return !star || write_nsec_covering(zone, *star);
    }

    bool write_wildcard_proof(const Zone& zone, const Name& name, const Lookup& found) {
        if (!dnssec_wanted(zone) || served_->signer) return true;
        if (!zone.nsec3_chain().nodes.empty())
            return write_chain_cover(zone, name.suffix(zone.name_of(found.closest_encloser).label_count() + 1));
        return write_nsec_covering(zone, name);
    }

    bool write_delegation(const Zone& zone, const Lookup& found) {
        Name owner = zone.name_of(found.node);
        auto servers = zone.records(found.node, Type::NS);
        if (!write_set(zone, found.node, *servers, owner, authorities_, false)) return false;
        if (dnssec_wanted(zone)) {
            if (auto ds = zone.records(found.node, Type::DS)) {
                if (!write_set(zone, found.node, *ds, owner, authorities_)) return false;
            } else if (served_->signer) {
                const bool written = served_->signer->nsec3() ? write_nsec3_match(zone, owner, found.node)
                                                              : write_compact(zone, owner, found.node, authorities_);
                if (!written) return false;
            } else if (!zone.nsec3_chain().nodes.empty()) {
                Lookup cut = found;
                cut.kind = Lookup::Kind::no_data;
                cut.wildcard = false;
                if (!write_chain_denial(zone, owner, cut)) return false;
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
        if (failed_) {
            header_.authoritative = false;
            extended_error_ = ExtendedError::other;
            return Rcode::SERVFAIL;
        }
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
        return tsig_ && !tsig_->malformed ? sign() : writer_.size();
    }

    std::size_t sign() {
        std::span<std::uint8_t> whole = buffer_;
        std::size_t size = 0;
        if (tsig_->error == static_cast<std::uint16_t>(Rcode::BADKEY) ||
            tsig_->error == static_cast<std::uint16_t>(Rcode::BADSIG))
            size = tsig_add_error(*tsig_, context_.now, whole, writer_.size());
        else
            size = tsig_sign({.key = *tsig_->key,
                              .prior_mac = tsig_->mac,
                              .now = context_.now,
                              .error = tsig_->error,
                              .signed_time = tsig_->time},
                             whole, writer_.size());
        return size;
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
        if (subnet_) {
            std::array<std::uint8_t, 20> echo{};
            std::memcpy(echo.data(), subnet_->data(), subnet_->size());
            echo[3] = scope_bits_;
            add(EdnsOption::client_subnet, std::span(echo).first(subnet_->size()));
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
    std::optional<RecordView> tsig_record_;
    std::optional<TsigCheck> tsig_;
    std::size_t tsig_room_ = 0;
    const ServedZone* served_ = nullptr;
    std::optional<std::span<const std::uint8_t>> subnet_;  // the client subnet option's data
    std::array<std::uint8_t, 16> subnet_address_{};
    ClientView client_;
    std::uint8_t scope_bits_ = 0;
    MessageWriter::Mark body_start_{};
    NodeIndex nsec_written_ = no_node;
    std::array<NodeIndex, 4> chain_written_{};
    std::size_t chain_written_count_ = 0;
    bool failed_ = false;  // a signature could not be made
    std::uint16_t answers_ = 0;
    std::uint16_t authorities_ = 0;
    std::uint16_t additionals_ = 0;
};

}  // namespace

std::size_t Responder::answer_plainly(std::span<const std::uint8_t> query, Rcode rcode, const TsigSession& session,
                                      std::uint64_t now, std::span<std::uint8_t> answer) {
    auto reader = MessageReader::open(query);
    if (!reader) return 0;
    const Header asked = reader->header();
    Header header{.id = asked.id,
                  .response = true,
                  .opcode = asked.opcode,
                  .authoritative = asked.opcode == Opcode::notify && rcode == Rcode::NOERROR,
                  .recursion_desired = asked.recursion_desired,
                  .rcode = static_cast<std::uint8_t>(rcode)};
    MessageWriter writer(answer);
    if (!writer.write_header(header)) return 0;
    if (auto question = reader->read_question(); asked.questions == 1 && question && writer.write_question(*question))
        header.questions = 1;
    writer.patch_header(header);
    if (!session.key) return writer.size();
    return tsig_sign({.key = *session.key, .prior_mac = session.mac, .now = now}, answer, writer.size());
}

std::size_t Responder::cut(std::span<std::uint8_t> answer) {
    auto reader = MessageReader::open(answer);
    if (!reader) return 0;
    if (reader->header().questions == 1 && !reader->read_question()) return 0;
    answer[2] |= 2U;  // TC
    std::fill_n(answer.begin() + 6, 6, std::uint8_t{0});
    return reader->offset();
}

std::size_t Responder::respond(const ZoneSet& zones, const QueryContext& context, std::span<const std::uint8_t> query,
                               std::span<std::uint8_t> answer, Outcome& outcome) const {
    FastQuery fast;
    fast.prepare(zones, options_, context.transport, query);
    fast.fetch_node();
    (void)fast.fetch_data(query, context.client);
    if (std::size_t size = fast.answer(options_, context.now, query, answer); size != 0) {
        outcome.answered = true;
        outcome.type = fast.type();
        outcome.name_hash = fast.name_hash();
        return size;
    }
    return respond_fully(zones, context, query, answer, outcome);
}

std::size_t Responder::respond_fully(const ZoneSet& zones, const QueryContext& context,
                                     std::span<const std::uint8_t> query, std::span<std::uint8_t> answer,
                                     Outcome& outcome) const {
    return Answer(options_, zones, context, answer, outcome).respond(query);
}

}  // namespace wherry::dns
