// Who may do what: rules over the client's address and the key its message was signed with, and limits on queries.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "dns/name.hpp"

namespace wherry::dns {

// "192.0.2.0/24", "2001:db8::/32", or one address.
struct AddressPrefix {
    std::array<std::uint8_t, 16> bytes{};
    std::uint8_t size = 4;  // bytes of an address: 4 or 16
    std::uint8_t bits = 0;

    static Result<AddressPrefix> parse(std::string_view text);
    bool contains(std::span<const std::uint8_t> address) const;
    bool operator==(const AddressPrefix&) const = default;
};

// Matches when all that it names does.
struct AccessRule {
    std::optional<AddressPrefix> prefix;
    std::optional<Name> key;
};

struct AccessList {
    std::vector<AccessRule> rules;  // any of them; none: nobody

    // `key`: that the message was signed with, or nullptr.
    bool allows(std::span<const std::uint8_t> address, const Name* key) const;
};

// What a zone's configuration allows.
struct ZoneAccess {
    AccessList transfer;
    AccessList update;
    AccessList notify;
};

}  // namespace wherry::dns
