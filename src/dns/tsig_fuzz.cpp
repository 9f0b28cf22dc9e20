// Any packet with a TSIG record: checking it reads nothing beyond it, and what was not signed with the key is never
// taken for authentic. A packet signed here is.
#include <cstdlib>
#include <vector>

#include "dns/tsig.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry;
    using namespace wherry::dns;
    static const KeyRing ring = [] {
        KeyRing made;
        (void)made.add({.name = *Name::parse("key.example."), .secret = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}});
        return made;
    }();
    auto key = ring.find(*Name::parse("KEY.example."));
    std::span<const std::uint8_t> packet(data, size);
    auto read_last = [](std::span<const std::uint8_t> bytes, RecordView& last) {
        auto reader = MessageReader::open(bytes);
        if (!reader) return false;
        for (unsigned i = 0; i < reader->header().questions; ++i)
            if (!reader->read_question()) return false;
        unsigned records =
            unsigned{reader->header().answers} + reader->header().authorities + reader->header().additionals;
        for (unsigned i = 0; i < records; ++i) {
            auto record = reader->read_record();
            if (!record) return false;
            last = *record;
        }
        return records > 0 && reader->header().additionals > 0;
    };
    RecordView last;
    if (read_last(packet, last) && last.type == Type::TSIG) {
        TsigCheck check = tsig_verify(ring, packet, last, {.now = 1000});
        // 80 bits by chance do not happen.
        if (!check.malformed && check.error == 0) std::abort();
    }
    if (size < header_bytes || size > 4096 || load_u16(data + 10) == 0xFFFF) return 0;
    std::vector<std::uint8_t> buffer(data, data + size);
    buffer.resize(size + 512);
    std::size_t signed_size = tsig_sign({.key = *key, .now = 1000}, buffer, size);
    if (signed_size == 0) std::abort();
    std::span<const std::uint8_t> message = std::span(buffer).first(signed_size);
    // A record of the input's may reach into the one that was added: what is last then is another.
    if (read_last(message, last) && last.type == Type::TSIG && last.offset == size &&
        last.rdata_offset + last.rdata.size() == signed_size) {
        if (TsigCheck check = tsig_verify(ring, message, last, {.now = 1200}); check.malformed || check.error != 0)
            std::abort();
        if (tsig_verify(ring, message, last, {.now = 1301}).error != static_cast<std::uint16_t>(Rcode::BADTIME))
            std::abort();
        std::vector<std::uint8_t> altered(message.begin(), message.end());
        altered[size / 2] ^= 1U;
        RecordView same;
        if (read_last(altered, same) && same.type == Type::TSIG && same.offset == size) {
            TsigCheck check = tsig_verify(ring, altered, same, {.now = 1000});
            // The id that counts is the one in the record.
            if (!check.malformed && check.error == 0 && size / 2 > 1) std::abort();
        }
    }
    return 0;
}
