// Zone transfers from others. TransferReader makes sense of a stream of messages (RFC 5936, RFC 1995; pure, so that it
// can be fuzzed); fetch_zone talks to a primary over TCP, blocking, with time-outs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "dns/server.hpp"
#include "dns/tsig.hpp"
#include "dns/zone.hpp"
#include "dns/zone_edit.hpp"

namespace wherry::dns {

// What a transfer brought.
struct TransferResult {
    bool up_to_date = false;                             // nothing newer there
    std::shared_ptr<const Zone> zone;                    // the new version
    std::vector<std::shared_ptr<const ZoneDiff>> diffs;  // what led to it, where it came as IXFR
    std::uint32_t primary_serial = 0;
};

class TransferReader {
  public:
    // `current` is what there is already (IXFR), or null (AXFR).
    TransferReader(const Name& origin, std::shared_ptr<const Zone> current, std::uint64_t limit_bytes);

    // The answer section of the next message. True: the transfer is whole.
    Result<bool> feed(std::span<const std::uint8_t> message);
    Result<TransferResult> finish() &&;

  private:
    Result<bool> record(const Name& owner, Type type, std::uint32_t ttl, Bytes rdata);
    enum class State : unsigned char { start, second, full, deleting, adding, done };
    Name origin_;
    std::shared_ptr<const Zone> current_;
    std::uint64_t limit_bytes_;
    std::uint64_t bytes_ = 0;
    State state_ = State::start;
    Bytes soa_;  // the first record's data
    std::uint32_t soa_ttl_ = 0;
    std::optional<ZoneBuilder> builder_;
    std::vector<std::shared_ptr<const ZoneDiff>> diffs_;
    ZoneDiff diff_;
    std::uint32_t at_serial_ = 0;
    bool up_to_date_ = false;
};

struct FetchOptions {
    Name origin;
    SocketAddress primary;
    std::shared_ptr<const TsigKey> key;   // null: unsigned
    std::shared_ptr<const Zone> current;  // null: nothing yet
    bool whole = false;                   // AXFR even where IXFR could do
    int timeout_ms = 10'000;              // without a byte
    std::uint64_t limit_bytes = std::uint64_t{4} << 30U;
    const int* cancel_fd = nullptr;  // readable: give up
};

// Asks for the SOA first and transfers only what is newer.
Result<TransferResult> fetch_zone(const FetchOptions& options);

// One question to one server over TCP or UDP and its answer, signed and checked where there is a key: what fetch_zone
// and NOTIFY are made of.
Result<Bytes> exchange_udp(const SocketAddress& server, std::span<const std::uint8_t> query, int timeout_ms);

}  // namespace wherry::dns
