// Dynamic update (RFC 2136) from the client's side: records added to and taken from a zone, signed (RFC 8945).
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "base/result.hpp"
#include "dns/name.hpp"
#include "dns/rdata.hpp"
#include "dns/socket_address.hpp"
#include "dns/tsig.hpp"

namespace wherry::dns::tools {

struct RecordChange {
    bool add = true;  // false: this one record is deleted, if it is there (RFC 2136 section 2.5.4)
    Name name;
    Type type = Type::A;
    std::uint32_t ttl = 0;
    Bytes rdata;

    bool operator==(const RecordChange&) const = default;
};

// A key as `nsupdate -y` takes it: [ALGORITHM:]NAME:BASE64.
Result<TsigKey> parse_key(std::string_view text);

// Sends the changes, in as few messages as they fit; each message is applied whole or not at all. permission_denied
// when the server refuses, unavailable when it does not answer.
Result<> update(const SocketAddress& server, const Name& zone, const std::shared_ptr<const TsigKey>& key,
                const std::vector<RecordChange>& changes, std::chrono::milliseconds timeout);

}  // namespace wherry::dns::tools
