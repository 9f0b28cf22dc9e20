#include "http/client.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <mutex>
#include <utility>
#include <vector>

#include "http/client_connection.hpp"
#include "http/parser.hpp"

namespace wherry::http {

using detail::BlockingConnection;

std::string Endpoint::describe() const {
    if (kind == Kind::unix_socket) return "unix://" + path;
    bool brackets = host.contains(':');
    return "tcp://" + (brackets ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<Endpoint> parse_endpoint(std::string_view text, std::optional<ClientTls> tls) {
    Endpoint endpoint;
    auto wrong = [&](std::string_view why) {
        return fail(Code::invalid_argument,
                    "unable to parse docker host \"" + std::string(text) + "\": " + std::string(why));
    };
    std::size_t scheme_end = text.find("://");
    if (scheme_end == std::string_view::npos) return wrong("expected unix:// or tcp://");
    std::string_view scheme = text.substr(0, scheme_end);
    std::string_view rest = text.substr(scheme_end + 3);
    if (scheme == "unix") {
        if (rest.empty()) return wrong("no path");
        endpoint.path = rest;
        return endpoint;
    }
    if (scheme != "tcp" && scheme != "http" && scheme != "https") return wrong("expected unix:// or tcp://");
    bool with_tls = scheme == "https" || (scheme == "tcp" && tls);
    endpoint.kind = with_tls ? Endpoint::Kind::tls : Endpoint::Kind::tcp;
    if (with_tls && tls) endpoint.tls = std::move(*tls);
    endpoint.port = with_tls ? 2376 : 2375;
    rest = rest.substr(0, rest.find('/'));
    std::string_view port;
    if (rest.starts_with('[')) {
        std::size_t end = rest.find(']');
        if (end == std::string_view::npos) return wrong("missing ']'");
        endpoint.host = rest.substr(1, end - 1);
        port = rest.substr(end + 1);
        if (!port.empty() && port.front() != ':') return wrong("bad port");
    } else {
        std::size_t colon = rest.find(':');
        endpoint.host = rest.substr(0, colon);
        if (colon != std::string_view::npos) port = rest.substr(colon);
    }
    if (endpoint.host.empty()) endpoint.host = "127.0.0.1";
    if (!port.empty()) {
        port.remove_prefix(1);
        unsigned value = 0;
        auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), value);
        if (error != std::errc{} || end != port.data() + port.size() || value == 0 || value > 65535)
            return wrong("bad port");
        endpoint.port = static_cast<std::uint16_t>(value);
    }
    return endpoint;
}

namespace detail {

// Idle connections are kept here; shared by the client and the responses under way.
struct ClientState {
    Endpoint endpoint;
    ClientOptions options;
    std::mutex mutex;
    std::vector<std::unique_ptr<BlockingConnection>> idle;  // guarded by mutex

    std::unique_ptr<BlockingConnection> take_idle() {
        std::scoped_lock lock(mutex);
        while (!idle.empty()) {
            auto connection = std::move(idle.back());
            idle.pop_back();
            if (!connection->is_stale()) return connection;
        }
        return nullptr;
    }
    void keep(std::unique_ptr<BlockingConnection> connection) {
        std::scoped_lock lock(mutex);
        if (idle.size() < 4) idle.push_back(std::move(connection));
    }
};

struct ResponseState {
    std::shared_ptr<ClientState> client;
    std::unique_ptr<BlockingConnection> connection;
    MessageHead head;
    bool body_sent = true;
    bool ended = false;
    // Set for a body of known length, which then bypasses the parser: what is left of it.
    std::optional<std::uint64_t> left;

    // The body is through: the connection may serve another request.
    void end() {
        ended = true;
        if (connection && head.keep_alive && body_sent && !head.until_end_of_stream && head.status != 101 &&
            !connection->has_buffered())
            client->keep(std::move(connection));
    }
};

}  // namespace detail

namespace {

std::string make_head(const ClientRequest& request, const detail::ClientState& state) {
    std::string head;
    head.reserve(512);
    head += request.method;
    head += ' ';
    head += request.target;
    head += " HTTP/1.1\r\n";
    auto add = [&](std::string_view name, std::string_view value) {
        head += name;
        head += ": ";
        for (char c : value) head += c == '\r' || c == '\n' || c == '\0' ? ' ' : c;
        head += "\r\n";
    };
    const Endpoint& endpoint = state.endpoint;
    if (!request.headers.has("Host"))
        add("Host", endpoint.kind == Endpoint::Kind::unix_socket ? "localhost" : endpoint.describe().substr(6));
    if (!request.headers.has("User-Agent") && !state.options.user_agent.empty())
        add("User-Agent", state.options.user_agent);
    for (const auto& [name, value] : request.headers) add(name, value);
    if (!request.content_type.empty()) add("Content-Type", request.content_type);
    if ((request.body_fd >= 0 || request.body_source) && request.body_length)
        add("Content-Length", std::to_string(*request.body_length));
    else if (request.body_fd >= 0 || request.body_source)
        add("Transfer-Encoding", "chunked");
    else if (!request.body.empty() || request.method == "POST" || request.method == "PUT")
        add("Content-Length", std::to_string(request.body.size()));
    if (request.upgrade) {
        add("Connection", "Upgrade");
        add("Upgrade", "tcp");
    }
    head += "\r\n";
    return head;
}

// False: an answer came, or the daemon stopped reading, before everything was sent.
Result<bool> send_streamed_body(BlockingConnection& connection, const ClientRequest& request) {
    std::vector<std::byte> buffer(64U << 10U);
    std::string chunk;
    std::uint64_t left = request.body_length.value_or(0);
    while (true) {
        std::size_t count = 0;
        if (request.body_source) {
            count = TRY(request.body_source(buffer));
        } else {
            ssize_t got = ::read(request.body_fd, buffer.data(), buffer.size());
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) return fail_errno("read the request's body");
            count = static_cast<std::size_t>(got);
        }
        if (connection.is_readable()) return false;
        if (request.body_length) {
            if (count == 0 && left > 0) return fail(Code::internal, "the body ends before its length");
            if (count > left) return fail(Code::internal, "the body is longer than its length");
            left -= count;
            if (count == 0) return true;
            // SAFETY: bytes as chars.
            auto sent = connection.write_all({reinterpret_cast<const char*>(buffer.data()), count});
            if (!sent && sent.error().code() == Code::unavailable) return false;
            if (!sent) return std::unexpected(std::move(sent).error());
            continue;
        }
        char size[20];
        int length = std::snprintf(size, sizeof size, "%zx\r\n", count);
        chunk.assign(size, static_cast<std::size_t>(length));
        // SAFETY: bytes as chars.
        chunk.append(reinterpret_cast<const char*>(buffer.data()), count);
        chunk += "\r\n";
        // A broken pipe may have an answer in front of it: the reader will see.
        if (auto sent = connection.write_all(chunk); !sent) {
            if (sent.error().code() == Code::unavailable) return false;
            return std::unexpected(std::move(sent).error());
        }
        if (count == 0) return true;
    }
}

Result<> read_head(BlockingConnection& connection, const ClientRequest& request, const std::string& peer) {
    connection.parser.reset();
    if (request.method == "HEAD") connection.parser.expect_no_body();
    while (true) {
        std::string_view pending = connection.buffered();
        if (!pending.empty()) {
            auto consumed = connection.parser.parse_head(pending);
            if (!consumed) return fail(Code::data_loss, consumed.error().message());
            connection.consume(*consumed);
            if (connection.parser.head_done()) {
                unsigned status = connection.parser.head().status;
                if (status >= 200 || status == 101) return {};
                connection.parser.reset();  // 100 Continue and its like
                if (request.method == "HEAD") connection.parser.expect_no_body();
                continue;
            }
        }
        std::size_t count = TRY(connection.fill());
        if (count == 0) {
            if (!connection.parser.started() && connection.buffered().empty())
                return fail(Code::unavailable, peer + " closed the connection", ECONNRESET);
            return fail(Code::data_loss, peer + " closed the connection inside a response");
        }
    }
}

}  // namespace

// ---- RawStream ----

RawStream::RawStream(std::unique_ptr<BlockingConnection> connection) : connection_(std::move(connection)) {}
RawStream::~RawStream() = default;
RawStream::RawStream(RawStream&&) noexcept = default;
RawStream& RawStream::operator=(RawStream&&) noexcept = default;
int RawStream::fd() const {
    return connection_->fd();
}
bool RawStream::has_buffered() const {
    return connection_->has_buffered();
}
Result<std::size_t> RawStream::read_some(std::span<std::byte> buffer) {
    return connection_->read_some(buffer);
}
Result<> RawStream::write_all(std::string_view data) {
    return connection_->write_all(data);
}
Result<> RawStream::shutdown_write() {
    return connection_->shutdown_write();
}

// ---- ClientResponse ----

ClientResponse::ClientResponse(std::unique_ptr<detail::ResponseState> state) : state_(std::move(state)) {}
ClientResponse::~ClientResponse() = default;
ClientResponse::ClientResponse(ClientResponse&&) noexcept = default;
ClientResponse& ClientResponse::operator=(ClientResponse&&) noexcept = default;

unsigned ClientResponse::status() const {
    return state_->head.status;
}
const Headers& ClientResponse::headers() const {
    return state_->head.headers;
}
int ClientResponse::fd() const {
    return state_->connection ? state_->connection->fd() : -1;
}
bool ClientResponse::has_buffered() const {
    return state_->connection && state_->connection->has_buffered();
}
bool ClientResponse::at_end() const {
    return state_->ended;
}

Result<std::size_t> ClientResponse::read_some(std::span<std::byte> buffer) {
    if (state_->ended || buffer.empty()) return std::size_t{0};
    BlockingConnection& connection = *state_->connection;
    if (state_->left) {
        const std::size_t room = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), *state_->left));
        auto count = connection.read_some(buffer.first(room));
        if (!count) return count;
        if (*count == 0) {
            state_->ended = true;
            return fail(Code::data_loss, "unexpected end of the answer of " + state_->client->options.peer);
        }
        *state_->left -= *count;
        if (*state_->left == 0) state_->end();
        return count;
    }
    while (true) {
        std::string_view pending = connection.buffered();
        if (!pending.empty()) {
            auto progress = connection.parser.parse_body(pending, buffer);
            if (!progress) {
                state_->ended = true;
                return fail(Code::data_loss, progress.error().message());
            }
            connection.consume(progress->consumed);
            bool done = connection.parser.done();
            if (done) state_->end();
            if (progress->produced > 0) return progress->produced;
            if (done) return std::size_t{0};
            if (progress->consumed > 0) continue;
        }
        std::size_t count = TRY(connection.fill());
        if (count > 0) continue;
        state_->ended = true;
        if (auto complete = connection.parser.end_of_stream(); !complete)
            return fail(Code::data_loss, "unexpected end of the answer of " + state_->client->options.peer);
        return std::size_t{0};
    }
}

Result<std::string> ClientResponse::read_all(std::size_t limit) {
    std::string body;
    std::array<std::byte, 16384> buffer;
    while (true) {
        std::size_t count = TRY(read_some(buffer));
        if (count == 0) return body;
        if (body.size() + count > limit)
            return fail(Code::resource_exhausted, "the answer of " + state_->client->options.peer + " is too large");
        // SAFETY: bytes as chars.
        body.append(reinterpret_cast<const char*>(buffer.data()), count);
    }
}

Result<RawStream> ClientResponse::take_stream() {
    if (!state_->connection) return fail(Code::conflict, "the response has no connection to take");
    if (status() != 101 && !(status() == 200 && state_->head.until_end_of_stream))
        return fail(Code::conflict, "the daemon did not upgrade the connection");
    state_->ended = true;
    state_->connection->set_idle_timeout(std::chrono::milliseconds(0));
    return RawStream(std::move(state_->connection));
}

// ---- Client ----

Client::Client(Endpoint endpoint, ClientOptions options) : state_(std::make_shared<detail::ClientState>()) {
    state_->endpoint = std::move(endpoint);
    state_->options = std::move(options);
}
Client::~Client() = default;
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
const Endpoint& Client::endpoint() const {
    return state_->endpoint;
}

Result<ClientResponse> Client::send(const ClientRequest& request) {
    std::string head = make_head(request, *state_);
    bool streamed = request.body_fd >= 0 || static_cast<bool>(request.body_source);
    if (!streamed) head += request.body;
    // A connection kept idle may be closed by the daemon in the moment it is used: once more on a new one, unless a
    // body was read from somewhere meanwhile.
    for (bool reused = true;;) {
        auto connection = reused ? state_->take_idle() : nullptr;
        reused = connection != nullptr;
        if (!connection) connection = TRY(BlockingConnection::open(state_->endpoint, state_->options));
        Result<> sent = connection->write_all(head);
        bool body_sent = true;
        if (sent && streamed) body_sent = TRY(send_streamed_body(*connection, request));
        // Also after a failed write: the daemon may have answered before it closed.
        Result<> received = read_head(*connection, request, state_->options.peer);
        if (!received) {
            bool unanswered = received.error().code() == Code::unavailable;
            if (reused && unanswered && !streamed) {
                reused = false;
                continue;
            }
            if (!sent) return std::unexpected(std::move(sent).error());
            return std::unexpected(std::move(received).error());
        }
        auto state = std::make_unique<detail::ResponseState>();
        state->client = state_;
        state->head = std::move(connection->parser.head());
        state->body_sent = body_sent && sent.has_value();
        bool complete = connection->parser.done();
        state->connection = std::move(connection);
        if (!complete && !state->head.chunked && state->head.content_length && state->head.status != 101)
            state->left = state->head.content_length;
        if (complete && state->head.status != 101) state->end();
        return ClientResponse(std::move(state));
    }
}

}  // namespace wherry::http
