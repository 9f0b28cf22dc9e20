#include "dns/steering/control.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <charconv>

namespace wherry::dns::steering {

namespace {

constexpr std::size_t worker_count = 4;

std::string lower(std::string_view text) {
    std::string result(text);
    for (char& c : result)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
    return result;
}

std::string_view trim(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) text.remove_suffix(1);
    return text;
}

Result<std::string> decode_percent(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            result += text[i] == '+' ? ' ' : text[i];
            continue;
        }
        unsigned value = 0;
        if (i + 2 >= text.size()) return fail(Code::invalid_argument, "an escape is cut");
        auto [stop, error] = std::from_chars(text.data() + i + 1, text.data() + i + 3, value, 16);
        if (error != std::errc() || stop != text.data() + i + 3)
            return fail(Code::invalid_argument, "an escape is wrong");
        result += static_cast<char>(value);
        i += 2;
    }
    return result;
}

ControlAnswer problem(int status, const std::string& message) {
    return {.status = status, .body = boost::json::serialize(boost::json::object{{"message", message}}) + "\n"};
}

int status_of(Code code) {
    switch (code) {
        case Code::not_found:
            return 404;
        case Code::unauthenticated:
            return 401;
        case Code::invalid_argument:
            return 400;
        default:
            return 500;
    }
}

std::string_view reason_of(int status) {
    switch (status) {
        case 200:
            return "OK";
        case 400:
            return "Bad Request";
        case 401:
            return "Unauthorized";
        case 404:
            return "Not Found";
        case 405:
            return "Method Not Allowed";
        case 413:
            return "Content Too Large";
        default:
            return "Internal Server Error";
    }
}

ControlAnswer samples(Dispatcher& dispatcher, const ControlRequest& request) {
    std::int64_t time = 0;
    std::string digits = request.header("x-wherry-time");
    auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), time);
    if (digits.empty() || error != std::errc() || stop != digits.data() + digits.size())
        return problem(400, "X-Wherry-Time is no number of seconds");
    auto taken = dispatcher.take_samples(request.header("x-wherry-sender"), time, request.header("x-wherry-signature"),
                                         request.body);
    if (!taken) return problem(status_of(taken.error().code()), taken.error().describe());
    return {.body = boost::json::serialize(boost::json::object{{"taken", *taken}}) + "\n"};
}

ControlAnswer explain(Dispatcher& dispatcher, const ControlRequest& request) {
    auto name = Name::parse(request.query_value("name"));
    if (!name || request.query_value("name").empty()) return problem(400, "name is no domain name");
    auto client = Prefix::parse(request.query_value("client"));
    if (!client) return problem(400, client.error().describe());
    auto decision = dispatcher.explain(*name, *client);
    if (!decision) return problem(status_of(decision.error().code()), decision.error().describe());
    return {.body = boost::json::serialize(dispatcher.explain_json(*name, *decision, *client)) + "\n"};
}

}  // namespace

std::string ControlRequest::query_value(std::string_view name) const {
    for (const auto& [key, value] : query)
        if (key == name) return value;
    return "";
}

std::string ControlRequest::header(std::string_view name) const {
    for (const auto& [key, value] : headers)
        if (key == name) return value;
    return "";
}

Result<ControlRequest> parse_control_head(std::string_view head, std::size_t& length) {
    length = 0;
    ControlRequest request;
    std::size_t end = std::min(head.find("\r\n"), head.size());
    std::string_view line = head.substr(0, end);
    auto first = line.find(' ');
    auto second = line.rfind(' ');
    if (first == std::string_view::npos || second <= first || !line.substr(second + 1).starts_with("HTTP/1."))
        return fail(Code::invalid_argument, "no HTTP request");
    request.method = line.substr(0, first);
    std::string_view target = line.substr(first + 1, second - first - 1);
    std::string_view query = target.find('?') == std::string_view::npos ? "" : target.substr(target.find('?') + 1);
    request.path = target.substr(0, target.find('?'));
    while (!query.empty()) {
        std::size_t stop = std::min(query.find('&'), query.size());
        std::string_view pair = query.substr(0, stop);
        query.remove_prefix(std::min(stop + 1, query.size()));
        std::size_t equals = std::min(pair.find('='), pair.size());
        request.query.emplace_back(TRY(decode_percent(pair.substr(0, equals))),
                                   TRY(decode_percent(pair.substr(std::min(equals + 1, pair.size())))));
    }
    head.remove_prefix(std::min(end + 2, head.size()));
    while (!head.empty()) {
        std::size_t stop = std::min(head.find("\r\n"), head.size());
        std::string_view field = head.substr(0, stop);
        head.remove_prefix(std::min(stop + 2, head.size()));
        if (field.empty()) break;
        auto colon = field.find(':');
        if (colon == std::string_view::npos) return fail(Code::invalid_argument, "a header has no colon");
        std::string name = lower(field.substr(0, colon));
        std::string value(trim(field.substr(colon + 1)));
        if (name == "transfer-encoding") return fail(Code::invalid_argument, "a Content-Length is wanted");
        if (name == "content-length") {
            auto [last, error] = std::from_chars(value.data(), value.data() + value.size(), length);
            if (error != std::errc() || last != value.data() + value.size())
                return fail(Code::invalid_argument, "Content-Length is no number");
        }
        request.headers.emplace_back(std::move(name), std::move(value));
    }
    return request;
}

ControlAnswer answer_control(Dispatcher& dispatcher, const ControlRequest& request) {
    bool get = request.method == "GET";
    if (request.path == "/v1/samples")
        return request.method == "POST" ? samples(dispatcher, request) : problem(405, "POST is wanted");
    if (request.path != "/v1/explain" && request.path != "/v1/status" && request.path != "/v1/targets" &&
        request.path != "/v1/map")
        return problem(404, "there is nothing at this path");
    if (!get) return problem(405, "GET is wanted");
    if (request.path == "/v1/explain") return explain(dispatcher, request);
    if (request.path == "/v1/status") return {.body = boost::json::serialize(dispatcher.status()) + "\n"};
    if (request.path == "/v1/map") return {.body = boost::json::serialize(dispatcher.map()) + "\n"};
    return {.type = "text/plain", .body = dispatcher.targets()};
}

Result<std::unique_ptr<ControlServer>> ControlServer::create(const std::vector<SocketAddress>& addresses) {
    std::unique_ptr<ControlServer> made(new ControlServer());
    made->stop_ = Fd(::eventfd(0, EFD_CLOEXEC));
    if (!made->stop_) return fail_errno("eventfd");
    for (SocketAddress address : addresses) {
        Fd socket(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        const int on = 1;
        if (!socket || ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
            return fail_errno("socket");
        if (::bind(socket.get(), address.raw(), address.size) < 0 || ::listen(socket.get(), 64) < 0)
            return fail_errno("steering control on " + address.to_text());
        socklen_t size = sizeof address.storage;
        if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address.storage), &size) == 0) address.size = size;
        made->addresses_.push_back(address);
        made->listeners_.push_back(std::move(socket));
    }
    return made;
}

ControlServer::~ControlServer() {
    if (!thread_.joinable()) return;
    std::uint64_t one = 1;
    [[maybe_unused]] auto written = ::write(stop_.get(), &one, sizeof one);
    thread_.join();
    workers_.reset();
}

void ControlServer::start(std::function<std::shared_ptr<Dispatcher>()> dispatcher) {
    dispatcher_ = std::move(dispatcher);
    workers_ = std::make_unique<JobPool>(worker_count);
    thread_ = std::thread([this] { run(); });
}

void ControlServer::run() {
    std::vector<pollfd> polled{{stop_.get(), POLLIN, 0}};
    for (const Fd& listener : listeners_) polled.push_back({listener.get(), POLLIN, 0});
    while (true) {
        if (::poll(polled.data(), polled.size(), -1) < 0) continue;
        if (polled[0].revents != 0) return;
        for (std::size_t i = 1; i < polled.size(); ++i) {
            if (polled[i].revents == 0) continue;
            int client = ::accept4(polled[i].fd, nullptr, nullptr, SOCK_CLOEXEC);
            if (client >= 0) {
                auto owned = std::make_shared<Fd>(client);
                workers_->submit([this, owned] { serve(owned->get()); });
            }
        }
    }
}

void ControlServer::serve(int client) {
    const timeval patience{2, 0};
    (void)::setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    (void)::setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    std::string data;
    std::array<char, 16384> buffer;
    auto read_more = [&] {
        ssize_t got = ::recv(client, buffer.data(), buffer.size(), 0);
        if (got > 0) data.append(buffer.data(), static_cast<std::size_t>(got));
        return got > 0;
    };
    std::size_t head = 0;
    while ((head = data.find("\r\n\r\n")) == std::string::npos) {
        if (data.size() > control_head_bytes || !read_more()) return;
    }
    std::size_t length = 0;
    auto request = parse_control_head(std::string_view(data).substr(0, head + 2), length);
    ControlAnswer answer;
    if (!request) {
        answer = problem(400, request.error().describe());
    } else if (length > control_body_bytes) {
        answer = problem(413, "a body of at most " + std::to_string(control_body_bytes) + " bytes is taken");
    } else {
        while (data.size() < head + 4 + length)
            if (!read_more()) return;
        request->body = data.substr(head + 4, length);
        auto dispatcher = dispatcher_();
        answer = answer_control(*dispatcher, *request);
    }
    std::string text = "HTTP/1.1 " + std::to_string(answer.status) + " " + std::string(reason_of(answer.status)) +
                       "\r\nContent-Type: " + answer.type +
                       "\r\nConnection: close\r\nContent-Length: " + std::to_string(answer.body.size()) + "\r\n\r\n" +
                       answer.body;
    for (std::size_t sent = 0; sent < text.size();) {
        ssize_t count = ::send(client, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
        if (count <= 0) return;
        sent += static_cast<std::size_t>(count);
    }
    (void)::shutdown(client, SHUT_WR);
}

}  // namespace wherry::dns::steering
