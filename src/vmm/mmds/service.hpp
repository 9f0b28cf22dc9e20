// The metadata service: a JSON document that the host writes and the guest reads over HTTP, with (v2) or without (v1)
// session tokens. Thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/json.hpp"
#include "base/result.hpp"
#include "vmm/core/counter.hpp"
#include "vmm/core/http.hpp"

namespace wherry::vmm::mmds {

enum class Version : unsigned char { v1, v2 };
constexpr Version last_value(Version) {
    return Version::v2;
}
using Ipv4 = std::array<std::uint8_t, 4>;

Result<Ipv4> parse_ipv4(std::string_view text);
std::string to_string(const Ipv4& address);
// 169.254.0.0/16 without its first and last 256 addresses (RFC 3927, section 2.1).
bool is_link_local(const Ipv4& address);

struct Metrics {
    Counter connections_created;
    Counter connections_destroyed;
    Counter rx_accepted;
    Counter rx_accepted_err;
    Counter rx_accepted_unusual;
    Counter rx_bad_eth;
    Counter rx_count;
    Counter rx_invalid_token;
    Counter rx_no_token;
    Counter tx_bytes;
    Counter tx_count;
    Counter tx_errors;
    Counter tx_frames;

    template <class F>
    void for_each(F f) {
        f("connections_created", connections_created);
        f("connections_destroyed", connections_destroyed);
        f("rx_accepted", rx_accepted);
        f("rx_accepted_err", rx_accepted_err);
        f("rx_accepted_unusual", rx_accepted_unusual);
        f("rx_bad_eth", rx_bad_eth);
        f("rx_count", rx_count);
        f("rx_invalid_token", rx_invalid_token);
        f("rx_no_token", rx_no_token);
        f("tx_bytes", tx_bytes);
        f("tx_count", tx_count);
        f("tx_errors", tx_errors);
        f("tx_frames", tx_frames);
    }
};

class Service {
  public:
    explicit Service(std::size_t limit_bytes) : limit_bytes_(limit_bytes) {}

    void configure(Version version, Ipv4 address, bool imds_compatible);
    Version version() const;
    Ipv4 address() const;
    bool imds_compatible() const;

    // resource_exhausted when the document would be larger than the limit, conflict for a patch before the first put.
    Result<> put(json::value document);
    Result<> patch(const json::value& change);  // RFC 7396
    json::value get() const;                    // null before the first put

    // Answers a guest.
    HttpResponse respond(const HttpRequest& request, std::int64_t now_ns);

    Metrics metrics;

  private:
    HttpResponse respond_get(const HttpRequest& request);
    HttpResponse respond_put(const HttpRequest& request, std::int64_t now_ns);
    bool token_is_valid(const std::string& token, std::int64_t now_ns);

    mutable std::mutex mutex_;
    std::size_t limit_bytes_;
    Version version_ = Version::v1;
    Ipv4 address_ = {169, 254, 169, 254};
    bool imds_compatible_ = false;
    std::optional<json::value> document_;
    std::unordered_map<std::string, std::int64_t> tokens_;  // until when, CLOCK_MONOTONIC
};

}  // namespace wherry::vmm::mmds
