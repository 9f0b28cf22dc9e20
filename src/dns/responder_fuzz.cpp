// Any packet to a responder with a zone of every kind of name: an answer is a well-formed message within its limit.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <vector>

#include "dns/responder.hpp"

namespace {

using namespace wherry;
using namespace wherry::dns;

std::shared_ptr<const ZoneSet> make_zones() {
    Name origin = *Name::parse("example.");
    ZoneBuilder builder(origin);
    constexpr std::string_view text =
        "@ SOA ns a 1 2 3 4 5\n@ NS ns\n@ NS ns.sub\nns A 192.0.2.1\nsub NS ns.sub\nns.sub A 192.0.2.2\n*.w A "
        "192.0.2.3\nc CNAME d\nd CNAME c\n"
        "e DNAME w\nm MX 1 ns\nbig TXT \"0123456789012345678901234567890123456789\" a b c d e f g h i j k l m n o p q "
        "r s t u v w x y z\n"
        "s 5 SVCB 1 . port=5\nl DNAME "
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.w\n";
    auto parsed = parse_master_text(
        text, "zone", {.origin = origin, .default_ttl = 60},
        [&](const ParsedRecord& r) -> Result<> { return builder.add(r.owner, r.type, r.ttl, r.rdata); });
    if (!parsed) std::abort();
    return *ZoneSet::create({*std::move(builder).finish()});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const std::shared_ptr<const ZoneSet> zones = make_zones();
    static const Responder responder({.nsid = "here", .version = "wherry"});
    std::vector<std::uint8_t> answer(max_message_bytes);
    const std::uint8_t client[4] = {127, 0, 0, 1};
    for (Transport transport : {Transport::udp, Transport::tcp}) {
        Outcome outcome;
        std::size_t written = responder.respond(*zones, {.client = client, .transport = transport, .now = 1000},
                                                {data, size}, answer, outcome);
        if (written == 0) continue;
        // The short way for common queries gives what the long one gives.
        std::vector<std::uint8_t> slow(max_message_bytes);
        Outcome again;
        std::size_t slow_size = responder.respond_fully(*zones, {.client = client, .transport = transport, .now = 1000},
                                                        {data, size}, slow, again);
        if (slow_size != written ||
            !std::equal(slow.begin(), slow.begin() + static_cast<std::ptrdiff_t>(slow_size), answer.begin()) ||
            again.rcode != outcome.rcode || again.type != outcome.type || again.name_hash != outcome.name_hash)
            std::abort();
        if (transport == Transport::udp && written > 1232) std::abort();
        auto reader = MessageReader::open(std::span(answer).first(written));
        if (!reader || !reader->header().response) std::abort();
        for (unsigned i = 0; i < reader->header().questions; ++i)
            if (!reader->read_question()) std::abort();
        unsigned records = reader->header().answers + reader->header().authorities + reader->header().additionals;
        for (unsigned i = 0; i < records; ++i) {
            auto record = reader->read_record();
            if (!record || (record->type != Type::OPT && !rdata_from_message(*reader, *record))) std::abort();
        }
        if (!reader->at_end()) std::abort();
    }
    return 0;
}
