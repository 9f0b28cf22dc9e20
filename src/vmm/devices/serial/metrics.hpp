// What the serial port counts; names are Firecracker's where it has them.
#pragma once

#include "vmm/core/counter.hpp"

namespace wherry::vmm::serial {

struct Metrics {
    Counter error_count;
    Counter flush_count;
    Counter missed_read_count;
    Counter missed_write_count;
    Counter read_count;
    Counter write_count;
    Counter rate_limiter_dropped_bytes;

    // f(name, counter) for each.
    template <class F>
    void for_each(F f) {
        f("error_count", error_count);
        f("flush_count", flush_count);
        f("missed_read_count", missed_read_count);
        f("missed_write_count", missed_write_count);
        f("read_count", read_count);
        f("write_count", write_count);
        f("rate_limiter_dropped_bytes", rate_limiter_dropped_bytes);
    }
};

}  // namespace wherry::vmm::serial
