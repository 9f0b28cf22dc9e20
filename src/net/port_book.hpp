// Which host ports are taken, and by whom: two sandboxes never get the same one, and one that a process of the host has
// is refused. While the book lives it keeps a bound socket for each port, so that a later process that wants
// the port is told so; the rules in the kernel do not depend on it. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "net/address.hpp"
#include "net/ports.hpp"

namespace wherry::net {

class PortBook {
  public:
    // Takes exactly this port. conflict: "Bind for 0.0.0.0:80 failed: port is already allocated" (ours), or
    // "failed to bind host port 0.0.0.0:80/tcp: address already in use" (another process).
    Result<> take(const std::string& sandbox_id, Protocol protocol, const IpAddress& address, std::uint16_t port);
    // Takes the first port free on all the addresses, out of the range; {0, 0}: out of the host's ephemeral ports, in
    // turn.
    Result<std::uint16_t> take_one_of(const std::string& sandbox_id, Protocol protocol,
                                      const std::vector<IpAddress>& addresses, PortRange range);
    // Takes it whoever has it (after a restart: the rules are in force already). False when a process holds the port.
    bool adopt(const std::string& sandbox_id, Protocol protocol, const IpAddress& address, std::uint16_t port);
    void give_back(Protocol protocol, const IpAddress& address, std::uint16_t port);
    std::size_t size() const { return entries_.size(); }

  private:
    struct Key {
        Protocol protocol;
        std::uint16_t port;
        IpAddress address;
        auto operator<=>(const Key&) const = default;
    };
    struct Entry {
        std::string sandbox_id;
        Fd socket;  // may be empty: see adopt, and the limit
    };
    bool taken(const Key& key) const;

    std::map<Key, Entry> entries_;
    std::uint32_t cursor_ = 0;
};

}  // namespace wherry::net
