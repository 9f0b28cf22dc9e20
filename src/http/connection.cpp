#include "http/connection.hpp"

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <ctime>
#include <exception>

#include "base/log.hpp"

namespace wherry::http::detail {
namespace {

constexpr std::size_t read_size = 16U << 10U;
// What a client may still send of a body that nobody reads, before the connection is closed instead.
constexpr std::size_t drain_limit = 256U << 10U;
constexpr std::chrono::milliseconds linger_timeout{2'000};

std::string_view http_date() {
    // Made once a second; the executor is one thread's.
    thread_local std::time_t made_at = 0;
    thread_local char text[40] = {};
    std::time_t now = std::time(nullptr);
    if (now != made_at) {
        std::tm parts{};
        ::gmtime_r(&now, &parts);
        std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts);
        made_at = now;
    }
    return text;
}

void append_header(std::string& out, std::string_view name, std::string_view value) {
    out += name;
    out += ": ";
    // A value with line breaks would be headers of its own.
    for (char c : value) out += c == '\r' || c == '\n' || c == '\0' ? ' ' : c;
    out += "\r\n";
}

}  // namespace

ServerState::ServerState(asio::any_io_executor on, Handler serve, ServerOptions limits)
    : executor(std::move(on)), handler(std::move(serve)), options(std::move(limits)), changed(executor) {}

ServerConnection::ServerConnection(std::shared_ptr<ServerState> server, std::unique_ptr<Transport> transport,
                                   std::string peer)
    : server_(std::move(server)),
      transport_(std::move(transport)),
      peer_(std::move(peer)),
      timer_(server_->executor),
      parser_(MessageParser::Kind::request, server_->options.header_limit_bytes) {
    ++server_->metrics.connections_total;
    ++server_->metrics.connections_open;
}

ServerConnection::~ServerConnection() {
    transport_->close();
    --server_->metrics.connections_open;
    server_->connections.erase(this);
    server_->changed.cancel();
}

void ServerConnection::start() {
    server_->connections.emplace(this, weak_from_this());
    auto self = shared_from_this();
    asio::co_spawn(server_->executor, run(),
                   asio::bind_cancellation_slot(cancellation_.slot(), [self](const std::exception_ptr& thrown) {
                       self->timer_.cancel();
                       if (thrown) log_error("http.connection_failed", {{"peer", self->peer_}});
                   }));
}

void ServerConnection::finish_up() {
    keep_alive_ = false;
    if (idle_) transport_->close();
}

void ServerConnection::cancel() {
    cancelled_ = true;
    cancellation_.emit(asio::cancellation_type::terminal);
}

// ---- time ----

void ServerConnection::set_deadline(std::chrono::milliseconds after) {
    deadline_ = after.count() > 0 ? Clock::now() + after : no_deadline;
    if (deadline_ < armed_) watch_clock();
}

// One timer serves all deadlines: it is armed anew only when a nearer one is set, and otherwise looks again when it
// fires.
void ServerConnection::watch_clock() {
    armed_ = deadline_;
    timer_.expires_at(armed_);
    timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
        auto self = weak.lock();
        if (error || !self) return;
        self->armed_ = no_deadline;
        if (self->deadline_ == no_deadline) return;
        if (Clock::now() < self->deadline_) {
            self->watch_clock();
            return;
        }
        self->deadline_ = no_deadline;
        self->timed_out_ = true;
        self->transport_->cancel();
    });
}

// ---- requests ----

asio::awaitable<void> ServerConnection::run() {
    auto self = shared_from_this();
    // Cancellation comes back as an error value, not as an exception.
    co_await asio::this_coro::throw_if_cancelled(false);
    set_deadline(server_->options.handshake_timeout);
    auto shaken = co_await transport_->handshake();
    clear_deadline();
    if (!shaken) {
        log_debug("http.handshake_failed", {{"peer", peer_}, {"error", shaken.error()}});
        co_return;
    }
    while (co_await serve_one()) {
    }
    if (phase_ != Phase::hijacked) transport_->close();
}

asio::awaitable<bool> ServerConnection::serve_one() {
    parser_.reset();
    phase_ = Phase::open;
    body_started_ = false;
    chunked_response_ = false;
    head_only_ = false;
    timed_out_ = false;
    response_headers_.clear();
    idle_ = input_offset_ == input_.size();

    Result<bool> head = co_await read_head();
    clear_deadline();
    idle_ = false;
    if (!head) {
        if (cancelled_) co_return false;
        const Error& error = head.error();
        unsigned status = 400;
        switch (error.code()) {
            case Code::resource_exhausted:
                status = 431;
                break;
            case Code::unimplemented:
                status = error.message().contains("version") ? 505 : 501;
                break;
            case Code::deadline_exceeded:
                status = 408;
                break;
            case Code::invalid_argument:
                break;
            default:
                co_return false;  // the connection broke: nobody is there to answer
        }
        ++server_->metrics.malformed_total;
        co_await refuse(status, error.message());
        co_return false;
    }
    if (!*head) co_return false;

    ++server_->metrics.requests_total;
    keep_alive_ = parser_.head().keep_alive && !server_->stopping;
    head_only_ = parser_.head().method == "HEAD";
    if (auto made = make_request(); !made) {
        ++server_->metrics.malformed_total;
        co_await refuse(400, made.error().message());
        co_return false;
    }
    co_await run_handler();
    clear_deadline();

    if (phase_ == Phase::hijacked) co_return false;
    if (phase_ == Phase::open && !cancelled_) {
        keep_alive_ = false;
        co_await send(500, "application/json", R"({"message":"no answer was made"})");
    }
    if (phase_ == Phase::streaming) co_await finish();
    if (cancelled_ || phase_ != Phase::sent) co_return false;
    if (!co_await drain_body()) co_return false;
    if (!keep_alive_) {
        co_await linger();
        co_return false;
    }
    co_return true;
}

// False: the client closed between requests.
asio::awaitable<Result<bool>> ServerConnection::read_head() {
    bool waiting = true;  // for the first byte
    while (true) {
        if (input_offset_ < input_.size()) {
            std::string_view pending = std::string_view(input_).substr(input_offset_);
            // Some clients end a body with an extra line break (RFC 9112 section 2.2).
            if (!parser_.started() && (pending.front() == '\r' || pending.front() == '\n')) {
                ++input_offset_;
                continue;
            }
            CO_TRY(std::size_t consumed, parser_.parse_head(pending));
            input_offset_ += consumed;
            if (parser_.head_done()) co_return true;
            if (waiting) {
                waiting = false;
                idle_ = false;
                set_deadline(server_->options.header_timeout);
            }
        } else if (waiting) {
            set_deadline(server_->options.idle_timeout);
        }
        auto filled = co_await fill();
        if (filled) continue;
        if (timed_out_ && !waiting) co_return fail(Code::deadline_exceeded, "the request took too long to arrive");
        if (waiting || filled.error().code() == Code::data_loss) co_return false;
        co_return std::unexpected(std::move(filled).error());
    }
}

asio::awaitable<Result<>> ServerConnection::fill() {
    if (cancelled_) co_return fail(Code::cancelled, "the server stops");
    if (input_offset_ == input_.size()) {
        input_.clear();
        input_offset_ = 0;
    } else if (input_offset_ > 0) {
        input_.erase(0, input_offset_);
        input_offset_ = 0;
    }
    std::size_t before = input_.size();
    input_.resize(before + read_size);
    // SAFETY: chars as bytes.
    auto count = co_await transport_->read_some({reinterpret_cast<std::byte*>(input_.data()) + before, read_size});
    input_.resize(before + (count ? *count : 0));
    if (!count) co_return std::unexpected(std::move(count).error());
    if (*count == 0) co_return fail(Code::data_loss, "the client closed the connection");
    co_return Result<>{};
}

Result<> ServerConnection::make_request() {
    MessageHead& head = parser_.head();
    request_ = Request{};
    request_.peer = peer_;
    request_.client_certificate = transport_->client_certificate();
    request_.method = std::move(head.method);
    request_.target = std::move(head.target);
    request_.headers = std::move(head.headers);
    request_.has_body = !parser_.done();
    std::string_view target = request_.target;
    // Absolute form (RFC 9112 section 3.2.2), and "*" of OPTIONS.
    if (!target.starts_with('/')) {
        std::size_t scheme = target.find("://");
        if (target == "*") {
            target = "/*";
        } else if (scheme != std::string_view::npos) {
            std::size_t slash = target.find('/', scheme + 3);
            target = slash == std::string_view::npos ? "/" : target.substr(slash);
        } else {
            return fail(Code::invalid_argument, "malformed request target");
        }
    }
    target = target.substr(0, target.find('#'));
    std::size_t question = target.find('?');
    if (question != std::string_view::npos) request_.raw_query = target.substr(question + 1);
    request_.path = TRY(percent_decode(target.substr(0, question)));
    if (request_.path.contains('\0')) return fail(Code::invalid_argument, "malformed request target");
    request_.query = TRY(Query::parse(request_.raw_query));
    return {};
}

asio::awaitable<void> ServerConnection::run_handler() {
    Exchange exchange(*this);
    // The edge where an exception of a library would end up: it costs one response, not the daemon.
    try {
        co_await server_->handler(exchange);
    } catch (const std::exception& thrown) {
        log_error("http.handler_threw", {{"target", request_.target}, {"what", thrown.what()}});
        abort();
    }
}

asio::awaitable<void> ServerConnection::refuse(unsigned status, std::string message) {
    keep_alive_ = false;
    std::string body = "{\"message\":\"";
    for (char c : message)
        if (c >= ' ' && c != '"' && c != '\\' && c < 0x7f) body += c;
    body += "\"}\n";
    co_await send(status, "application/json", std::move(body));
    co_await linger();
}

// ---- bodies ----

asio::awaitable<Result<std::size_t>> ServerConnection::read_body(std::span<std::byte> buffer) {
    if (parser_.done() || buffer.empty()) co_return std::size_t{0};
    if (!body_started_) {
        body_started_ = true;
        if (request_.headers.lists("Expect", "100-continue") && input_offset_ == input_.size())
            CO_CHECK(co_await transport_->write({"HTTP/1.1 100 Continue\r\n\r\n", {}, {}}));
    }
    while (!parser_.done()) {
        std::string_view pending = std::string_view(input_).substr(input_offset_);
        if (!pending.empty()) {
            CO_TRY(auto progress, parser_.parse_body(pending, buffer));
            input_offset_ += progress.consumed;
            if (progress.produced > 0) co_return progress.produced;
            if (progress.consumed > 0) continue;
            // A chunk header longer than anybody needs.
            if (pending.size() > read_size) co_return fail(Code::invalid_argument, "malformed chunk header");
        }
        set_deadline(server_->options.body_idle_timeout);
        auto filled = co_await fill();
        clear_deadline();
        if (filled) continue;
        keep_alive_ = false;
        if (timed_out_) co_return fail(Code::deadline_exceeded, "the request's body took too long to arrive");
        if (filled.error().code() == Code::data_loss) co_return fail(Code::unavailable, "unexpected EOF");
        co_return std::unexpected(std::move(filled).error());
    }
    co_return std::size_t{0};
}

// False: too much is left, the connection ends.
asio::awaitable<bool> ServerConnection::drain_body() {
    if (parser_.done()) co_return true;
    // A client that waits for 100 Continue and got an answer sends no body; which of the two it does is unknown.
    if (!body_started_ && request_.headers.lists("Expect", "100-continue")) keep_alive_ = false;
    body_started_ = true;
    if (!keep_alive_) {
        co_await linger();
        co_return false;
    }
    std::array<std::byte, 4096> buffer{};
    std::size_t total = 0;
    while (true) {
        auto count = co_await read_body(buffer);
        if (!count) co_return false;
        if (*count == 0) co_return true;
        total += *count;
        if (total > drain_limit) {
            co_await linger();
            co_return false;
        }
    }
}

// Ends our side and reads what still comes for a moment: closing with unread bytes would take the response away from
// the client (a reset overtakes it).
asio::awaitable<void> ServerConnection::linger() {
    if (cancelled_ || timed_out_) co_return;
    set_deadline(linger_timeout);
    if (co_await transport_->shutdown_write()) {
        std::array<std::byte, 4096> buffer{};
        std::size_t total = 0;
        while (total < (64U << 20U)) {
            auto count = co_await transport_->read_some(buffer);
            if (!count || *count == 0) break;
            total += *count;
        }
    }
    clear_deadline();
}

// ---- responses ----

bool ServerConnection::body_allowed(unsigned status) const {
    return !head_only_ && status != 204 && status != 304 && status >= 200;
}

std::string ServerConnection::make_head(unsigned status, std::string_view content_type,
                                        std::optional<std::size_t> length) {
    std::string head;
    head.reserve(512);
    head += "HTTP/1.1 ";
    head += std::to_string(status);
    head += ' ';
    head += reason_phrase(status);
    head += "\r\n";
    for (const auto& [name, value] : response_headers_) append_header(head, name, value);
    if (!server_->options.server_name.empty() && !response_headers_.has("Server"))
        append_header(head, "Server", server_->options.server_name);
    append_header(head, "Date", http_date());
    if (!content_type.empty()) append_header(head, "Content-Type", content_type);
    if (length) append_header(head, "Content-Length", std::to_string(*length));
    return head;
}

asio::awaitable<Result<>> ServerConnection::send(unsigned status, std::string content_type, std::string body) {
    co_return co_await send_view(status, std::move(content_type), body);
}

asio::awaitable<Result<>> ServerConnection::send_view(unsigned status, std::string content_type,
                                                      std::string_view body) {
    if (phase_ != Phase::open) co_return fail(Code::conflict, "the response is already under way");
    if (cancelled_) co_return fail(Code::cancelled, "the server stops");
    phase_ = Phase::sent;
    std::optional<std::size_t> length = body.size();
    if (status == 204 || status == 304 || status < 200) length.reset();
    std::string head = make_head(status, content_type, length);
    if (!parser_.done() && !body_started_ && request_.headers.lists("Expect", "100-continue")) keep_alive_ = false;
    if (!keep_alive_)
        head += "Connection: close\r\n";
    else if (parser_.head().version < 11)
        head += "Connection: keep-alive\r\n";
    head += "\r\n";
    if (!body_allowed(status)) body = {};
    set_deadline(server_->options.send_timeout);
    auto written = co_await transport_->write({head, body, {}});
    clear_deadline();
    if (!written) phase_ = Phase::broken;
    co_return written;
}

asio::awaitable<Result<>> ServerConnection::stream(unsigned status, std::string content_type) {
    if (phase_ != Phase::open) co_return fail(Code::conflict, "the response is already under way");
    if (cancelled_) co_return fail(Code::cancelled, "the server stops");
    phase_ = Phase::streaming;
    chunked_response_ = parser_.head().version >= 11 && body_allowed(status);
    // Without chunking the end of the body is the end of the connection.
    if (!chunked_response_ && body_allowed(status)) keep_alive_ = false;
    std::string head = make_head(status, content_type, std::nullopt);
    if (chunked_response_) head += "Transfer-Encoding: chunked\r\n";
    if (!keep_alive_) head += "Connection: close\r\n";
    head += "\r\n";
    auto written = co_await transport_->write({head, {}, {}});
    if (!written) phase_ = Phase::broken;
    co_return written;
}

asio::awaitable<Result<>> ServerConnection::write(std::string_view data) {
    if (phase_ != Phase::streaming) co_return fail(Code::unavailable, "the client is gone");
    if (cancelled_) co_return fail(Code::cancelled, "the server stops");
    if (data.empty() || head_only_) co_return Result<>{};
    Result<> written;
    if (chunked_response_) {
        char size[20];
        int length = std::snprintf(size, sizeof size, "%zx\r\n", data.size());
        written = co_await transport_->write({std::string_view(size, static_cast<std::size_t>(length)), data, "\r\n"});
    } else {
        written = co_await transport_->write({data, {}, {}});
    }
    if (!written) phase_ = Phase::broken;
    co_return written;
}

asio::awaitable<Result<>> ServerConnection::finish() {
    if (phase_ != Phase::streaming) co_return Result<>{};
    phase_ = Phase::sent;
    if (!chunked_response_ || cancelled_) co_return Result<>{};
    set_deadline(server_->options.send_timeout);
    auto written = co_await transport_->write({"0\r\n\r\n", {}, {}});
    clear_deadline();
    if (!written) phase_ = Phase::broken;
    co_return written;
}

void ServerConnection::abort() {
    phase_ = Phase::broken;
    keep_alive_ = false;
    transport_->close();
}

// ---- raw streams ----

namespace {

class HijackedStream final : public Stream {
  public:
    explicit HijackedStream(std::shared_ptr<ServerConnection> connection) : connection_(std::move(connection)) {}
    HijackedStream(const HijackedStream&) = delete;
    HijackedStream& operator=(const HijackedStream&) = delete;
    ~HijackedStream() override { close(); }

    asio::awaitable<Result<std::size_t>> read_some(std::span<std::byte> buffer) override {
        co_return co_await connection_->raw_read(buffer);
    }
    asio::awaitable<Result<>> write(std::string_view data) override { co_return co_await connection_->raw_write(data); }
    asio::awaitable<Result<>> shutdown_write() override {
        co_return co_await connection_->transport().shutdown_write();
    }
    asio::awaitable<Result<>> wait_closed() override { co_return co_await connection_->transport().wait_closed(); }
    void cancel() override { connection_->transport().cancel(); }
    void close() override { connection_->transport().close(); }
    int native_fd() const override { return connection_->transport().native_fd(); }

  private:
    std::shared_ptr<ServerConnection> connection_;
};

}  // namespace

bool ServerConnection::wants_upgrade() const {
    return request_.headers.lists("Connection", "upgrade") && request_.headers.has("Upgrade");
}

asio::awaitable<Result<std::unique_ptr<Stream>>> ServerConnection::hijack(std::string content_type) {
    if (phase_ != Phase::open) co_return fail(Code::conflict, "the response is already under way");
    if (cancelled_) co_return fail(Code::cancelled, "the server stops");
    phase_ = Phase::hijacked;
    std::string head;
    if (wants_upgrade()) {
        head = "HTTP/1.1 101 UPGRADED\r\n";
        if (!content_type.empty()) head += "Content-Type: " + content_type + "\r\n";
        head += "Connection: Upgrade\r\nUpgrade: ";
        std::string_view protocol = request_.headers.get("Upgrade");
        head += protocol.substr(0, protocol.find(','));
        head += "\r\n";
    } else {
        head = "HTTP/1.1 200 OK\r\nContent-Type: " + content_type + "\r\n";
    }
    for (const auto& [name, value] : response_headers_) append_header(head, name, value);
    head += "\r\n";
    CO_CHECK(co_await transport_->write({head, {}, {}}));
    std::unique_ptr<Stream> stream = std::make_unique<HijackedStream>(shared_from_this());
    co_return stream;
}

asio::awaitable<Result<std::size_t>> ServerConnection::raw_read(std::span<std::byte> buffer) {
    if (cancelled_) co_return fail(Code::cancelled, "the server stops");
    if (input_offset_ < input_.size()) {
        std::size_t count = std::min(buffer.size(), input_.size() - input_offset_);
        std::memcpy(buffer.data(), input_.data() + input_offset_, count);
        input_offset_ += count;
        if (input_offset_ == input_.size()) {
            input_ = {};
            input_offset_ = 0;
        }
        co_return count;
    }
    co_return co_await transport_->read_some(buffer);
}

asio::awaitable<Result<>> ServerConnection::raw_write(std::string_view data) {
    if (cancelled_) co_return fail(Code::cancelled, "the server stops");
    co_return co_await transport_->write({data, {}, {}});
}

// ---- clients that go away ----

namespace {

struct Watched {
    asio::cancellation_signal signal;
    std::optional<Result<>> result;
};

asio::awaitable<Result<>> quietly(asio::awaitable<Result<>> work) {
    co_await asio::this_coro::throw_if_cancelled(false);
    co_return co_await std::move(work);
}

}  // namespace

asio::awaitable<Result<>> ServerConnection::while_connected(asio::awaitable<Result<>> work,
                                                            std::function<void()> on_gone) {
    auto watched = std::make_shared<Watched>();
    asio::steady_timer ended(server_->executor, asio::steady_timer::time_point::max());
    auto self = shared_from_this();
    asio::steady_timer* wake = &ended;  // lives in this frame, which ends after the handler below ran
    asio::co_spawn(
        server_->executor, quietly(std::move(work)),
        asio::bind_cancellation_slot(watched->signal.slot(),
                                     [self, watched, wake](const std::exception_ptr& thrown, Result<> result) {
                                         if (thrown)
                                             watched->result.emplace(fail(Code::internal, "the request failed"));
                                         else
                                             watched->result.emplace(std::move(result));
                                         wake->cancel();
                                         self->transport_->cancel();
                                     }));
    bool gone = false;
    auto end_work = [&] {
        gone = true;
        if (on_gone) on_gone();
        watched->signal.emit(asio::cancellation_type::terminal);
    };
    while (!watched->result) {
        bool watching = !gone && !cancelled_ && input_.size() - input_offset_ < read_size;
        if (watching) {
            auto filled = co_await fill();  // what a client pipelines meanwhile is kept
            if (filled || watched->result) continue;
            end_work();
        } else {
            if (cancelled_ && !gone) {
                end_work();
                continue;
            }
            co_await ended.async_wait(asio::as_tuple(asio::use_awaitable));
        }
    }
    if (gone) {
        keep_alive_ = false;
        co_return fail(Code::cancelled, "the client went away");
    }
    co_return std::move(*watched->result);
}

}  // namespace wherry::http::detail
