// Which address of a subnet is whose. Memory only: the caller's records are the truth, and mark_used() brings them
// back after a restart. Not thread-safe. Addresses are handed out in turn, so that one is reused as late as possible
// (a dying namespace still answers for its address for a moment).
#pragma once

#include <set>
#include <span>

#include "base/result.hpp"
#include "net/address.hpp"

namespace wherry::net {

class AddressPool {
  public:
    AddressPool() = default;
    // Addresses come from `range`, which lies in `subnet`; the gateway is taken from the start, as are network and
    // broadcast address.
    AddressPool(const IpPrefix& subnet, const IpPrefix& range, const IpAddress& gateway);

    Result<IpAddress> allocate();  // resource_exhausted, in Docker's words
    Result<> allocate(
        const IpAddress& address);  // this very one: invalid_argument outside of the subnet, conflict when taken
    void mark_used(const IpAddress& address);  // whether or not it was free
    void release(const IpAddress& address);    // never the gateway
    std::size_t used() const { return used_.size(); }
    const IpPrefix& subnet() const { return subnet_; }

  private:
    bool assignable(const IpAddress& address) const;

    IpPrefix subnet_;
    IpPrefix range_;
    IpAddress gateway_;
    std::set<IpAddress> used_;
    IpAddress cursor_;  // the last one handed out
};

// The first of the subnets wherry picks from that overlaps nothing of `taken`; resource_exhausted when all do.
Result<IpPrefix> choose_subnet(std::span<const IpPrefix> taken);

}  // namespace wherry::net
