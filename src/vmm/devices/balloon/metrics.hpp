// What the balloon counts; names are Firecracker's where it has them.
#pragma once

#include "vmm/core/counter.hpp"

namespace wherry::vmm::balloon {

struct Metrics {
    Counter activate_fails;
    Counter inflate_count;
    Counter stats_updates_count;
    Counter stats_update_fails;
    Counter deflate_count;
    Counter event_fails;
    Counter free_page_report_count;
    Counter free_page_report_freed;
    Counter free_page_report_fails;
    Counter free_page_hint_count;
    Counter free_page_hint_freed;
    Counter free_page_hint_fails;

    // f(name, counter) for each.
    template <class F>
    void for_each(F f) {
        f("activate_fails", activate_fails);
        f("inflate_count", inflate_count);
        f("stats_updates_count", stats_updates_count);
        f("stats_update_fails", stats_update_fails);
        f("deflate_count", deflate_count);
        f("event_fails", event_fails);
        f("free_page_report_count", free_page_report_count);
        f("free_page_report_freed", free_page_report_freed);
        f("free_page_report_fails", free_page_report_fails);
        f("free_page_hint_count", free_page_hint_count);
        f("free_page_hint_freed", free_page_hint_freed);
        f("free_page_hint_fails", free_page_hint_fails);
    }
};

}  // namespace wherry::vmm::balloon
