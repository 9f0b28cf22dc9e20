// What the monitor sees of a shared folder: little, its requests go to another process.
#pragma once

#include "vmm/core/counter.hpp"

namespace wherry::vmm::fs {

struct Metrics {
    Counter activate_count;
    Counter activate_fails;
    Counter backend_gone_count;
    Counter backend_back_count;
    Counter refused_count;  // requests that were answered with an error because nobody served

    // f(name, counter) for each.
    template <class F>
    void for_each(F f) {
        f("activate_count", activate_count);
        f("activate_fails", activate_fails);
        f("backend_gone_count", backend_gone_count);
        f("backend_back_count", backend_back_count);
        f("refused_count", refused_count);
    }
};

}  // namespace wherry::vmm::fs
