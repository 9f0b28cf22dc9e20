#include "vmm/core/rate_limiter.hpp"

#include <algorithm>
#include <cmath>

namespace wherry::vmm {

TokenBucket::TokenBucket(const BucketConfig& config, std::int64_t now_ns)
    : config_(config), burst_(config.one_time_burst), tokens_(static_cast<double>(config.size)), last_ns_(now_ns) {}

// Whatever a file says: never more than full, and in debt for an hour's worth at most.
TokenBucket::TokenBucket(const BucketState& state, std::int64_t now_ns)
    : config_(state.config), burst_(std::min(state.burst, state.config.one_time_burst)), last_ns_(now_ns) {
    constexpr double hour_ms = 3.6e6;
    const double size = static_cast<double>(config_.size);
    const double debt =
        size * std::max(1.0, hour_ms / static_cast<double>(std::max<std::uint64_t>(config_.refill_time_ms, 1)));
    tokens_ = std::clamp(static_cast<double>(state.tokens), -debt, size);
}

BucketState TokenBucket::save() const {
    // A debt larger than the type is the largest one.
    return {.config = config_, .burst = burst_, .tokens = static_cast<std::int64_t>(std::clamp(tokens_, -9e18, 9e18))};
}

void TokenBucket::refill(std::int64_t now_ns) {
    if (now_ns <= last_ns_) return;
    const double refill_ns = static_cast<double>(config_.refill_time_ms) * 1e6;
    const double size = static_cast<double>(config_.size);
    tokens_ = std::min(size, tokens_ + static_cast<double>(now_ns - last_ns_) * size / refill_ns);
    last_ns_ = now_ns;
}

bool TokenBucket::take(std::uint64_t tokens, std::int64_t now_ns) {
    if (tokens == 0) return true;
    if (burst_ > 0) {
        const std::uint64_t from_burst = std::min(burst_, tokens);
        if (from_burst == tokens) {
            burst_ -= tokens;
            return true;
        }
    }
    refill(now_ns);
    const double wanted = static_cast<double>(tokens) - static_cast<double>(burst_);
    const double size = static_cast<double>(config_.size);
    // A hair below full is full: the sum of many refills is not exact.
    if (tokens_ + 1e-6 < std::min(wanted, size)) return false;
    tokens_ -= wanted;
    burst_ = 0;
    return true;
}

void TokenBucket::give_back(std::uint64_t tokens) {
    tokens_ = std::min(static_cast<double>(config_.size), tokens_ + static_cast<double>(tokens));
}

std::chrono::nanoseconds TokenBucket::wait_for(std::uint64_t tokens) const {
    const double size = static_cast<double>(config_.size);
    const double missing = std::min(static_cast<double>(tokens) - static_cast<double>(burst_), size) - tokens_;
    if (missing <= 0) return {};
    const double refill_ns = static_cast<double>(config_.refill_time_ms) * 1e6;
    return std::chrono::nanoseconds(static_cast<std::int64_t>(std::min(std::ceil(missing * refill_ns / size), 1e18)));
}

RateLimiter::RateLimiter(const RateLimiterConfig& config, std::int64_t now_ns) {
    update(config, now_ns);
}

void RateLimiter::update(const RateLimiterConfig& config, std::int64_t now_ns) {
    const auto apply = [now_ns](std::optional<TokenBucket>& bucket, const std::optional<BucketConfig>& wanted) {
        if (!wanted) return;
        if (wanted->unlimited()) {
            bucket.reset();
        } else {
            bucket.emplace(*wanted, now_ns);
        }
    };
    apply(bandwidth_, config.bandwidth);
    apply(operations_, config.operations);
}

bool RateLimiter::take(std::uint64_t bytes, std::int64_t now_ns) {
    if (operations_ && !operations_->take(1, now_ns)) {
        wait_ = operations_->wait_for(1);
        return false;
    }
    if (bandwidth_ && !bandwidth_->take(bytes, now_ns)) {
        wait_ = bandwidth_->wait_for(bytes);
        if (operations_) operations_->give_back(1);
        return false;
    }
    return true;
}

RateLimiter::RateLimiter(const RateLimiterState& state, std::int64_t now_ns) {
    if (state.bandwidth && !state.bandwidth->config.unlimited()) bandwidth_.emplace(*state.bandwidth, now_ns);
    if (state.operations && !state.operations->config.unlimited()) operations_.emplace(*state.operations, now_ns);
}

RateLimiterState RateLimiter::save() const {
    RateLimiterState state;
    if (bandwidth_) state.bandwidth = bandwidth_->save();
    if (operations_) state.operations = operations_->save();
    return state;
}

RateLimiterConfig RateLimiter::config() const {
    RateLimiterConfig config;
    if (bandwidth_) config.bandwidth = bandwidth_->config();
    if (operations_) config.operations = operations_->config();
    return config;
}

}  // namespace wherry::vmm
