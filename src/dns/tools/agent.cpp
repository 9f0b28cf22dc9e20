#include "dns/tools/agent.hpp"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <thread>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"
#include "dns/sample_signature.hpp"
#include "dns/tools/path.hpp"
#include "http/client.hpp"

namespace wherry::dns::tools {

namespace {

constexpr std::size_t probing_threads = 16;
constexpr unsigned established = 1;  // TCP_ESTABLISHED

SocketAddress client_of(const inet_diag_sockid& id, int family) {
    SocketAddress address;
    // An IPv4 client of an IPv6 socket (::ffff:0:0/96) is an IPv4 client.
    bool mapped =
        family == AF_INET6 && id.idiag_dst[0] == 0 && id.idiag_dst[1] == 0 && id.idiag_dst[2] == htonl(0xFFFF);
    // SAFETY: sockaddr_storage is made for holding either.
    if (family == AF_INET || mapped) {
        auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
        v4->sin_family = AF_INET;
        std::memcpy(&v4->sin_addr, &id.idiag_dst[mapped ? 3 : 0], 4);
        address.size = sizeof(sockaddr_in);
    } else {
        auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
        v6->sin6_family = AF_INET6;
        std::memcpy(&v6->sin6_addr, id.idiag_dst, 16);
        address.size = sizeof(sockaddr_in6);
    }
    return address;
}

void take_socket(const nlmsghdr& header, const std::vector<std::uint16_t>& ports,
                 std::vector<std::pair<SocketAddress, double>>& found) {
    if (header.nlmsg_len < NLMSG_LENGTH(sizeof(inet_diag_msg))) return;
    inet_diag_msg socket{};
    // SAFETY: a netlink message's payload begins behind its header; lengths were checked.
    const auto* payload = reinterpret_cast<const std::uint8_t*>(&header) + NLMSG_HDRLEN;
    std::memcpy(&socket, payload, sizeof socket);
    if (std::ranges::find(ports, ntohs(socket.id.idiag_sport)) == ports.end()) return;
    std::size_t at = NLMSG_ALIGN(sizeof socket);
    std::size_t length = header.nlmsg_len - NLMSG_HDRLEN;
    while (at + sizeof(rtattr) <= length) {
        rtattr attribute{};
        std::memcpy(&attribute, payload + at, sizeof attribute);
        if (attribute.rta_len < sizeof attribute || at + attribute.rta_len > length) return;
        if (attribute.rta_type == INET_DIAG_INFO) {
            tcp_info info{};
            std::memcpy(&info, payload + at + RTA_LENGTH(0),
                        std::min<std::size_t>(sizeof info, attribute.rta_len - RTA_LENGTH(0)));
            // A connection that has sent nothing yet has no measure of its own.
            std::uint32_t microseconds =
                info.tcpi_min_rtt != 0 && info.tcpi_min_rtt != ~0U ? info.tcpi_min_rtt : info.tcpi_rtt;
            if (microseconds > 0) found.emplace_back(client_of(socket.id, socket.idiag_family), microseconds / 1000.0);
        }
        at += RTA_ALIGN(attribute.rta_len);
    }
}

Result<std::string> control(const AgentOptions& options, const http::ClientRequest& request) {
    http::Client client(TRY(http::parse_endpoint(options.server)), {.connect_timeout = std::chrono::milliseconds(5000),
                                                                    .idle_timeout = std::chrono::milliseconds(10'000)});
    auto response = TRY(client.send(request), options.server);
    std::string body = TRY(response.read_all(64U << 20U), options.server);
    if (!response.ok())
        return fail(Code::unavailable,
                    options.server + ": status " + std::to_string(response.status()) + ": " + body.substr(0, 300));
    return body;
}

// The least of a few round trips; nothing when the target is silent.
std::optional<double> measure(const SocketAddress& target, unsigned count, const std::function<bool()>& stop) {
    PingOptions options;
    options.count = count;
    options.interval = std::chrono::milliseconds(100);
    auto times = ping(target, options, [](const PingReply&) {}, stop);
    if (!times || times->received() == 0) return std::nullopt;
    return static_cast<double>(times->best()) / 1e6;
}

std::string line_of(const std::string& what, double rtt) {
    std::array<char, 64> text{};
    (void)std::snprintf(text.data(), text.size(), " %.3f\n", rtt);
    return what + text.data();
}

}  // namespace

Result<std::vector<std::pair<SocketAddress, double>>> observed_round_trips(const std::vector<std::uint16_t>& ports) {
    std::vector<std::pair<SocketAddress, double>> found;
    if (ports.empty()) return found;
    Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
    if (!socket) return fail_errno("sock_diag");
    for (int family : {AF_INET, AF_INET6}) {
        struct {
            nlmsghdr header;
            inet_diag_req_v2 request;
        } message{};
        message.header = {
            .nlmsg_len = sizeof message, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP};
        message.request.sdiag_family = static_cast<std::uint8_t>(family);
        message.request.sdiag_protocol = IPPROTO_TCP;
        message.request.idiag_states = 1U << established;
        message.request.idiag_ext = 1U << (INET_DIAG_INFO - 1);
        if (::send(socket.get(), &message, sizeof message, 0) < 0) return fail_errno("sock_diag");
        std::vector<std::uint8_t> buffer(64U << 10U);
        bool done = false;
        while (!done) {
            ssize_t count = ::recv(socket.get(), buffer.data(), buffer.size(), 0);
            if (count < 0) return fail_errno("sock_diag");
            // SAFETY: netlink messages as the kernel aligns them; NLMSG_OK checks lengths.
            auto* header = reinterpret_cast<nlmsghdr*>(buffer.data());
            for (auto left = static_cast<unsigned>(count); NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
                if (header->nlmsg_type == NLMSG_DONE || header->nlmsg_type == NLMSG_ERROR)
                    done = true;
                else
                    take_socket(*header, ports, found);
            }
        }
    }
    return found;
}

Result<RoundOutcome> agent_round(const AgentOptions& options, const std::function<bool()>& stop) {
    RoundOutcome outcome;
    std::string body;
    for (const auto& [client, rtt] : TRY(observed_round_trips(options.watched_ports))) {
        body += line_of(client.host(), rtt);
        ++outcome.observed;
    }
    for (const auto& [site, address] : options.peers)
        if (auto rtt = measure(address, options.count, stop)) body += line_of("site " + site, *rtt);
    if (options.probe) {
        std::vector<SocketAddress> targets;
        std::string list = TRY(control(options, {.method = "GET", .target = "/v1/targets"}));
        for (std::size_t at = 0; at < list.size();) {
            std::size_t end = std::min(list.find('\n', at), list.size());
            if (auto address = SocketAddress::parse(std::string_view(list).substr(at, end - at), 0))
                targets.push_back(*address);
            at = end + 1;
        }
        std::mutex lock;
        std::size_t next = 0;
        std::vector<std::jthread> threads;
        for (std::size_t i = 0; i < std::min(probing_threads, targets.size()); ++i)
            threads.emplace_back([&] {
                while (!stop()) {
                    SocketAddress target;
                    {
                        std::lock_guard hold(lock);
                        if (next >= targets.size()) return;
                        target = targets[next++];
                    }
                    auto rtt = measure(target, options.count, stop);
                    if (!rtt) continue;
                    std::lock_guard hold(lock);
                    body += line_of(target.host(), *rtt);
                    ++outcome.probed;
                }
            });
        threads.clear();
    }
    if (body.empty()) return outcome;
    const std::int64_t time = std::chrono::duration_cast<std::chrono::seconds>(wall_now().time_since_epoch()).count();
    http::ClientRequest request{
        .method = "POST", .target = "/v1/samples", .headers = {}, .body = body, .content_type = "text/plain"};
    request.headers.set("X-Wherry-Sender", options.sender);
    request.headers.set("X-Wherry-Time", std::to_string(time));
    request.headers.set("X-Wherry-Signature", sample_signature(options.secret, options.sender, time, body));
    std::string answer = TRY(control(options, request));
    auto parsed = TRY(parse_json_object(answer));
    outcome.taken = static_cast<std::size_t>(TRY(JsonReader(parsed).integer_or("taken", 0)));
    return outcome;
}

}  // namespace wherry::dns::tools
