#include "http/server.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <charconv>

#include "base/log.hpp"
#include "http/connection.hpp"
#include "http/transport.hpp"

namespace wherry::http {

// ---- Exchange ----

const Request& Exchange::request() const {
    return connection_.request();
}
asio::awaitable<Result<std::size_t>> Exchange::read_body(std::span<std::byte> buffer) {
    return connection_.read_body(buffer);
}
asio::awaitable<Result<std::string>> Exchange::read_all(std::size_t limit) {
    std::string body;
    while (true) {
        std::size_t before = body.size();
        std::size_t step = std::min<std::size_t>(std::max<std::size_t>(before, 4096), 256U << 10U);
        body.resize(before + step);
        // SAFETY: chars as bytes.
        auto count = co_await connection_.read_body({reinterpret_cast<std::byte*>(body.data()) + before, step});
        body.resize(before + (count ? *count : 0));
        if (!count) co_return std::unexpected(std::move(count).error());
        if (body.size() > limit) co_return fail(Code::resource_exhausted, "the request's body is too large");
        if (*count == 0) co_return body;
    }
}
void Exchange::close_after_response() {
    connection_.close_after_response();
}
void Exchange::set_header(std::string_view name, std::string value) {
    connection_.set_header(name, std::move(value));
}
asio::awaitable<Result<>> Exchange::send(unsigned status, std::string content_type, std::string body) {
    return connection_.send(status, std::move(content_type), std::move(body));
}
asio::awaitable<Result<>> Exchange::send_shared(unsigned status, std::string content_type,
                                                std::shared_ptr<const std::string> body) {
    co_return co_await connection_.send_view(status, std::move(content_type), *body);
}
asio::awaitable<Result<>> Exchange::send(unsigned status) {
    return connection_.send(status, {}, {});
}
asio::awaitable<Result<>> Exchange::stream(unsigned status, std::string content_type) {
    return connection_.stream(status, std::move(content_type));
}
asio::awaitable<Result<>> Exchange::write(std::string_view data) {
    return connection_.write(data);
}
asio::awaitable<Result<>> Exchange::finish() {
    return connection_.finish();
}
void Exchange::abort() {
    connection_.abort();
}
asio::awaitable<Result<std::unique_ptr<Stream>>> Exchange::hijack(std::string content_type) {
    return connection_.hijack(std::move(content_type));
}
bool Exchange::wants_upgrade() const {
    return connection_.wants_upgrade();
}
asio::awaitable<Result<>> Exchange::while_connected(asio::awaitable<Result<>> work, std::function<void()> on_gone) {
    return connection_.while_connected(std::move(work), std::move(on_gone));
}
bool Exchange::responded() const {
    return connection_.responded();
}

// ---- listening ----

namespace {

constexpr int backlog = 1024;

Result<std::uint16_t> parse_port(std::string_view text) {
    unsigned value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || value > 65535)
        return fail(Code::invalid_argument, "invalid port \"" + std::string(text) + "\"");
    return static_cast<std::uint16_t>(value);
}

// A group's number out of /etc/group, without NSS.
Result<gid_t> find_group(const std::string& group) {
    unsigned number = 0;
    auto [end, error] = std::from_chars(group.data(), group.data() + group.size(), number);
    if (error == std::errc{} && end == group.data() + group.size()) return number;
    std::string content = TRY(read_file("/etc/group"));
    std::string_view rest = content;
    while (!rest.empty()) {
        std::size_t newline = rest.find('\n');
        std::string_view line = rest.substr(0, newline);
        rest = newline == std::string_view::npos ? std::string_view{} : rest.substr(newline + 1);
        std::size_t first = line.find(':');
        if (first == std::string_view::npos || line.substr(0, first) != group) continue;
        std::size_t second = line.find(':', first + 1);
        if (second == std::string_view::npos) continue;
        std::string_view id = line.substr(second + 1, line.find(':', second + 1) - second - 1);
        auto parsed = std::from_chars(id.data(), id.data() + id.size(), number);
        if (parsed.ec == std::errc{}) return number;
    }
    return fail(Code::not_found, "group " + group + " not found");
}

Result<Fd> bind_unix(const Listen& where) {
    if (where.path.empty() || where.path.front() != '/')
        return fail(Code::invalid_argument, "a unix socket needs an absolute path");
    struct stat info{};
    if (::lstat(where.path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode) && connect_unix(where.path))
        return fail(Code::conflict, "somebody listens on " + where.path + " already");
    std::size_t slash = where.path.rfind('/');
    if (slash > 0) TRY(make_directories(where.path.substr(0, slash), 0755));
    Fd socket = TRY(listen_unix(where.path, where.mode, backlog));
    if (!where.group.empty()) {
        gid_t group = TRY(find_group(where.group));
        if (::chown(where.path.c_str(), static_cast<uid_t>(-1), group) < 0) return fail_errno("chown " + where.path);
    }
    return socket;
}

Result<Fd> bind_tcp(const Listen& where) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
    std::string host = where.host.empty() ? "127.0.0.1" : where.host == "localhost" ? "127.0.0.1" : where.host;
    addrinfo* found = nullptr;
    if (int error = ::getaddrinfo(host.c_str(), std::to_string(where.port).c_str(), &hints, &found); error != 0)
        return fail(Code::invalid_argument, "listen address " + host + ": " + ::gai_strerror(error));
    std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, &::freeaddrinfo);
    Fd socket(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return fail_errno("socket");
    int one = 1;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (::bind(socket.get(), found->ai_addr, found->ai_addrlen) < 0)
        return fail_errno("bind " + host + ":" + std::to_string(where.port));
    if (::listen(socket.get(), backlog) < 0) return fail_errno("listen");
    return socket;
}

std::string describe_address(const sockaddr_storage& address) {
    char text[INET6_ADDRSTRLEN] = {};
    if (address.ss_family == AF_INET) {
        // SAFETY: the family says which structure it is.
        const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
        ::inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
        return std::string(text) + ":" + std::to_string(ntohs(v4.sin_port));
    }
    if (address.ss_family == AF_INET6) {
        // SAFETY: the family says which structure it is.
        const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
        ::inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
        return "[" + std::string(text) + "]:" + std::to_string(ntohs(v6.sin6_port));
    }
    return "unix";
}

std::string socket_address(int fd) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    // SAFETY: the generic socket address of getsockname(2).
    ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
    return describe_address(address);
}

}  // namespace

namespace detail {

struct Listener {
    Listener(const asio::any_io_executor& executor, Fd socket) : descriptor(executor, socket.release()) {}
    asio::posix::stream_descriptor descriptor;
    std::shared_ptr<TlsContext> tls;
    std::string address;
    std::string remove_path;  // of a unix socket that is ours
};

namespace {

asio::awaitable<void> accept_all(std::shared_ptr<ServerState> state, std::shared_ptr<Listener> listener) {
    co_await asio::this_coro::throw_if_cancelled(false);
    asio::steady_timer pause(state->executor);
    while (!state->stopping) {
        auto [error] = co_await listener->descriptor.async_wait(asio::posix::descriptor_base::wait_read, as_result);
        if (error || state->stopping) co_return;
        // Several at a time, and then the others' turn.
        for (int i = 0; i < 64; ++i) {
            if (state->metrics.connections_open >= state->options.connection_limit) {
                pause.expires_after(std::chrono::milliseconds(20));
                co_await pause.async_wait(as_result);
                break;
            }
            sockaddr_storage address{};
            socklen_t length = sizeof address;
            // SAFETY: the generic socket address of accept(2).
            Fd socket(::accept4(listener->descriptor.native_handle(), reinterpret_cast<sockaddr*>(&address), &length,
                                SOCK_CLOEXEC | SOCK_NONBLOCK));
            if (!socket) {
                if (errno == EAGAIN || errno == EWOULDBLOCK) break;
                if (errno == ECONNABORTED || errno == EINTR) continue;
                log_warn("http.accept_failed", {{"errno", errno}});
                pause.expires_after(std::chrono::milliseconds(100));
                co_await pause.async_wait(as_result);
                break;
            }
            if (address.ss_family == AF_INET || address.ss_family == AF_INET6) {
                int one = 1;
                ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                ::setsockopt(socket.get(), SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
            }
            std::string peer = length > sizeof(sa_family_t) ? describe_address(address) : "unix";
            auto transport = listener->tls ? listener->tls->make_transport(state->executor, std::move(socket))
                                           : make_plain_transport(state->executor, std::move(socket));
            std::make_shared<ServerConnection>(state, std::move(transport), std::move(peer))->start();
        }
    }
}

}  // namespace
}  // namespace detail

struct ServerListeners {
    std::vector<std::shared_ptr<detail::Listener>> items;
    void stop() {
        for (auto& listener : items) {
            listener->descriptor.close();
            if (!listener->remove_path.empty()) ::unlink(listener->remove_path.c_str());
            listener->remove_path.clear();
        }
        items.clear();
    }
};

Server::Server(std::shared_ptr<detail::ServerState> state)
    : state_(std::move(state)), listeners_(std::make_unique<ServerListeners>()) {}

Server::~Server() {
    state_->stopping = true;
    listeners_->stop();
    auto connections = state_->connections;
    for (auto& [raw, weak] : connections)
        if (auto connection = weak.lock()) connection->cancel();
}

Result<std::unique_ptr<Server>> Server::create(asio::any_io_executor executor, Handler handler, ServerOptions options) {
    if (!handler) return fail(Code::invalid_argument, "a server needs a handler");
    auto state = std::make_shared<detail::ServerState>(std::move(executor), std::move(handler), std::move(options));
    return std::unique_ptr<Server>(new Server(std::move(state)));
}

Result<> Server::listen(const Listen& where) {
    std::shared_ptr<TlsContext> tls;
    if (where.kind == Listen::Kind::tls) tls = TRY(make_tls_context(where.tls));
    Fd socket;
    switch (where.kind) {
        case Listen::Kind::unix_socket:
            socket = TRY(bind_unix(where));
            break;
        case Listen::Kind::tcp:
        case Listen::Kind::tls:
            socket = TRY(bind_tcp(where));
            break;
        case Listen::Kind::inherited: {
            int listening = 0;
            socklen_t length = sizeof listening;
            if (::getsockopt(where.fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0 || listening == 0)
                return fail(Code::invalid_argument,
                            "descriptor " + std::to_string(where.fd) + " is not a listening socket");
            socket = Fd(where.fd);
            TRY(set_nonblocking(socket.get()));
            break;
        }
    }
    std::string address = where.kind == Listen::Kind::unix_socket ? "unix://" + where.path
                          : where.kind == Listen::Kind::inherited ? "fd://" + std::to_string(where.fd)
                                                                  : "tcp://" + socket_address(socket.get());
    auto listener = std::make_shared<detail::Listener>(state_->executor, std::move(socket));
    listener->tls = std::move(tls);
    listener->address = std::move(address);
    if (where.kind == Listen::Kind::unix_socket) listener->remove_path = where.path;
    listeners_->items.push_back(listener);
    asio::co_spawn(state_->executor, detail::accept_all(state_, listener), asio::detached);
    return {};
}

std::vector<std::string> Server::addresses() const {
    std::vector<std::string> texts;
    for (const auto& listener : listeners_->items) texts.push_back(listener->address);
    return texts;
}

asio::awaitable<void> Server::shutdown(std::chrono::milliseconds grace) {
    auto state = state_;
    state->stopping = true;
    listeners_->stop();
    auto each = [&](void (detail::ServerConnection::*action)()) {
        auto connections = state->connections;
        for (auto& [raw, weak] : connections)
            if (auto connection = weak.lock()) ((*connection).*action)();
    };
    each(&detail::ServerConnection::finish_up);
    state->changed.expires_after(grace);
    bool cancelled = false;
    while (!state->connections.empty()) {
        if (!cancelled && std::chrono::steady_clock::now() >= state->changed.expiry()) {
            cancelled = true;
            each(&detail::ServerConnection::cancel);
            state->changed.expires_at(asio::steady_timer::time_point::max());
            continue;
        }
        co_await state->changed.async_wait(as_result);
    }
}

ServerMetrics Server::metrics() const {
    return state_->metrics;
}

Result<Listen> parse_listen(std::string_view text) {
    Listen where;
    if (text.starts_with("unix://")) {
        where.path = text.substr(7);
        if (where.path.empty()) return fail(Code::invalid_argument, "unix:// needs a path");
        return where;
    }
    if (text.starts_with("fd://")) {
        // Socket activation hands over descriptors from 3 on (sd_listen_fds(3)).
        where.kind = Listen::Kind::inherited;
        std::string_view number = text.substr(5);
        where.fd = number.empty() || number == "*" ? 3 : TRY(parse_port(number));
        return where;
    }
    if (!text.starts_with("tcp://"))
        return fail(Code::invalid_argument,
                    "invalid bind address \"" + std::string(text) + "\": expected unix://, tcp:// or fd://");
    where.kind = Listen::Kind::tcp;
    std::string_view rest = text.substr(6);
    while (rest.ends_with('/')) rest.remove_suffix(1);
    std::string_view host;
    std::string_view port;
    if (rest.starts_with('[')) {
        std::size_t end = rest.find(']');
        if (end == std::string_view::npos)
            return fail(Code::invalid_argument, "invalid bind address \"" + std::string(text) + "\"");
        host = rest.substr(1, end - 1);
        port = rest.substr(end + 1);
    } else {
        std::size_t colon = rest.rfind(':');
        host = rest.substr(0, colon);
        port = colon == std::string_view::npos ? std::string_view{} : rest.substr(colon);
    }
    where.host = host;
    where.port = 2375;
    if (!port.empty()) {
        if (port.front() != ':')
            return fail(Code::invalid_argument, "invalid bind address \"" + std::string(text) + "\"");
        where.port = TRY(parse_port(port.substr(1)));
    }
    return where;
}

}  // namespace wherry::http
