// Constants and layouts of virtio-net (Virtio 1.2, section 5.1). Linux' header of the same has a member named
// "class" and does not compile as C++.
#pragma once

#include <array>
#include <cstdint>

namespace wherry::vmm::net {

inline constexpr unsigned feature_csum = 0, feature_guest_csum = 1, feature_mtu = 3, feature_mac = 5,
                          feature_guest_tso4 = 7, feature_guest_tso6 = 8, feature_guest_ufo = 10,
                          feature_host_tso4 = 11, feature_host_tso6 = 12, feature_host_ufo = 14, feature_mergeable = 15,
                          feature_control = 17, feature_multiqueue = 22;

struct [[gnu::packed]] ConfigurationSpace {
    std::array<std::uint8_t, 6> mac = {};
    std::uint16_t status = 0;
    std::uint16_t most_pairs = 0;
    std::uint16_t mtu = 0;
};

inline constexpr std::uint8_t control_class_multiqueue = 4, control_set_pairs = 0, control_ok = 0, control_error = 1;

}  // namespace wherry::vmm::net
