// The bytes of a query. Internal to dns/tools.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.hpp"
#include "dns/tools/client.hpp"

namespace wherry::dns::tools {

// As it goes into a datagram; invalid_argument when the options do not fit into it.
Result<std::vector<std::uint8_t>> make_query(const Question& question, const QueryOptions& options, std::uint16_t id);
// Whether `packet` answers this query: response bit, id and question. FORMERR answers may leave the question out.
bool answers(std::span<const std::uint8_t> packet, const Question& question, std::uint16_t id);

}  // namespace wherry::dns::tools
