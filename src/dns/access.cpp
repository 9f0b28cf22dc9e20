#include "dns/access.hpp"

#include <algorithm>
#include <charconv>

#include "dns/text_codec.hpp"

namespace wherry::dns {

Result<AddressPrefix> AddressPrefix::parse(std::string_view text) {
    AddressPrefix prefix;
    auto slash = text.find('/');
    std::string_view address = text.substr(0, slash);
    Bytes bytes;
    if (auto v4 = parse_ipv4(address))
        bytes = std::move(*v4);
    else if (auto v6 = parse_ipv6(address))
        bytes = std::move(*v6);
    else
        return fail(Code::invalid_argument, "\"" + std::string(text.substr(0, 64)) + "\" is not an address or prefix");
    std::ranges::copy(bytes, prefix.bytes.begin());
    prefix.size = static_cast<std::uint8_t>(bytes.size());
    prefix.bits = static_cast<std::uint8_t>(bytes.size() * 8);
    if (slash != std::string_view::npos) {
        std::string_view bits = text.substr(slash + 1);
        unsigned value = 0;
        auto [stop, error] = std::from_chars(bits.data(), bits.data() + bits.size(), value);
        if (error != std::errc() || stop != bits.data() + bits.size() || value > prefix.bits)
            return fail(Code::invalid_argument,
                        "\"" + std::string(text.substr(0, 64)) + "\" has a wrong prefix length");
        prefix.bits = static_cast<std::uint8_t>(value);
    }
    return prefix;
}

bool AddressPrefix::contains(std::span<const std::uint8_t> address) const {
    if (address.size() != size) return false;
    const std::size_t whole = bits / 8U;
    if (!std::equal(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(whole), address.begin())) return false;
    const unsigned rest = bits % 8U;
    if (rest == 0) return true;
    const unsigned mask = 0xFFU << (8U - rest) & 0xFFU;
    return (bytes[whole] & mask) == (address[whole] & mask);
}

bool AccessList::allows(std::span<const std::uint8_t> address, const Name* key) const {
    return std::ranges::any_of(rules, [&](const AccessRule& rule) {
        if (rule.prefix && !rule.prefix->contains(address)) return false;
        if (rule.key && (key == nullptr || !(*rule.key == *key))) return false;
        return rule.prefix || rule.key;
    });
}

}  // namespace wherry::dns
