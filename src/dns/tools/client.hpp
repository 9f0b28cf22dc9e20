// A stub client: one question to one server, by UDP (with TCP when the answer is truncated), TCP or TLS.
//
// Answers are believed only when they come from the asked server, with the question's id and the question itself
// (RFC 5452 section 9.1). Nothing of an answer is trusted: MessageReader checks every offset.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "dns/message.hpp"
#include "dns/rdata.hpp"
#include "dns/socket_address.hpp"

namespace wherry::dns::tools {

enum class Transport : unsigned char { udp, tcp, tls };
std::string_view to_string(Transport transport);

// RFC 7871: the part of a client's address that goes along with a question.
struct ClientSubnet {
    SocketAddress address;
    unsigned prefix = 0;  // bits

    // "192.0.2.0/24", "2001:db8::/56", "192.0.2.7" (whole), "0" (nothing of the address).
    static Result<ClientSubnet> parse(std::string_view text);
};

struct QueryOptions {
    Transport transport = Transport::udp;
    bool recursion_desired = true;
    bool dnssec_ok = false;          // EDNS DO
    bool checking_disabled = false;  // CD
    bool authentic_data = false;     // AD: asks a resolver to say whether it validated
    bool edns = true;
    bool ask_nsid = false;       // RFC 5001
    bool stay_with_udp = false;  // do not ask again by TCP when the answer is truncated
    std::uint16_t udp_payload_bytes = 1232;
    std::optional<ClientSubnet> subnet;
    std::string
        tls_name;  // verified against the server's certificate; empty: encrypted, not authenticated (RFC 7858 4.1)
    std::string tls_authorities;              // a PEM file; empty: the system's
    std::chrono::milliseconds timeout{3000};  // of each try
    unsigned tries = 3;                       // UDP
};

struct Answer {
    std::vector<std::uint8_t> packet;
    SocketAddress server;
    Transport transport = Transport::udp;
    std::chrono::nanoseconds time{0};  // from the sending of the answered query to its answer
};

// invalid_argument: the question or options make no query; unavailable: refused or unreachable; deadline_exceeded: no
// answer in all tries; data_loss: what came is no answer.
Result<Answer> ask(const SocketAddress& server, const Question& question, const QueryOptions& options);

// Every message of a zone transfer (RFC 5936) by TCP or TLS, until the SOA comes again.
Result<std::vector<Answer>> transfer(const SocketAddress& server, const Name& zone, const QueryOptions& options);

// The system's resolvers (resolv.conf(5)): servers, search domains, ndots.
struct ResolverConfiguration {
    std::vector<SocketAddress> servers;
    std::vector<Name> search;
    unsigned ndots = 1;
};
ResolverConfiguration parse_resolver_configuration(std::string_view text);
ResolverConfiguration system_resolvers();  // /etc/resolv.conf; 127.0.0.1 when it names none

// "192.0.2.1" -> 1.2.0.192.in-addr.arpa. (RFC 1035 section 3.5), IPv6 -> ip6.arpa. (RFC 3596 section 2.5).
Name reverse_name(const SocketAddress& address);

}  // namespace wherry::dns::tools
