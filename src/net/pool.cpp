#include "net/pool.hpp"

#include <algorithm>

namespace wherry::net {

AddressPool::AddressPool(const IpPrefix& subnet, const IpPrefix& range, const IpAddress& gateway)
    : subnet_(subnet.network()), range_(range.network()), gateway_(gateway), cursor_(range_.last()) {
    if (gateway_.is_set()) used_.insert(gateway_);
}

bool AddressPool::assignable(const IpAddress& address) const {
    if (!subnet_.contains(address)) return false;
    // /31 and /32 (RFC 3021) and IPv6's equivalents have neither network nor broadcast address.
    if (subnet_.length + 1 >= subnet_.address.bits()) return true;
    if (address == subnet_.address) return false;
    return address.is_ipv6() || address != subnet_.last();
}

Result<IpAddress> AddressPool::allocate() {
    if (!subnet_.is_set()) return fail(Code::conflict, "network has no subnet of this family");
    IpAddress start = cursor_;
    // Only used and unassignable addresses are passed over: at most two more steps than there are used ones.
    for (std::size_t step = 0; step < used_.size() + 4; ++step) {
        start = start == range_.last() ? range_.address : start.plus(1);
        if (!assignable(start) || used_.contains(start)) continue;
        used_.insert(start);
        cursor_ = start;
        return start;
    }
    return fail(Code::resource_exhausted, "no available IPv" + std::string(subnet_.address.is_ipv6() ? "6" : "4") +
                                              " addresses on this network's address pool " + subnet_.to_string());
}

Result<> AddressPool::allocate(const IpAddress& address) {
    if (!assignable(address))
        return fail(Code::invalid_argument,
                    "address " + address.to_string() + " does not belong to subnet " + subnet_.to_string());
    if (!used_.insert(address).second) return fail(Code::conflict, "Address already in use: " + address.to_string());
    return {};
}

void AddressPool::mark_used(const IpAddress& address) {
    if (subnet_.contains(address)) used_.insert(address);
}

void AddressPool::release(const IpAddress& address) {
    if (address != gateway_) used_.erase(address);
}

Result<IpPrefix> choose_subnet(std::span<const IpPrefix> taken) {
    auto free = [&](const IpPrefix& candidate) {
        return std::ranges::none_of(
            taken, [&](const IpPrefix& other) { return other.length != 0 && candidate.overlaps(other); });
    };
    // Docker and docker-compose fill 172.17.0.0/12 from below, and clouds like 172.31.0.0: start near the upper end.
    for (std::uint32_t second : {30U, 29U, 28U, 27U, 26U, 25U, 24U, 23U, 22U, 21U, 20U, 19U, 18U, 31U, 17U, 16U}) {
        IpPrefix candidate{IpAddress::ipv4(172U << 24U | second << 16U), 16};
        if (free(candidate)) return candidate;
    }
    for (std::uint32_t third = 256; third >= 16; third -= 16) {
        IpPrefix candidate{IpAddress::ipv4(192U << 24U | 168U << 16U | (third - 16) << 8U), 20};
        if (free(candidate)) return candidate;
    }
    for (std::uint32_t second = 256; second-- > 0;) {
        IpPrefix candidate{IpAddress::ipv4(10U << 24U | second << 16U), 16};
        if (free(candidate)) return candidate;
    }
    return fail(Code::resource_exhausted,
                "could not find an available IPv4 address pool that overlaps no network of the host; set one");
}

}  // namespace wherry::net
