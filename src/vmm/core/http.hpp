// HTTP/1.0 and 1.1 requests (RFC 9112) as the API and the metadata service take them: fed with bytes as they come,
// bodies by Content-Length only. No I/O, no threads.
//
//     HttpParser parser({.body_bytes = 51200});
//     parser.feed(bytes);
//     while (auto request = parser.next()) ...        // error: the connection is to be answered and closed
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace wherry::vmm {

struct HttpRequest {
    std::string method;
    std::string target;  // as sent
    bool keep_alive = true;
    std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
    std::string body;

    const std::string* header(std::string_view lower_case_name) const;
};

class HttpParser {
  public:
    struct Limits {
        std::size_t head_bytes = 8192;
        std::size_t body_bytes = 51200;
    };
    explicit HttpParser(Limits limits) : limits_(limits) {}

    void feed(std::string_view bytes) { buffer_.append(bytes); }
    // The next whole request, or nothing yet. resource_exhausted for one that is too large, unimplemented for a
    // transfer coding, invalid_argument for what is no HTTP. After an error the connection is of no more use.
    Result<std::optional<HttpRequest>> next();
    // True once after a head that asks for "100 Continue" and whose body is not here yet.
    bool take_continue() { return std::exchange(wants_continue_, false); }

  private:
    Result<> parse_head(std::string_view head);

    Limits limits_;
    std::string buffer_;
    std::optional<HttpRequest> current_;  // its head is complete
    std::size_t content_length_ = 0;
    bool wants_continue_ = false;
};

struct HttpResponse {
    int status = 200;
    std::string content_type = "application/json";
    std::string body;
    std::vector<std::pair<std::string, std::string>> headers;
};
std::string to_bytes(const HttpResponse& response, bool keep_alive);

}  // namespace wherry::vmm
