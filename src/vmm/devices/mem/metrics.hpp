// What memory hotplug counts; names are Firecracker's where it has them.
#pragma once

#include "vmm/core/counter.hpp"

namespace wherry::vmm::mem {

struct Metrics {
    Counter activate_fails;
    Counter queue_event_fails;
    Counter queue_event_count;
    Counter plug_count;
    Counter plug_bytes;
    Counter plug_fails;
    Counter unplug_count;
    Counter unplug_bytes;
    Counter unplug_fails;
    Counter unplug_all_count;
    Counter unplug_all_fails;
    Counter state_count;
    Counter state_fails;

    // f(name, counter) for each.
    template <class F>
    void for_each(F f) {
        f("activate_fails", activate_fails);
        f("queue_event_fails", queue_event_fails);
        f("queue_event_count", queue_event_count);
        f("plug_count", plug_count);
        f("plug_bytes", plug_bytes);
        f("plug_fails", plug_fails);
        f("unplug_count", unplug_count);
        f("unplug_bytes", unplug_bytes);
        f("unplug_fails", unplug_fails);
        f("unplug_all_count", unplug_all_count);
        f("unplug_all_fails", unplug_all_fails);
        f("state_count", state_count);
        f("state_fails", state_fails);
    }
};

}  // namespace wherry::vmm::mem
