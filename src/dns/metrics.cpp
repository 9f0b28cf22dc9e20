#include "dns/metrics.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>

namespace wherry::dns {

std::string render_metrics(const Server& server, const Keeper& keeper) {
    const ServerCounters counted = server.counters();
    std::string text;
    auto head = [&](std::string_view name, std::string_view kind, std::string_view help) {
        text += "# HELP " + std::string(name) + " " + std::string(help) + "\n# TYPE " + std::string(name) + " " +
                std::string(kind) + "\n";
    };
    auto value = [&](std::string_view name, std::string_view labels, std::uint64_t number) {
        text += std::string(name) + std::string(labels) + " " + std::to_string(number) + "\n";
    };
    auto one = [&](std::string_view name, std::string_view kind, std::string_view help, std::uint64_t number) {
        head(name, kind, help);
        value(name, "", number);
    };
    head("wherry_dns_queries_total", "counter", "Messages received, by transport.");
    value("wherry_dns_queries_total", "{transport=\"udp\"}", counted.udp_queries);
    value("wherry_dns_queries_total", "{transport=\"tcp\"}", counted.tcp_queries);
    value("wherry_dns_queries_total", "{transport=\"tls\"}", counted.tls_queries);
    head("wherry_dns_responses_total", "counter", "Answers by response code.");
    for (std::size_t i = 0; i < counted.rcodes.size(); ++i)
        if (counted.rcodes[i] != 0)
            value("wherry_dns_responses_total", "{rcode=\"" + to_string(static_cast<Rcode>(i)) + "\"}",
                  counted.rcodes[i]);
    head("wherry_dns_query_types_total", "counter", "Messages by the type that was asked for.");
    for (std::size_t i = 0; i < counted.types.size(); ++i) {
        if (counted.types[i] == 0) continue;
        const bool rest = i + 1 == counted.types.size();
        value("wherry_dns_query_types_total",
              "{type=\"" + (rest ? std::string("other") : to_string(static_cast<Type>(i))) + "\"}", counted.types[i]);
    }
    one("wherry_dns_truncated_total", "counter", "Answers with TC set.", counted.truncated);
    one("wherry_dns_dropped_total", "counter", "Messages without an answer.", counted.dropped);
    one("wherry_dns_rate_limited_total", "counter", "Answers dropped or cut by the rate limit.", counted.rate_limited);
    one("wherry_dns_send_failures_total", "counter", "Answers that could not be sent.", counted.send_failures);
    one("wherry_dns_connections", "gauge", "Open TCP and TLS connections.", counted.connections);
    one("wherry_dns_transfers_out_total", "counter", "Zone transfers begun for others.", counted.transfers);
    const Keeper::Counters& kept = keeper.counters();
    one("wherry_dns_transfers_in_total", "counter", "Zone transfers from primaries.", kept.transfers_in.load());
    one("wherry_dns_transfers_in_failed_total", "counter", "Zone transfers that failed.", kept.transfers_failed.load());
    one("wherry_dns_updates_total", "counter", "Dynamic updates answered.", kept.updates.load());
    one("wherry_dns_notifies_in_total", "counter", "Notifications received.", kept.notifies_in.load());
    one("wherry_dns_notifies_out_total", "counter", "Notifications sent.", kept.notifies_out.load());
    one("wherry_dns_reloads_total", "counter", "Reloads that went well.", kept.reloads.load());
    one("wherry_dns_reload_failures_total", "counter", "Files that could not be read again.",
        kept.reload_failures.load());
    one("wherry_dns_zones", "gauge", "Zones served.", server.zones()->zones().size());
    return text;
}

Result<std::unique_ptr<MetricsServer>> MetricsServer::create(const std::vector<SocketAddress>& addresses) {
    std::unique_ptr<MetricsServer> made(new MetricsServer());
    made->stop_ = Fd(::eventfd(0, EFD_CLOEXEC));
    if (!made->stop_) return fail_errno("eventfd");
    for (const SocketAddress& address : addresses) {
        Fd socket(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        const int on = 1;
        if (!socket || ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
            return fail_errno("socket");
        if (::bind(socket.get(), address.raw(), address.size) < 0 || ::listen(socket.get(), 16) < 0)
            return fail_errno("metrics on " + address.to_text());
        made->listeners_.push_back(std::move(socket));
    }
    return made;
}

MetricsServer::~MetricsServer() {
    if (!thread_.joinable()) return;
    std::uint64_t one = 1;
    [[maybe_unused]] auto written = ::write(stop_.get(), &one, sizeof one);
    thread_.join();
}

void MetricsServer::start(std::function<std::string()> render) {
    render_ = std::move(render);
    thread_ = std::thread([this] { run(); });
}

void MetricsServer::run() {
    std::vector<pollfd> polled{{stop_.get(), POLLIN, 0}};
    for (const Fd& listener : listeners_) polled.push_back({listener.get(), POLLIN, 0});
    while (true) {
        if (::poll(polled.data(), polled.size(), -1) < 0) continue;
        if (polled[0].revents != 0) return;
        for (std::size_t i = 1; i < polled.size(); ++i)
            if (polled[i].revents != 0) serve(polled[i].fd);
    }
}

// One request after another, a second each at most: who asks is the operator's own collector.
void MetricsServer::serve(int listener) {
    Fd client(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (!client) return;
    const timeval second{1, 0};
    (void)::setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
    (void)::setsockopt(client.get(), SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second);
    std::string request;
    std::array<char, 1024> buffer;
    while (request.size() < 8192 && request.find("\r\n\r\n") == std::string::npos) {
        ssize_t got = ::recv(client.get(), buffer.data(), buffer.size(), 0);
        if (got <= 0) return;
        request.append(buffer.data(), static_cast<std::size_t>(got));
    }
    const bool known = request.starts_with("GET /metrics ") || request.starts_with("GET /metrics?");
    const std::string body = known ? render_() : "GET /metrics\n";
    const std::string answer = std::string("HTTP/1.1 ") + (known ? "200 OK" : "404 Not Found") +
                               "\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\nContent-Length: " +
                               std::to_string(body.size()) + "\r\n\r\n" + body;
    for (std::size_t sent = 0; sent < answer.size();) {
        ssize_t count = ::send(client.get(), answer.data() + sent, answer.size() - sent, MSG_NOSIGNAL);
        if (count <= 0) return;
        sent += static_cast<std::size_t>(count);
    }
    (void)::shutdown(client.get(), SHUT_WR);
}

}  // namespace wherry::dns
