// The short way for what most queries are: one question of class IN for data that a zone has, with or without an EDNS
// record, which may name the client's subnet. Everything else takes the responder's long way, which gives the same
// answers to these too; the fuzz target compares the two.
//
// In steps, so that a batch of queries can wait for the memory of all of them at once:
//
//     for (...) fast[i].prepare(zones, options, transport, query);
//     for (...) fast[i].fetch_node();
//     for (...) fast[i].fetch_data(query, client);
//     for (...) fast[i].step();                                       // AnswerPolicy::steps times, where that helps
//     for (...) size = fast[i].answer(options, now, query, answer);   // 0: the long way
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "dns/catalog.hpp"
#include "dns/responder.hpp"

namespace wherry::dns {

class FastQuery {
  public:
    FastQuery() = default;
    FastQuery(const FastQuery&) = delete;
    FastQuery& operator=(const FastQuery&) = delete;

    void prepare(const ZoneSet& zones, const ResponderOptions& options, Transport transport,
                 std::span<const std::uint8_t> query);
    void fetch_node();
    // True: the answer depends on the client, and step() helps.
    bool fetch_data(std::span<const std::uint8_t> query, std::span<const std::uint8_t> client);
    void step();
    // The answer's size; 0: not for the short way, and nothing was written that matters.
    std::size_t answer(const ResponderOptions& options, std::uint32_t now, std::span<const std::uint8_t> query,
                       std::span<std::uint8_t> answer);
    Type type() const { return type_; }
    std::uint64_t name_hash() const { return hash_; }

  private:
    const Zone* zone_ = nullptr;  // null: the long way
    const ServedZone* served_ = nullptr;
    std::uint64_t hash_ = 0;
    NodeIndex node_ = no_node;
    Type type_ = Type::A;
    std::uint16_t limit_ = 0;
    std::uint16_t question_end_ = 0;
    std::uint8_t subnet_bytes_ = 0;  // of the client subnet option's data; 0: there is none
    bool edns_ = false;
    bool dnssec_ = false;
    // Where the zone has a policy. The view may be of the address here.
    std::array<std::uint8_t, 16> subnet_address_{};
    ClientView client_;
    PolicySearch search_;
};

}  // namespace wherry::dns
