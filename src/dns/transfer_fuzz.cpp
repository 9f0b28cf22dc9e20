// Whatever a primary sends, an update says or a journal holds: a zone comes out whole or not at all, and what came out
// goes out again and comes back the same.
#include <cstdlib>
#include <vector>

#include "dns/journal.hpp"
#include "dns/transfer_in.hpp"
#include "dns/transfer_out.hpp"
#include "dns/update.hpp"

namespace {

using namespace wherry;
using namespace wherry::dns;

std::shared_ptr<const Zone> make_zone() {
    Name origin = *Name::parse("example.");
    ZoneBuilder builder(origin);
    auto parsed = parse_master_text("@ SOA ns a 7 2 3 4 5\n@ NS ns\nns A 192.0.2.1\nb TXT x\nc CNAME b\n", "zone",
                                    {.origin = origin, .default_ttl = 60}, [&](const ParsedRecord& r) -> Result<> {
                                        return builder.add(r.owner, r.type, r.ttl, r.rdata);
                                    });
    if (!parsed) std::abort();
    return *std::move(builder).finish();
}

// Out as AXFR and back in.
void go_round(const std::shared_ptr<const Zone>& zone) {
    TransferStream stream = TransferStream::axfr({.id = 5}, {zone->origin(), Type::AXFR, Class::IN}, zone, {});
    TransferReader reader(zone->origin(), nullptr, 1U << 30U);
    std::vector<std::uint8_t> message(max_message_bytes);
    bool done = false;
    while (std::size_t size = stream.next(message, 0)) {
        auto fed = reader.feed(std::span(message).first(size));
        if (!fed) std::abort();
        done = *fed;
    }
    if (!done) std::abort();
    auto result = std::move(reader).finish();
    if (!result || result->zone->record_count() != zone->record_count() ||
        diff_zones(*zone, *result->zone).changes_records())
        std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const std::shared_ptr<const Zone> zone = make_zone();
    if (size < 2) return 0;
    std::span<const std::uint8_t> rest(data + 1, size - 1);
    if (data[0] % 3 == 0) {
        // Messages, each behind its length.
        TransferReader reader(zone->origin(), (data[0] & 64U) != 0 ? zone : nullptr, 1U << 20U);
        while (rest.size() >= 2) {
            std::size_t length = std::min<std::size_t>(load_u16(rest.data()), rest.size() - 2);
            auto fed = reader.feed(rest.subspan(2, length));
            if (!fed) return 0;
            if (*fed) break;
            rest = rest.subspan(2 + length);
        }
        auto result = std::move(reader).finish();
        if (result && result->zone) go_round(result->zone);
    } else if (data[0] % 3 == 1) {
        ZoneEditor editor(zone);
        if (apply_update(editor, rest) != Rcode::NOERROR) return 0;
        ZoneDiff diff = editor.diff();
        auto next = std::move(editor).finish();
        if (!next) return 0;
        go_round(*next);
        // The difference leads from the old version to the new one.
        ZoneEditor again(zone);
        if (!again.apply(diff)) std::abort();
        auto same = std::move(again).finish();
        if (!same || diff_zones(**next, **same).changes_records()) std::abort();
    } else {
        std::size_t valid = 0;
        for (const auto& diff : parse_journal(rest, valid)) {
            ZoneEditor editor(zone);
            if (editor.apply(*diff)) (void)std::move(editor).finish();
        }
        if (valid > rest.size()) std::abort();
    }
    return 0;
}
