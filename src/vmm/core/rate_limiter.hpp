// Two token buckets, one of bytes and one of operations (Firecracker's rate_limiter objects). Belongs to the device's
// lock; time is passed in, in nanoseconds of CLOCK_MONOTONIC, so that tests own it.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace wherry::vmm {

// `size` tokens come back every `refill`; `one_time_burst` more are there once.
struct BucketConfig {
    std::uint64_t size = 0;
    std::uint64_t one_time_burst = 0;
    std::uint64_t refill_time_ms = 0;

    bool unlimited() const { return size == 0 || refill_time_ms == 0; }
    friend bool operator==(const BucketConfig&, const BucketConfig&) = default;
    void fields(this auto& self, auto&& f) { f(self.size, self.one_time_burst, self.refill_time_ms); }
};

struct RateLimiterConfig {
    std::optional<BucketConfig> bandwidth;
    std::optional<BucketConfig> operations;

    friend bool operator==(const RateLimiterConfig&, const RateLimiterConfig&) = default;
    void fields(this auto& self, auto&& f) { f(self.bandwidth, self.operations); }
};

// What is left of a limit; time that passes between save and restore fills nothing.
struct BucketState {
    BucketConfig config;
    std::uint64_t burst = 0;
    std::int64_t tokens = 0;  // negative: debt

    friend bool operator==(const BucketState&, const BucketState&) = default;
    void fields(this auto& self, auto&& f) { f(self.config, self.burst, self.tokens); }
};

struct RateLimiterState {
    std::optional<BucketState> bandwidth;
    std::optional<BucketState> operations;

    friend bool operator==(const RateLimiterState&, const RateLimiterState&) = default;
    void fields(this auto& self, auto&& f) { f(self.bandwidth, self.operations); }
};

class TokenBucket {
  public:
    TokenBucket(const BucketConfig& config, std::int64_t now_ns);
    // Whether there were enough. A request larger than the whole bucket passes when the bucket is full, and puts it
    // into debt for the time its excess is worth.
    bool take(std::uint64_t tokens, std::int64_t now_ns);
    void give_back(std::uint64_t tokens);
    // Until `tokens` could be taken.
    std::chrono::nanoseconds wait_for(std::uint64_t tokens) const;
    const BucketConfig& config() const { return config_; }
    BucketState save() const;
    TokenBucket(const BucketState& state, std::int64_t now_ns);

  private:
    void refill(std::int64_t now_ns);
    BucketConfig config_;
    std::uint64_t burst_;
    double tokens_;
    std::int64_t last_ns_;
};

class RateLimiter {
  public:
    RateLimiter() = default;
    RateLimiter(const RateLimiterConfig& config, std::int64_t now_ns);
    // One operation of `bytes`; false when it must wait (nothing is taken then), for as long as wait() says.
    bool take(std::uint64_t bytes, std::int64_t now_ns);
    std::chrono::nanoseconds wait() const { return wait_; }
    // New limits where given; a bucket that is not given stays as it is, one of size 0 ends its limit.
    void update(const RateLimiterConfig& config, std::int64_t now_ns);
    RateLimiterConfig config() const;
    RateLimiterState save() const;
    RateLimiter(const RateLimiterState& state, std::int64_t now_ns);

  private:
    std::optional<TokenBucket> bandwidth_;
    std::optional<TokenBucket> operations_;
    std::chrono::nanoseconds wait_ = {};
};

}  // namespace wherry::vmm
