// What the keyboard controller counts; names are Firecracker's where it has them.
#pragma once

#include "vmm/core/counter.hpp"

namespace wherry::vmm::i8042 {

struct Metrics {
    Counter error_count;
    Counter missed_read_count;
    Counter missed_write_count;
    Counter read_count;
    Counter reset_count;
    Counter write_count;

    // f(name, counter) for each.
    template <class F>
    void for_each(F f) {
        f("error_count", error_count);
        f("missed_read_count", missed_read_count);
        f("missed_write_count", missed_write_count);
        f("read_count", read_count);
        f("reset_count", reset_count);
        f("write_count", write_count);
    }
};

}  // namespace wherry::vmm::i8042
