// What the entropy device counts; names are Firecracker's where it has them.
#pragma once

#include "vmm/core/counter.hpp"

namespace wherry::vmm::entropy {

struct Metrics {
    Counter activate_fails;
    Counter entropy_event_fails;
    Counter entropy_event_count;
    Counter entropy_bytes;
    Counter host_rng_fails;
    Counter entropy_rate_limiter_throttled;
    Counter rate_limiter_event_count;

    // f(name, counter) for each.
    template <class F>
    void for_each(F f) {
        f("activate_fails", activate_fails);
        f("entropy_event_fails", entropy_event_fails);
        f("entropy_event_count", entropy_event_count);
        f("entropy_bytes", entropy_bytes);
        f("host_rng_fails", host_rng_fails);
        f("entropy_rate_limiter_throttled", entropy_rate_limiter_throttled);
        f("rate_limiter_event_count", rate_limiter_event_count);
    }
};

}  // namespace wherry::vmm::entropy
