#include "api/docker/call.hpp"

#include <charconv>

namespace wherry::api::docker {
namespace {

// A container's or image's configuration is small; archives are streamed and not limited here.
constexpr std::size_t json_body_limit = 8U << 20U;

}  // namespace

unsigned status_of(Code code) {
    switch (code) {
        case Code::invalid_argument:
            return 400;
        case Code::not_found:
            return 404;
        case Code::already_exists:
            return 409;
        case Code::conflict:
            return 409;
        case Code::permission_denied:
            return 403;
        case Code::unauthenticated:
            return 401;
        case Code::resource_exhausted:
            return 500;
        case Code::unavailable:
            return 503;
        case Code::deadline_exceeded:
            return 500;
        case Code::cancelled:
            return 500;
        case Code::unimplemented:
            return 501;
        case Code::data_loss:
            return 500;
        case Code::out_of_range:
            return 400;
        case Code::internal:
            return 500;
    }
    return 500;
}

asio::awaitable<Result<>> send_error(http::Exchange& exchange, unsigned status, std::string_view message) {
    JsonWriter writer;
    writer.begin_object().member("message", message).end_object();
    return exchange.send(status, "application/json", writer.take_line());
}

std::shared_ptr<const std::string> ListCache::find(const std::string& query, std::uint64_t revision,
                                                   std::int64_t second) const {
    if (revision != revision_ || second != second_) return nullptr;
    const auto found = bodies_.find(query);
    return found == bodies_.end() ? nullptr : found->second;
}

void ListCache::keep(const std::string& query, std::uint64_t revision, std::int64_t second,
                     std::shared_ptr<const std::string> body) {
    constexpr std::size_t most = 8;
    if (revision != revision_ || second != second_ || bodies_.size() >= most) bodies_.clear();
    revision_ = revision;
    second_ = second;
    bodies_[query] = std::move(body);
}

bool Call::flag(std::string_view key, bool absent) const {
    if (!query().has(key)) return absent;
    std::string_view value = query().get(key);
    for (std::string_view no : {"", "0", "no", "false", "none"})
        if (http::equals_ignoring_case(value, no)) return false;
    return true;
}

Result<std::optional<std::int64_t>> Call::integer(std::string_view key) const {
    std::string_view value = query().get(key);
    if (value.empty()) return std::nullopt;
    std::int64_t number = 0;
    auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc{} || end != value.data() + value.size())
        return fail(Code::invalid_argument,
                    "invalid value \"" + std::string(value) + "\" for parameter " + std::string(key));
    return number;
}

Result<engine::Filters> Call::filters() const {
    return parse_filters(query().get("filters"));
}

Result<std::optional<WallTime>> Call::timestamp(std::string_view key) const {
    return parse_timestamp(query().get(key));
}

std::string error_line(const Error& error) {
    JsonWriter writer;
    writer.begin_object().key("errorDetail").begin_object().member("message", error.describe()).end_object();
    writer.member("error", error.describe()).end_object();
    return writer.take() + "\r\n";
}

Result<engine::Filters> parse_filters(std::string_view text) {
    engine::Filters filters;
    if (text.empty()) return filters;
    auto wrong = [] { return fail(Code::invalid_argument, "invalid filter"); };
    auto parsed = parse_json(text);
    if (!parsed) return fail(Code::invalid_argument, "invalid filters: " + parsed.error().describe());
    if (!parsed->is_object()) return wrong();
    for (const auto& [key, value] : parsed->get_object()) {
        std::vector<std::string>& accepted = filters[std::string(key)];
        if (value.is_array()) {
            for (const json::value& item : value.get_array()) {
                if (!item.is_string()) return wrong();
                accepted.emplace_back(item.get_string());
            }
        } else if (value.is_object()) {
            for (const auto& [item, enabled] : value.get_object()) {
                if (!enabled.is_bool()) return wrong();
                if (enabled.get_bool()) accepted.emplace_back(item);
            }
        } else {
            return wrong();
        }
    }
    return filters;
}

Result<std::optional<WallTime>> parse_timestamp(std::string_view text) {
    if (text.empty() || text == "0") return std::nullopt;
    auto wrong = [&] { return fail(Code::invalid_argument, "invalid timestamp \"" + std::string(text) + "\""); };
    std::size_t dot = text.find('.');
    std::string_view whole = text.substr(0, dot);
    std::int64_t seconds = 0;
    auto [end, error] = std::from_chars(whole.data(), whole.data() + whole.size(), seconds);
    if (error != std::errc{} || end != whole.data() + whole.size()) {
        // The CLI sends seconds; people with curl send RFC 3339.
        auto parsed = parse_rfc3339(text);
        if (!parsed) return wrong();
        return *parsed;
    }
    constexpr std::int64_t limit = 9'000'000'000;  // what nanoseconds in 64 bits hold
    if (seconds > limit || seconds < -limit) return wrong();
    std::int64_t nanoseconds = 0;
    if (dot != std::string_view::npos) {
        std::string digits(text.substr(dot + 1));
        if (digits.empty() || digits.size() > 9) return wrong();
        digits.resize(9, '0');
        auto fraction = std::from_chars(digits.data(), digits.data() + digits.size(), nanoseconds);
        if (fraction.ec != std::errc{} || fraction.ptr != digits.data() + digits.size() || nanoseconds < 0)
            return wrong();
    }
    if (seconds == 0 && nanoseconds == 0) return std::nullopt;
    return WallTime(Nanoseconds(seconds * 1'000'000'000 + nanoseconds));
}

asio::awaitable<Result<json::object>> Call::json_body(Body body) {
    const http::Request& request = exchange.request();
    std::string_view type = request.headers.get("Content-Type");
    std::string_view media = type.substr(0, type.find(';'));
    while (media.ends_with(' ')) media.remove_suffix(1);
    bool is_json = http::equals_ignoring_case(media, "application/json");
    if (request.has_body && !is_json)
        co_return fail(Code::invalid_argument,
                       "unsupported Content-Type header (" + std::string(type) + "): must be 'application/json'");
    auto text = co_await exchange.read_all(json_body_limit);
    if (!text) {
        if (text.error().code() == Code::resource_exhausted) {
            CO_CHECK(co_await send_error(exchange, 413, "request body too large"));
            co_return fail(Code::resource_exhausted, "request body too large");
        }
        co_return std::unexpected(std::move(text).error());
    }
    if (text->empty() || (body == Body::optional && (*text == "null" || *text == "null\n"))) {
        if (body == Body::optional) co_return json::object{};
        co_return fail(Code::invalid_argument, "invalid JSON: got EOF while reading request body");
    }
    auto object = parse_json_object(*text);
    if (!object) co_return fail(Code::invalid_argument, "invalid " + object.error().describe());
    co_return std::move(*object);
}

asio::awaitable<Result<>> Call::send_json(unsigned status, JsonWriter writer) {
    return exchange.send(status, "application/json", writer.take_line());
}

asio::awaitable<Result<>> Call::send_status(unsigned status) {
    return exchange.send(status);
}

}  // namespace wherry::api::docker
