// What a network card counts; names are Firecracker's where it has them.
#pragma once

#include "vmm/core/counter.hpp"

namespace wherry::vmm::net {

struct Metrics {
    Counter activate_fails;
    Counter cfg_fails;
    Counter mac_address_updates;
    Counter no_rx_avail_buffer;
    Counter no_tx_avail_buffer;
    Counter event_fails;
    Counter rx_queue_event_count;
    Counter rx_event_rate_limiter_count;
    Counter rx_rate_limiter_throttled;
    Counter rx_tap_event_count;
    Counter rx_bytes_count;
    Counter rx_packets_count;
    Counter rx_fails;
    Counter rx_count;
    Counter tap_read_fails;
    Counter tap_write_fails;
    Counter tx_bytes_count;
    Counter tx_malformed_frames;
    Counter tx_fails;
    Counter tx_count;
    Counter tx_packets_count;
    Counter tx_queue_event_count;
    Counter tx_rate_limiter_event_count;
    Counter tx_rate_limiter_throttled;
    Counter tx_spoofed_mac_count;

    // f(name, counter) for each.
    template <class F>
    void for_each(F f) {
        f("activate_fails", activate_fails);
        f("cfg_fails", cfg_fails);
        f("mac_address_updates", mac_address_updates);
        f("no_rx_avail_buffer", no_rx_avail_buffer);
        f("no_tx_avail_buffer", no_tx_avail_buffer);
        f("event_fails", event_fails);
        f("rx_queue_event_count", rx_queue_event_count);
        f("rx_event_rate_limiter_count", rx_event_rate_limiter_count);
        f("rx_rate_limiter_throttled", rx_rate_limiter_throttled);
        f("rx_tap_event_count", rx_tap_event_count);
        f("rx_bytes_count", rx_bytes_count);
        f("rx_packets_count", rx_packets_count);
        f("rx_fails", rx_fails);
        f("rx_count", rx_count);
        f("tap_read_fails", tap_read_fails);
        f("tap_write_fails", tap_write_fails);
        f("tx_bytes_count", tx_bytes_count);
        f("tx_malformed_frames", tx_malformed_frames);
        f("tx_fails", tx_fails);
        f("tx_count", tx_count);
        f("tx_packets_count", tx_packets_count);
        f("tx_queue_event_count", tx_queue_event_count);
        f("tx_rate_limiter_event_count", tx_rate_limiter_event_count);
        f("tx_rate_limiter_throttled", tx_rate_limiter_throttled);
        f("tx_spoofed_mac_count", tx_spoofed_mac_count);
    }
};

}  // namespace wherry::vmm::net
