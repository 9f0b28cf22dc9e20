// What a pmem device counts; names are Firecracker's where it has them.
#pragma once

#include "vmm/core/counter.hpp"

namespace wherry::vmm::pmem {

struct Metrics {
    Counter activate_fails;
    Counter cfg_fails;
    Counter event_fails;
    Counter queue_event_count;
    Counter flush_count;
    Counter flush_fails;
    Counter rate_limiter_throttled_events;
    Counter rate_limiter_event_count;

    // f(name, counter) for each.
    template <class F>
    void for_each(F f) {
        f("activate_fails", activate_fails);
        f("cfg_fails", cfg_fails);
        f("event_fails", event_fails);
        f("queue_event_count", queue_event_count);
        f("flush_count", flush_count);
        f("flush_fails", flush_fails);
        f("rate_limiter_throttled_events", rate_limiter_throttled_events);
        f("rate_limiter_event_count", rate_limiter_event_count);
    }
};

}  // namespace wherry::vmm::pmem
