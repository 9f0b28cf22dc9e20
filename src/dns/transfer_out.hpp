// Zone transfers to others: AXFR (RFC 5936) and IXFR (RFC 1995) as a stream of messages, each made when there is room
// for it, signed where the request was (RFC 8945 section 5.3.1).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "dns/message.hpp"
#include "dns/tsig.hpp"
#include "dns/zone.hpp"
#include "dns/zone_edit.hpp"

namespace wherry::dns {

// How the answers of a stream are signed; without a key they are not.
struct TsigSession {
    std::shared_ptr<const TsigKey> key;
    Bytes mac;  // of the message before
};

class TransferStream {
  public:
    // `from_serial` and `history` for IXFR: what leads from that serial to the zone, or the whole zone when that is not
    // known, or its SOA alone when there is nothing newer.
    static TransferStream axfr(const Header& request, const Question& question, std::shared_ptr<const Zone> zone,
                               TsigSession session);
    static TransferStream ixfr(const Header& request, const Question& question, std::shared_ptr<const Zone> zone,
                               std::uint32_t from_serial, const ZoneHistory* history, TsigSession session);

    // The next message into `out` (65535 bytes), its size; 0: that was all.
    std::size_t next(std::span<std::uint8_t> out, std::uint64_t now);
    bool done() const { return stage_ == Stage::done; }

  private:
    enum class Stage : unsigned char { first_soa, nodes, diffs, last_soa, done };
    TransferStream(const Header& request, const Question& question, std::shared_ptr<const Zone> zone,
                   TsigSession session);
    bool write_soa(MessageWriter& writer) const;
    // False: the message is full.
    bool write_some(MessageWriter& writer, std::uint16_t& count);

    Header header_;
    Question question_;
    std::shared_ptr<const Zone> zone_;
    TsigSession session_;
    bool first_ = true;
    Stage stage_ = Stage::first_soa;
    bool incremental_ = false;
    bool soa_only_ = false;
    // Place in the zone.
    NodeIndex node_ = 0;
    std::size_t set_ = 0;
    std::size_t record_ = 0;
    // Place in the differences.
    std::vector<std::shared_ptr<const ZoneDiff>> diffs_;
    std::size_t diff_ = 0;
    std::size_t half_ = 0;  // 0: deleted, 1: added
    std::size_t offset_ = 0;
};

}  // namespace wherry::dns
