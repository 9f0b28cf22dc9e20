#include "dns/rate_limit.hpp"

#include <algorithm>
#include <cstring>

#include "dns/siphash.hpp"

namespace wherry::dns {

namespace {
constexpr std::size_t bucket_count = 1U << 16U;
}

RateLimiter::RateLimiter(unsigned rate, unsigned slip, std::uint64_t secret)
    : rate_(rate), slip_(slip), secret_(secret), buckets_(rate == 0 ? 0 : bucket_count) {}

RateLimiter::Verdict RateLimiter::check(std::span<const std::uint8_t> client, std::uint64_t kind,
                                        std::uint32_t now_ms) {
    if (rate_ == 0) return Verdict::send;
    // Networks rather than addresses: whoever forges one can forge its neighbours.
    std::array<std::uint8_t, 16> input{};
    std::copy_n(client.begin(), client.size() == 4 ? 3 : 7, input.begin());
    std::memcpy(input.data() + 8, &kind, 8);
    SipKey key{};
    std::memcpy(key.data(), &secret_, 8);
    const std::uint64_t hash = siphash24(key, input);
    Bucket& bucket = buckets_[hash % bucket_count];
    const auto tag = static_cast<std::uint32_t>(hash >> 32U) | 1U;
    const std::uint32_t full = rate_ * 2000;
    if (bucket.tag != tag) {
        bucket = {tag, now_ms, full, 0};
    } else {
        std::uint64_t gained = std::uint64_t{now_ms - bucket.at_ms} * rate_;
        bucket.tokens_milli = static_cast<std::uint32_t>(std::min<std::uint64_t>(full, bucket.tokens_milli + gained));
        bucket.at_ms = now_ms;
    }
    if (bucket.tokens_milli >= 1000) {
        bucket.tokens_milli -= 1000;
        return Verdict::send;
    }
    ++bucket.over;
    return slip_ != 0 && bucket.over % slip_ == 0 ? Verdict::slip : Verdict::drop;
}

}  // namespace wherry::dns
