// Iterative resolution from the root (RFC 1034 section 5.3.3), each step shown: what a trace of a name is made of.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "dns/tools/client.hpp"
#include "dns/tools/present.hpp"

namespace wherry::dns::tools {

// One question to one server on the way down.
struct Step {
    Name zone;           // whose server was asked
    std::string server;  // its name; the address for a root given by address
    Answer answer;
    Message message;
    unsigned depth = 0;  // 0: the name itself; more: the address of a name server, or a CNAME's target
};

struct IterateOptions {
    QueryOptions query;
    // Servers of the root zone; empty: the thirteen of the root hints (named.root).
    std::vector<SocketAddress> roots;
    std::uint16_t port = 53;  // of every server below the root
    bool ipv6 = true;         // servers' IPv6 addresses are tried too
    // Told of every step as it is done, and of servers that did not answer.
    std::function<void(const Step&)> on_step;
    std::function<void(const std::string& server, const Error&)> on_failure;
};

// The last message: an answer, or the authoritative denial of one. unavailable when no server of a zone answers;
// resource_exhausted beyond 100 questions or 16 levels (a loop of delegations or aliases).
Result<Step> iterate(const Question& question, const IterateOptions& options);

}  // namespace wherry::dns::tools
