// What a disk counts; names are Firecracker's where it has them.
#pragma once

#include "vmm/core/counter.hpp"

namespace wherry::vmm::block {

struct Metrics {
    Counter activate_fails;
    Counter cfg_fails;
    Counter no_avail_buffer;
    Counter event_fails;
    Counter execute_fails;
    Counter invalid_reqs_count;
    Counter flush_count;
    Counter discard_count;
    Counter write_zeroes_count;
    Counter queue_event_count;
    Counter rate_limiter_event_count;
    Counter update_count;
    Counter update_fails;
    Counter read_bytes;
    Counter write_bytes;
    Counter read_count;
    Counter write_count;
    Counter rate_limiter_throttled_events;
    Counter io_engine_throttled_events;

    // f(name, counter) for each.
    template <class F>
    void for_each(F f) {
        f("activate_fails", activate_fails);
        f("cfg_fails", cfg_fails);
        f("no_avail_buffer", no_avail_buffer);
        f("event_fails", event_fails);
        f("execute_fails", execute_fails);
        f("invalid_reqs_count", invalid_reqs_count);
        f("flush_count", flush_count);
        f("discard_count", discard_count);
        f("write_zeroes_count", write_zeroes_count);
        f("queue_event_count", queue_event_count);
        f("rate_limiter_event_count", rate_limiter_event_count);
        f("update_count", update_count);
        f("update_fails", update_fails);
        f("read_bytes", read_bytes);
        f("write_bytes", write_bytes);
        f("read_count", read_count);
        f("write_count", write_count);
        f("rate_limiter_throttled_events", rate_limiter_throttled_events);
        f("io_engine_throttled_events", io_engine_throttled_events);
    }
};

}  // namespace wherry::vmm::block
