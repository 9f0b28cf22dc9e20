#include "vmm/core/http.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace wherry::vmm {
namespace {

char lower(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
}

// RFC 9110, section 5.6.2.
bool is_token(std::string_view text) {
    constexpr std::string_view marks = "!#$%&'*+-.^_`|~";
    return !text.empty() && std::ranges::all_of(text, [&](char c) {
        return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z') ||
               marks.find(c) != std::string_view::npos;
    });
}

std::string_view trim(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
    return text;
}

std::unexpected<Error> bad(std::string_view what) {
    return fail(Code::invalid_argument, "Invalid HTTP request: " + std::string(what));
}

std::string_view reason(int status) {
    switch (status) {
        case 200:
            return "OK";
        case 204:
            return "No Content";
        case 400:
            return "Bad Request";
        case 401:
            return "Unauthorized";
        case 404:
            return "Not Found";
        case 405:
            return "Method Not Allowed";
        case 413:
            return "Payload Too Large";
        case 500:
            return "Internal Server Error";
        case 501:
            return "Not Implemented";
        default:
            return "Service Unavailable";
    }
}

}  // namespace

const std::string* HttpRequest::header(std::string_view lower_case_name) const {
    for (const auto& [name, value] : headers)
        if (name == lower_case_name) return &value;
    return nullptr;
}

Result<> HttpParser::parse_head(std::string_view head) {
    HttpRequest request;
    const std::size_t line_end = std::min(head.find("\r\n"), head.size());
    const std::string_view line = head.substr(0, line_end);
    const std::size_t first = line.find(' '), last = line.rfind(' ');
    if (first == std::string_view::npos || first == last) return bad("request line");
    const std::string_view method = line.substr(0, first), target = line.substr(first + 1, last - first - 1),
                           version = line.substr(last + 1);
    if (!is_token(method)) return bad("method");
    if (target.empty() || std::ranges::any_of(target, [](char c) { return c <= ' ' || c == 127; }))
        return bad("target");
    if (version != "HTTP/1.1" && version != "HTTP/1.0") return bad("unsupported HTTP version");
    request.method = method;
    request.target = target;
    request.keep_alive = version == "HTTP/1.1";
    content_length_ = 0;
    bool has_length = false;
    std::string_view rest = head.substr(std::min(line_end + 2, head.size()));
    while (!rest.empty()) {
        const std::size_t end = std::min(rest.find("\r\n"), rest.size());
        const std::string_view field = rest.substr(0, end);
        rest.remove_prefix(std::min(end + 2, rest.size()));
        const std::size_t colon = field.find(':');
        if (colon == std::string_view::npos || !is_token(field.substr(0, colon))) return bad("header");
        std::string name(field.substr(0, colon));
        std::ranges::transform(name, name.begin(), lower);
        const std::string_view value = trim(field.substr(colon + 1));
        if (std::ranges::any_of(value, [](char c) { return static_cast<unsigned char>(c) < ' ' && c != '\t'; }))
            return bad("header");
        if (name == "content-length") {
            std::size_t length = 0;
            const auto [end_at, error] = std::from_chars(value.data(), value.data() + value.size(), length);
            if (error != std::errc() || end_at != value.data() + value.size() ||
                (has_length && length != content_length_))
                return bad("Content-Length");
            content_length_ = length;
            has_length = true;
        } else if (name == "transfer-encoding") {
            return fail(Code::unimplemented, "Transfer-Encoding is not supported.");
        } else if (name == "connection") {
            std::string text(value);
            std::ranges::transform(text, text.begin(), lower);
            if (text.find("close") != std::string::npos) request.keep_alive = false;
            if (text.find("keep-alive") != std::string::npos) request.keep_alive = true;
        } else if (name == "expect") {
            wants_continue_ = true;
        }
        request.headers.emplace_back(std::move(name), value);
    }
    if (content_length_ > limits_.body_bytes)
        return fail(Code::resource_exhausted,
                    fmt::format("Request payload with size {} is larger than the limit of {} allowed by server.",
                                content_length_, limits_.body_bytes));
    current_ = std::move(request);
    return {};
}

Result<std::optional<HttpRequest>> HttpParser::next() {
    if (!current_) {
        while (buffer_.starts_with("\r\n")) buffer_.erase(0, 2);  // RFC 9112, section 2.2
        const std::size_t end = buffer_.find("\r\n\r\n");
        if (end == std::string::npos ? buffer_.size() > limits_.head_bytes : end > limits_.head_bytes)
            return fail(Code::resource_exhausted, "The request's header is too large.");
        if (end == std::string::npos) return std::nullopt;
        TRY(parse_head(std::string_view(buffer_).substr(0, end)));
        buffer_.erase(0, end + 4);
    }
    if (buffer_.size() < content_length_) return std::nullopt;
    wants_continue_ = false;
    HttpRequest request = std::move(*current_);
    current_.reset();
    request.body = buffer_.substr(0, content_length_);
    buffer_.erase(0, content_length_);
    return request;
}

std::string to_bytes(const HttpResponse& response, bool keep_alive) {
    std::string out = fmt::format("HTTP/1.1 {} {}\r\nServer: Firecracker API\r\nConnection: {}\r\n", response.status,
                                  reason(response.status), keep_alive ? "keep-alive" : "close");
    for (const auto& [name, value] : response.headers) out += fmt::format("{}: {}\r\n", name, value);
    if (response.status != 204)
        out += fmt::format("Content-Type: {}\r\nContent-Length: {}\r\n", response.content_type, response.body.size());
    return out + "\r\n" + response.body;
}

}  // namespace wherry::vmm
