#include "store/etcd/etcd_client.hpp"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <mutex>
#include <utility>

#include "base/encoding.hpp"
#include "base/json.hpp"

namespace wherry::store {

namespace {

constexpr std::size_t max_answer_bytes = 256U << 20U;
constexpr std::size_t max_line_bytes = 8U << 20U;
// How often a waiting watch looks whether it is still wanted.
constexpr std::chrono::milliseconds look_interval{100};

// The gateway writes 64-bit numbers as text; zero is left out.
Result<std::int64_t> number(const JsonReader& reader, std::string_view key) {
    const json::value* value = reader.find(key);
    if (value == nullptr) return std::int64_t{0};
    if (value->is_int64()) return value->get_int64();
    if (!value->is_string()) return reader.wrong(key, "a number");
    const json::string& text = value->get_string();
    std::int64_t parsed = 0;
    auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), parsed);
    if (problem != std::errc() || end != text.data() + text.size()) return reader.wrong(key, "a number");
    return parsed;
}

Result<std::string> bytes(const JsonReader& reader, std::string_view key) {
    std::string text = TRY(reader.string_or(key, ""));
    return base64_decode(text);
}

Result<std::vector<EtcdKeyValue>> key_values(const JsonReader& range) {
    std::vector<EtcdKeyValue> items;
    for (const JsonReader& item : TRY(range.children("kvs"))) {
        EtcdKeyValue pair;
        pair.key = TRY(bytes(item, "key"));
        pair.value = TRY(bytes(item, "value"));
        pair.mod_revision = TRY(number(item, "mod_revision"));
        items.push_back(std::move(pair));
    }
    return items;
}

json::object operation_json(const EtcdOperation& operation) {
    json::object inner;
    inner["key"] = base64_encode(operation.key);
    if (!operation.range_end.empty()) inner["range_end"] = base64_encode(operation.range_end);
    if (operation.kind == EtcdOperation::Kind::put) inner["value"] = base64_encode(operation.value);
    if (operation.limit != 0) inner["limit"] = std::to_string(operation.limit);
    json::object outer;
    switch (operation.kind) {
        case EtcdOperation::Kind::range:
            outer["request_range"] = std::move(inner);
            break;
        case EtcdOperation::Kind::put:
            outer["request_put"] = std::move(inner);
            break;
        case EtcdOperation::Kind::remove:
            outer["request_delete_range"] = std::move(inner);
            break;
    }
    return outer;
}

// etcd's errors are gRPC's: {"error": "...", "code": 14}.
Error error_of(unsigned status, std::string_view body) {
    std::string message = "status " + std::to_string(status);
    std::int64_t code = 0;
    if (auto object = parse_json_object(body)) {
        JsonReader reader(*object);
        if (auto text = reader.string_or("error", ""); text && !text->empty()) message = *text;
        if (auto value = number(reader, "code")) code = *value;
    }
    Code kind = Code::internal;
    if (code == 3) kind = Code::invalid_argument;
    if (code == 4) kind = Code::deadline_exceeded;
    if (code == 5) kind = Code::not_found;
    if (code == 7) kind = Code::permission_denied;
    if (code == 8) kind = Code::resource_exhausted;
    if (code == 11) kind = Code::out_of_range;
    if (code == 14 || status == 503) kind = Code::unavailable;
    if (code == 16 || status == 401) kind = Code::unauthenticated;
    return Error(kind, "etcd: " + message);
}

}  // namespace

std::string etcd_prefix_end(std::string prefix) {
    while (!prefix.empty()) {
        auto last = static_cast<unsigned char>(prefix.back());
        if (last != 0xFFU) {
            prefix.back() = static_cast<char>(last + 1U);
            return prefix;
        }
        prefix.pop_back();
    }
    return std::string(1, '\0');  // etcd's "to the end"
}

Result<EtcdAnswer> parse_etcd_answer(std::string_view body) {
    json::object object = TRY(parse_json_object(body), "etcd's answer");
    JsonReader reader(object);
    EtcdAnswer answer;
    answer.succeeded = TRY(reader.boolean_or("succeeded", false));
    if (auto header = TRY(reader.child("header"))) answer.revision = TRY(number(*header, "revision"));
    for (const JsonReader& response : TRY(reader.children("responses"))) {
        if (auto range = TRY(response.child("response_range"))) answer.ranges.push_back(TRY(key_values(*range)));
    }
    return answer;
}

Result<bool> parse_etcd_watch_line(std::string_view line) {
    json::object object = TRY(parse_json_object(line), "etcd's watch");
    JsonReader reader(object);
    if (reader.has("error")) return fail(Code::unavailable, "etcd ended the watch");
    auto result = TRY(reader.child("result"));
    if (!result) return false;
    if (TRY(result->boolean_or("canceled", false))) return fail(Code::cancelled, "etcd ended the watch");
    return !TRY(result->children("events")).empty();
}

// ---- watch

Result<bool> EtcdWatchStream::take_lines() {
    bool events = false;
    for (;;) {
        auto newline = buffer_.find('\n');
        if (newline == std::string::npos) break;
        std::string line = buffer_.substr(0, newline);
        buffer_.erase(0, newline + 1);
        if (!line.empty() && TRY(parse_etcd_watch_line(line))) events = true;
    }
    if (buffer_.size() > max_line_bytes) return fail(Code::resource_exhausted, "etcd: a line without end");
    return events;
}

Result<bool> EtcdWatchStream::wait(std::chrono::steady_clock::time_point deadline,
                                   const std::function<bool()>& cancelled) {
    std::array<std::byte, 16384> piece{};
    for (;;) {
        if (cancelled()) return fail(Code::unavailable, "the store is closed");
        if (!response_.has_buffered()) {
            auto left =
                std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
            if (left.count() < 0) return false;
            pollfd watched{response_.fd(), POLLIN, 0};
            int ready = ::poll(&watched, 1,
                               static_cast<int>(std::min(left + std::chrono::milliseconds(1), look_interval).count()));
            if (ready < 0 && errno != EINTR) return fail_errno("poll");
            if (ready <= 0) continue;
        }
        std::size_t got = TRY(response_.read_some(piece), "etcd's watch");
        if (got == 0) return fail(Code::unavailable, "etcd closed the watch");
        // SAFETY: bytes are characters.
        buffer_.append(reinterpret_cast<const char*>(piece.data()), got);
        if (TRY(take_lines())) return true;
    }
}

// ---- requests

struct EtcdClient::State {
    EtcdEndpointOptions options;
    std::vector<std::unique_ptr<http::Client>> clients;
    std::mutex mutex;  // guards the two below
    std::size_t current = 0;
    std::string token;
};

EtcdClient::EtcdClient(std::unique_ptr<State> state) : state_(std::move(state)) {}
EtcdClient::~EtcdClient() = default;

Result<std::unique_ptr<EtcdClient>> EtcdClient::create(EtcdEndpointOptions options) {
    if (options.endpoints.empty()) return fail(Code::invalid_argument, "etcd: no endpoint is given");
    auto state = std::make_unique<State>();
    for (const std::string& text : options.endpoints) {
        std::optional<http::ClientTls> tls = text.starts_with("https://") ? options.tls : std::nullopt;
        http::Endpoint endpoint = TRY(http::parse_endpoint(text, tls), "etcd");
        http::ClientOptions client;
        client.connect_timeout = options.request_timeout;
        client.idle_timeout = options.request_timeout;
        client.peer = "etcd at " + text;
        state->clients.push_back(std::make_unique<http::Client>(std::move(endpoint), std::move(client)));
    }
    state->options = std::move(options);
    std::unique_ptr<EtcdClient> client(new EtcdClient(std::move(state)));
    if (!client->state_->options.user.empty()) TRY(client->authenticate());
    return client;
}

Result<http::ClientResponse> EtcdClient::post(const std::string& target, const std::string& body) {
    std::size_t first = 0;
    std::string token;
    {
        const std::scoped_lock lock(state_->mutex);
        first = state_->current;
        token = state_->token;
    }
    http::ClientRequest request{.method = "POST", .target = target};
    request.body = body;
    request.content_type = "application/json";
    if (!token.empty()) request.headers.set("Authorization", token);
    std::optional<Error> last;
    for (std::size_t i = 0; i < state_->clients.size(); ++i) {
        std::size_t index = (first + i) % state_->clients.size();
        auto response = state_->clients[index]->send(request);
        if (response) {
            const std::scoped_lock lock(state_->mutex);
            state_->current = index;
            return response;
        }
        last.emplace(std::move(response).error());
        // Only where nobody listens is it certain that nothing was done.
        if (last->code() != Code::unavailable) break;
    }
    return std::unexpected(std::move(*last));
}

Result<std::string> EtcdClient::call(const std::string& target, const std::string& body) {
    for (int attempt = 0;; ++attempt) {
        http::ClientResponse response = TRY(post(target, body));
        std::string answer = TRY(response.read_all(max_answer_bytes), "etcd");
        if (response.ok()) return answer;
        Error error = error_of(response.status(), answer);
        bool stale_token = error.code() == Code::unauthenticated && !state_->options.user.empty() && attempt == 0;
        if (!stale_token) return std::unexpected(std::move(error));
        TRY(authenticate());
    }
}

Result<> EtcdClient::authenticate() {
    json::object body;
    body["name"] = state_->options.user;
    body["password"] = state_->options.password;
    {
        const std::scoped_lock lock(state_->mutex);
        state_->token.clear();
    }
    http::ClientResponse response = TRY(post("/v3/auth/authenticate", to_json(body)));
    std::string answer = TRY(response.read_all(max_answer_bytes), "etcd");
    if (!response.ok()) return std::unexpected(error_of(response.status(), answer).with_code(Code::unauthenticated));
    json::object object = TRY(parse_json_object(answer), "etcd's answer");
    std::string token = TRY(JsonReader(object).required_string("token"));
    const std::scoped_lock lock(state_->mutex);
    state_->token = std::move(token);
    return {};
}

Result<EtcdAnswer> EtcdClient::transact(const std::vector<EtcdCompare>& compares,
                                        const std::vector<EtcdOperation>& then) {
    json::object body;
    json::array compare_list;
    for (const EtcdCompare& compare : compares) {
        json::object item;
        item["key"] = base64_encode(compare.key);
        item["target"] = "MOD";
        item["result"] = "EQUAL";
        item["mod_revision"] = std::to_string(compare.mod_revision);
        compare_list.emplace_back(std::move(item));
    }
    body["compare"] = std::move(compare_list);
    json::array operations;
    for (const EtcdOperation& operation : then) operations.emplace_back(operation_json(operation));
    body["success"] = std::move(operations);
    std::string answer = TRY(call("/v3/kv/txn", to_json(body)));
    return parse_etcd_answer(answer);
}

Result<EtcdWatchStream> EtcdClient::watch(const std::string& key, std::int64_t from) {
    json::object create;
    create["key"] = base64_encode(key);
    create["start_revision"] = std::to_string(from);
    json::object body;
    body["create_request"] = std::move(create);
    http::ClientResponse response = TRY(post("/v3/watch", to_json(body)));
    if (!response.ok()) {
        std::string answer = TRY(response.read_all(max_answer_bytes), "etcd");
        return std::unexpected(error_of(response.status(), answer));
    }
    return EtcdWatchStream(std::move(response));
}

}  // namespace wherry::store
