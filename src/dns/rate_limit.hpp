// Response rate limiting: how many like answers a client network gets in a second, so that the server is of little use
// for flooding somebody whose address was forged. One per thread; fixed memory; not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace wherry::dns {

class RateLimiter {
  public:
    enum class Verdict : unsigned char { send, slip, drop };  // slip: send it truncated

    // `rate` answers a second to a /24 or /56, with two seconds of burst; 0: no limit.
    RateLimiter(unsigned rate, unsigned slip, std::uint64_t secret);
    bool enabled() const { return rate_ != 0; }
    // `kind` tells answers apart that count separately: a name, or a zone's denials, or errors.
    Verdict check(std::span<const std::uint8_t> client, std::uint64_t kind, std::uint32_t now_ms);

  private:
    struct Bucket {
        std::uint32_t tag = 0;
        std::uint32_t at_ms = 0;
        std::uint32_t tokens_milli = 0;
        std::uint32_t over = 0;
    };
    unsigned rate_;
    unsigned slip_;
    std::uint64_t secret_;
    std::vector<Bucket> buckets_;
};

}  // namespace wherry::dns
