// What the vsock device counts; names are Firecracker's where it has them.
#pragma once

#include "vmm/core/counter.hpp"

namespace wherry::vmm::vsock {

struct Metrics {
    Counter activate_fails;
    Counter cfg_fails;
    Counter rx_queue_event_fails;
    Counter tx_queue_event_fails;
    Counter ev_queue_event_fails;
    Counter muxer_event_fails;
    Counter conn_event_fails;
    Counter rx_queue_event_count;
    Counter tx_queue_event_count;
    Counter rx_bytes_count;
    Counter tx_bytes_count;
    Counter rx_packets_count;
    Counter tx_packets_count;
    Counter conns_added;
    Counter conns_killed;
    Counter conns_removed;
    Counter killq_resync;
    Counter tx_flush_fails;
    Counter tx_write_fails;
    Counter rx_read_fails;

    // f(name, counter) for each.
    template <class F>
    void for_each(F f) {
        f("activate_fails", activate_fails);
        f("cfg_fails", cfg_fails);
        f("rx_queue_event_fails", rx_queue_event_fails);
        f("tx_queue_event_fails", tx_queue_event_fails);
        f("ev_queue_event_fails", ev_queue_event_fails);
        f("muxer_event_fails", muxer_event_fails);
        f("conn_event_fails", conn_event_fails);
        f("rx_queue_event_count", rx_queue_event_count);
        f("tx_queue_event_count", tx_queue_event_count);
        f("rx_bytes_count", rx_bytes_count);
        f("tx_bytes_count", tx_bytes_count);
        f("rx_packets_count", rx_packets_count);
        f("tx_packets_count", tx_packets_count);
        f("conns_added", conns_added);
        f("conns_killed", conns_killed);
        f("conns_removed", conns_removed);
        f("killq_resync", killq_resync);
        f("tx_flush_fails", tx_flush_fails);
        f("tx_write_fails", tx_write_fails);
        f("rx_read_fails", rx_read_fails);
    }
};

}  // namespace wherry::vmm::vsock
