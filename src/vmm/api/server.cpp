#include "vmm/api/server.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <future>

#include "base/log.hpp"
#include "vmm/api/request.hpp"

namespace wherry::vmm::api {
namespace {

constexpr std::size_t most_clients = 16;

std::string_view method_name(std::string_view method) {
    if (method == "GET") return "Get";
    if (method == "PUT") return "Put";
    if (method == "PATCH") return "Patch";
    if (method == "DELETE") return "Delete";
    return method;
}

HttpResponse fault(int status, std::string_view message) {
    return {.status = status,
            .content_type = "application/json",
            .body = to_json(json::object{{"fault_message", message}}),
            .headers = {}};
}

}  // namespace

int status_of(Code code) {
    switch (code) {
        case Code::resource_exhausted:
            return 413;
        case Code::invalid_argument:
        case Code::not_found:
        case Code::already_exists:
        case Code::conflict:
        case Code::permission_denied:
        case Code::unauthenticated:
        case Code::unavailable:
        case Code::deadline_exceeded:
        case Code::cancelled:
        case Code::unimplemented:
        case Code::data_loss:
        case Code::out_of_range:
        case Code::internal:
            return 400;
    }
    return 400;
}

Result<std::unique_ptr<Server>> Server::create(Setup setup, EventLoop& loop, Controller& controller) {
    std::unique_ptr<Server> server(new Server(std::move(setup), loop, controller));
    const std::string& path = server->setup_.socket_path;
    // Listening first, at its name then: a client that sees the socket can connect to it.
    const std::string unnamed = path + ".new";
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.empty() || unnamed.size() >= sizeof address.sun_path)
        return fail(Code::invalid_argument, "the API socket's path has a bad length");
    std::memcpy(address.sun_path, unnamed.data(), unnamed.size());
    unlink(unnamed.c_str());  // of a monitor that was killed in between
    // SAFETY: makes a descriptor, owned at once.
    Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!listener) return fail_errno("API socket");
    // SAFETY: sockaddr_un is what a unix socket's sockaddr is.
    if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        return fail_errno("API socket");
    server->listener_ = std::move(listener);
    if (listen(server->listener_.get(), 256) < 0 ||
        renameat2(AT_FDCWD, unnamed.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) < 0) {
        const int error = errno;
        unlink(unnamed.c_str());
        return fail_errno(error == EEXIST ? EADDRINUSE : error, "API socket");
    }
    return server;
}

void Server::finish() {
    unlink(setup_.socket_path.c_str());
    std::unique_lock lock(mutex_);
    // A guest may end before the answer to its own start is out.
    idle_.wait_for(lock, std::chrono::milliseconds(200), [this] { return !busy_; });
}

void Server::start() {
    std::thread([this] { run(); }).detach();
}

void Server::run() {
    pthread_setname_np(pthread_self(), "fc_api");
    if (auto confined = setup_.confine(); !confined) {
        log_error("api.not_confined", {{"error", confined.error()}});
        loop_.stop();
        return;
    }
    log_line(LogLevel::info, "API server started.");
    std::vector<pollfd> polls;
    for (;;) {
        polls.clear();
        polls.push_back({listener_.get(), static_cast<short>(clients_.size() < most_clients ? POLLIN : 0), 0});
        for (const auto& client : clients_) polls.push_back({client->socket.get(), POLLIN, 0});
        if (poll(polls.data(), polls.size(), -1) < 0) {
            if (errno == EINTR) continue;
            log_error("api.poll", {{"error", std::string(strerror(errno))}});
            return;
        }
        for (std::size_t i = clients_.size(); i > 0; --i) {
            if (polls[i].revents == 0) continue;
            if (!serve(*clients_[i - 1])) clients_.erase(clients_.begin() + static_cast<std::ptrdiff_t>(i - 1));
        }
        if ((polls[0].revents & POLLIN) != 0) {
            // SAFETY: makes a descriptor, owned at once.
            Fd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            if (socket)
                clients_.push_back(std::make_unique<Client>(
                    std::move(socket), HttpParser({.head_bytes = 8192, .body_bytes = setup_.payload_limit})));
        }
    }
}

namespace {

bool send_all(int socket, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t n = send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
}

}  // namespace

bool Server::serve(Client& client) {
    std::array<char, 16384> buffer;
    const ssize_t n = recv(client.socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n < 0) return errno == EINTR || errno == EAGAIN;
    if (n == 0) return false;
    client.parser.feed({buffer.data(), static_cast<std::size_t>(n)});
    for (;;) {
        auto request = client.parser.next();
        if (!request) {
            const int status = request.error().code() == Code::unimplemented ? 501 : 400;
            send_all(client.socket.get(), to_bytes(fault(status, request.error().message()), false));
            return false;
        }
        if (!*request) {
            return !client.parser.take_continue() || send_all(client.socket.get(), "HTTP/1.1 100 Continue\r\n\r\n");
        }
        {
            const std::lock_guard lock(mutex_);
            busy_ = true;
        }
        const HttpResponse response = handle(**request);
        const bool sent = send_all(client.socket.get(), to_bytes(response, (*request)->keep_alive));
        {
            const std::lock_guard lock(mutex_);
            busy_ = false;
        }
        idle_.notify_all();
        if (!sent || !(*request)->keep_alive) return false;
    }
}

HttpResponse Server::handle(const HttpRequest& request) {
    // Bodies may hold secrets (MMDS): those stay out of the log.
    const bool show_body = !request.body.empty() && !request.target.starts_with("/mmds");
    log_line(LogLevel::info, fmt::format("The API server received a {} request on \"{}\"{}{}.",
                                         method_name(request.method), request.target, show_body ? " with body " : "",
                                         show_body ? std::string_view(request.body) : std::string_view()));
    auto parsed = parse_request(request.method, request.target, request.body);
    Result<Answer> answer = fail(Code::internal, "not carried out");
    ApiMetrics& metrics = controller_.api_metrics();
    if (parsed) {
        metrics.count(parsed->section, parsed->name, false);
        if (!parsed->deprecated.empty()) log_line(LogLevel::warn, parsed->deprecated);
        // The device thread carries it out; nothing else is done meanwhile, so that requests have an order.
        std::promise<Result<Answer>> done;
        auto future = done.get_future();
        loop_.post([&] { done.set_value(parsed->action(controller_)); });
        answer = future.get();
    } else {
        answer = std::unexpected(std::move(parsed).error());
    }
    if (!answer) {
        // NOLINTNEXTLINE(bugprone-use-after-move): what was moved is its error, which it has no more than a value
        if (parsed) metrics.count(parsed->section, parsed->name, true);
        const std::string message = answer.error().describe();
        log_line(LogLevel::error, fmt::format("Received Error. Status code: 400 Bad Request. Message: {}", message));
        // Only metadata can be too large for its place (413); a host that has no memory left refuses a start with 400.
        const bool is_metadata = request.target.starts_with("/mmds");
        return fault(is_metadata ? status_of(answer.error().code()) : 400, message);
    }
    if (!*answer) {
        log_line(LogLevel::info, "The request was executed successfully. Status code: 204 No Content.");
        return {.status = 204, .content_type = "application/json", .body = {}, .headers = {}};
    }
    log_line(LogLevel::info, "The request was executed successfully. Status code: 200 OK.");
    return {.status = 200, .content_type = "application/json", .body = to_json(**answer), .headers = {}};
}

}  // namespace wherry::vmm::api
