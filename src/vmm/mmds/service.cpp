#include "vmm/mmds/service.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/encoding.hpp"
#include "base/id.hpp"

namespace wherry::vmm::mmds {
namespace {

constexpr std::string_view token_path = "/latest/api/token";
constexpr std::int64_t shortest_ttl_s = 1, longest_ttl_s = 21600;
constexpr std::size_t most_tokens = 4096;

HttpResponse text(int status, std::string body) {
    return {.status = status, .content_type = "text/plain", .body = std::move(body), .headers = {}};
}

void merge(json::value& target, const json::value& change) {
    if (!change.is_object()) {
        target = change;
        return;
    }
    if (!target.is_object()) target = json::object();
    json::object& object = target.get_object();
    for (const auto& [key, value] : change.get_object()) {
        if (value.is_null()) {
            object.erase(key);
        } else {
            merge(object[key], value);
        }
    }
}

// The value at "/a/b/0". Repeated and trailing slashes do not matter.
const json::value* find(const json::value& document, std::string_view path) {
    const json::value* at = &document;
    while (!path.empty()) {
        if (path.front() == '/') {
            path.remove_prefix(1);
            continue;
        }
        const std::string_view part = path.substr(0, path.find('/'));
        path.remove_prefix(part.size());
        if (const auto* object = at->if_object()) {
            at = object->if_contains(part);
        } else if (const auto* array = at->if_array()) {
            std::size_t index = 0;
            const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
            if (error != std::errc() || end != part.data() + part.size() || index >= array->size()) return nullptr;
            at = &(*array)[index];
        } else {
            return nullptr;
        }
        if (at == nullptr) return nullptr;
    }
    return at;
}

// The format of EC2's metadata: keys a line, with a slash where there is more below; strings as they are.
std::optional<std::string> to_imds(const json::value& value) {
    if (const auto* string = value.if_string()) return std::string(*string);
    const auto* object = value.if_object();
    if (object == nullptr) return std::nullopt;
    std::string lines;
    for (const auto& [key, member] : *object) {
        if (!lines.empty()) lines += '\n';
        lines += key;
        if (member.is_object()) lines += '/';
    }
    return lines;
}

}  // namespace

Result<Ipv4> parse_ipv4(std::string_view given) {
    Ipv4 address = {};
    std::string_view rest = given;
    for (std::size_t i = 0; i < address.size(); ++i) {
        unsigned value = 0;
        const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
        const auto used = static_cast<std::size_t>(end - rest.data());
        if (error != std::errc() || value > 255 || used > 3 || (used > 1 && rest.front() == '0'))
            return fail(Code::invalid_argument, "invalid IPv4 address syntax");
        address[i] = static_cast<std::uint8_t>(value);
        rest.remove_prefix(used);
        if (i < 3 && !rest.starts_with('.')) return fail(Code::invalid_argument, "invalid IPv4 address syntax");
        if (i < 3) rest.remove_prefix(1);
    }
    if (!rest.empty()) return fail(Code::invalid_argument, "invalid IPv4 address syntax");
    return address;
}

std::string to_string(const Ipv4& address) {
    return fmt::format("{}.{}.{}.{}", address[0], address[1], address[2], address[3]);
}

bool is_link_local(const Ipv4& address) {
    return address[0] == 169 && address[1] == 254 && address[2] != 0 && address[2] != 255;
}

void Service::configure(Version version, Ipv4 address, bool imds_compatible) {
    const std::lock_guard lock(mutex_);
    version_ = version;
    address_ = address;
    imds_compatible_ = imds_compatible;
}

Version Service::version() const {
    const std::lock_guard lock(mutex_);
    return version_;
}

Ipv4 Service::address() const {
    const std::lock_guard lock(mutex_);
    return address_;
}

bool Service::imds_compatible() const {
    const std::lock_guard lock(mutex_);
    return imds_compatible_;
}

Result<> Service::put(json::value document) {
    if (to_json(document).size() > limit_bytes_)
        return fail(Code::resource_exhausted, "The MMDS patch request doesn't fit.");
    const std::lock_guard lock(mutex_);
    document_ = std::move(document);
    return {};
}

Result<> Service::patch(const json::value& change) {
    const std::lock_guard lock(mutex_);
    if (!document_) return fail(Code::conflict, "The MMDS data store is not initialized.");
    json::value next = *document_;
    merge(next, change);
    if (to_json(next).size() > limit_bytes_)
        return fail(Code::resource_exhausted, "The MMDS patch request doesn't fit.");
    document_ = std::move(next);
    return {};
}

json::value Service::get() const {
    const std::lock_guard lock(mutex_);
    return document_.value_or(json::value(nullptr));
}

bool Service::token_is_valid(const std::string& token, std::int64_t now_ns) {
    const auto found = tokens_.find(token);
    if (found == tokens_.end()) return false;
    if (found->second > now_ns) return true;
    tokens_.erase(found);
    return false;
}

HttpResponse Service::respond(const HttpRequest& request, std::int64_t now_ns) {
    metrics.rx_count.add();
    const std::lock_guard lock(mutex_);
    if (request.method == "PUT") return respond_put(request, now_ns);
    if (request.method != "GET") {
        auto response = text(405, "Not allowed HTTP method.");
        response.headers.emplace_back("Allow", "GET, PUT");
        return response;
    }
    const std::string* token = request.header("x-metadata-token");
    if (token == nullptr) token = request.header("x-aws-ec2-metadata-token");
    if (version_ == Version::v2) {
        if (token == nullptr) {
            metrics.rx_no_token.add();
            return text(401,
                        "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to "
                        "specify the session token.");
        }
        if (!token_is_valid(*token, now_ns)) {
            metrics.rx_invalid_token.add();
            return text(401, "MMDS token not valid.");
        }
    }
    return respond_get(request);
}

HttpResponse Service::respond_get(const HttpRequest& request) {
    std::string_view path = request.target;
    path = path.substr(0, path.find('?'));
    if (path.starts_with("http://")) {  // the absolute form: skip the authority
        path.remove_prefix(7);
        const std::size_t slash = path.find('/');
        path = slash == std::string_view::npos ? "/" : path.substr(slash);
    }
    const json::value* value = document_ ? find(*document_, path) : nullptr;
    if (value == nullptr) return text(404, fmt::format("Resource not found: {}.", path));
    const std::string* accept = request.header("accept");
    if (accept != nullptr && accept->find("application/json") != std::string::npos && !imds_compatible_)
        return {.status = 200, .content_type = "application/json", .body = to_json(*value), .headers = {}};
    auto lines = to_imds(*value);
    if (!lines) return text(501, "Cannot retrieve value. The value has an unsupported type.");
    return text(200, std::move(*lines));
}

HttpResponse Service::respond_put(const HttpRequest& request, std::int64_t now_ns) {
    std::string_view path = request.target;
    while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
    if (request.header("x-forwarded-for") != nullptr)  // a proxy must not be talked into fetching tokens
        return text(400, "Invalid header. Reason: Unsupported header name. Key: X-Forwarded-For");
    if (path != token_path) return text(404, fmt::format("Resource not found: {}.", path));
    std::string_view ttl_name = "X-metadata-token-ttl-seconds";
    const std::string* ttl = request.header("x-metadata-token-ttl-seconds");
    if (ttl == nullptr) {
        ttl = request.header("x-aws-ec2-metadata-token-ttl-seconds");
        ttl_name = "X-aws-ec2-metadata-token-ttl-seconds";
    }
    if (ttl == nullptr)
        return text(400,
                    "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or "
                    "`X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime.");
    std::int64_t seconds = 0;
    const auto [end, error] = std::from_chars(ttl->data(), ttl->data() + ttl->size(), seconds);
    if (error != std::errc() || end != ttl->data() + ttl->size())
        return text(400, fmt::format("Invalid header. Reason: Invalid value. Key:{}; Value:{}", ttl_name, *ttl));
    if (seconds < shortest_ttl_s || seconds > longest_ttl_s)
        return text(400,
                    fmt::format("Invalid time to live value provided for token: {}. Please provide a value between "
                                "{} and {}.",
                                seconds, shortest_ttl_s, longest_ttl_s));
    if (tokens_.size() >= most_tokens)
        std::erase_if(tokens_, [&](const auto& token) { return token.second <= now_ns; });
    if (tokens_.size() >= most_tokens) {
        const auto oldest = std::ranges::min_element(tokens_, {}, [](const auto& token) { return token.second; });
        tokens_.erase(oldest);
    }
    std::array<std::byte, 32> random = {};
    fill_random(random);
    std::string token = hex(random);
    tokens_[token] = now_ns + seconds * 1'000'000'000;
    auto response = text(200, std::move(token));
    response.headers.emplace_back(ttl_name, std::to_string(seconds));
    return response;
}

}  // namespace wherry::vmm::mmds
