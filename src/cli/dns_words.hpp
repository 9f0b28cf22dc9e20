// What the dns verbs share: servers and targets as people write them, and interruption by a signal.
#pragma once

#include <signal.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "cli/command.hpp"
#include "dns/tools/client.hpp"

namespace wherry::cli {

// 0: either, else AF_INET or AF_INET6, from the options "ipv4" and "ipv6".
int chosen_family(const ParsedOptions& options);

// A name or address to addresses, by the system's own rules (getaddrinfo: /etc/hosts, nsswitch). not_found when there
// are none of the family.
Result<std::vector<dns::SocketAddress>> system_addresses(const std::string& name, int family, std::uint16_t port);

// "2.5" seconds; invalid_argument beyond an hour, or not above zero.
Result<std::chrono::milliseconds> parse_seconds(std::string_view text, std::string_view option);
// A number from 1 (or `least`) to `most`.
Result<unsigned> parse_number(const ParsedOptions& options, std::string_view option, unsigned fallback, unsigned least,
                              unsigned most);

// SIGINT and SIGTERM set a flag for as long as this lives; blocking calls return with EINTR.
class Interruption {
  public:
    Interruption();
    ~Interruption();
    Interruption(const Interruption&) = delete;
    Interruption& operator=(const Interruption&) = delete;
    static bool happened();

  private:
    struct sigaction interrupt_{};
    struct sigaction terminate_{};
};

// "1.234" of nanoseconds.
std::string milliseconds(double nanoseconds, int digits = 3);

}  // namespace wherry::cli
