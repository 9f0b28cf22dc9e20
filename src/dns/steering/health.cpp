#include "dns/steering/health.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/log.hpp"
#include "http/client.hpp"

namespace wherry::dns::steering {

namespace {

std::string describe(const CheckConfig& check) {
    switch (check.kind) {
        case CheckConfig::Kind::tcp:
            return "tcp " + check.address.to_text();
        case CheckConfig::Kind::http:
            return "http " + check.url;
        case CheckConfig::Kind::command:
            return "command " + check.command[0];
    }
    return "";
}

Result<> check_tcp(const CheckConfig& check) {
    Fd socket(::socket(check.address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return fail_errno("socket");
    if (::connect(socket.get(), check.address.raw(), check.address.size) == 0) return {};
    if (errno != EINPROGRESS) return fail_errno("connect");
    pollfd ready{.fd = socket.get(), .events = POLLOUT, .revents = 0};
    int count = ::poll(&ready, 1, static_cast<int>(check.timeout.count()));
    if (count == 0)
        return fail(Code::deadline_exceeded, "no connection within " + std::to_string(check.timeout.count()) + " ms");
    int problem = 0;
    socklen_t size = sizeof problem;
    if (count < 0 || ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &problem, &size) < 0)
        return fail_errno("connect");
    if (problem != 0) return fail_errno(problem, "connect");
    return {};
}

Result<> check_http(const CheckConfig& check) {
    std::size_t path = check.url.find('/', check.url.find("//") + 2);
    std::string authority = check.url.substr(0, path);
    http::Endpoint endpoint = TRY(http::parse_endpoint(authority));
    // parse_endpoint's own defaults are Docker's.
    std::string_view host = std::string_view(authority).substr(authority.find("//") + 2);
    bool has_port =
        host.starts_with('[') ? host.find("]:") != std::string_view::npos : host.find(':') != std::string_view::npos;
    if (!has_port) endpoint.port = check.url.starts_with("https://") ? 443 : 80;
    http::Client client(
        endpoint,
        {.connect_timeout = check.timeout, .idle_timeout = check.timeout, .user_agent = "wherry-dns/" WHERRY_VERSION});
    http::ClientRequest request;
    request.target = path == std::string::npos ? "/" : check.url.substr(path);
    auto response = TRY(client.send(request));
    unsigned status = response.status();
    bool good = check.expect != 0 ? status == check.expect : status >= 200 && status < 400;
    if (!good) return fail(Code::unavailable, "status " + std::to_string(status));
    return {};
}

}  // namespace

bool Hysteresis::note(bool success) {
    if (success == up_) {
        streak_ = 0;
        return false;
    }
    if (++streak_ < (success ? rise_ : fall_)) return false;
    streak_ = 0;
    up_ = success;
    return true;
}

Result<> run_check(const CheckConfig& check, const CommandChecks* commands) {
    switch (check.kind) {
        case CheckConfig::Kind::tcp:
            return check_tcp(check);
        case CheckConfig::Kind::http:
            return check_http(check);
        case CheckConfig::Kind::command:
            if (commands == nullptr) return fail(Code::unavailable, "commands are not run here");
            return commands->run(check.command, check.timeout);
    }
    return {};
}

HealthMonitor::HealthMonitor(const std::vector<SiteConfig>& sites, std::shared_ptr<const CommandChecks> commands,
                             std::function<void()> on_change)
    : sites_(sites), commands_(std::move(commands)), on_change_(std::move(on_change)) {
    for (std::size_t site = 0; site < sites_.size(); ++site)
        for (const CheckConfig& check : sites_[site].checks)
            checks_.push_back(std::make_unique<Check>(Check{.config = check,
                                                            .site = static_cast<SiteIndex>(site),
                                                            .verdict = Hysteresis(check.rise, check.fall, true),
                                                            .problem = ""}));
}

HealthMonitor::~HealthMonitor() {
    {
        std::lock_guard hold(lock_);
        stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void HealthMonitor::start() {
    for (auto& check : checks_) threads_.emplace_back([this, one = check.get()] { run(*one); });
}

bool HealthMonitor::site_up(SiteIndex site) const {
    unsigned total = 0;
    unsigned up = 0;
    for (const auto& check : checks_)
        if (check->site == site) {
            ++total;
            if (check->verdict.up()) ++up;
        }
    unsigned needed = sites_[site].quorum != 0 ? sites_[site].quorum : total / 2 + 1;
    return total == 0 || up >= needed;
}

std::vector<bool> HealthMonitor::up() const {
    std::lock_guard hold(lock_);
    std::vector<bool> all(sites_.size());
    for (std::size_t site = 0; site < all.size(); ++site) all[site] = site_up(static_cast<SiteIndex>(site));
    return all;
}

std::vector<HealthMonitor::CheckStatus> HealthMonitor::checks(SiteIndex site) const {
    std::lock_guard hold(lock_);
    std::vector<CheckStatus> all;
    for (const auto& check : checks_)
        if (check->site == site)
            all.push_back({.what = describe(check->config), .up = check->verdict.up(), .problem = check->problem});
    return all;
}

void HealthMonitor::run(Check& check) {
    while (true) {
        std::int64_t began = monotonic_ns();
        auto result = run_check(check.config, commands_.get());
        bool changed = false;
        {
            std::unique_lock hold(lock_);
            if (stopping_) return;
            bool before = site_up(check.site);
            check.problem = result ? "" : result.error().describe();
            if (check.verdict.note(result.has_value()))
                log_info("site.check", {{"site", sites_[check.site].name},
                                        {"check", describe(check.config)},
                                        {"up", check.verdict.up()},
                                        {"problem", check.problem}});
            changed = site_up(check.site) != before;
        }
        if (changed) on_change_();
        std::unique_lock hold(lock_);
        auto left = std::chrono::nanoseconds(check.config.every) - std::chrono::nanoseconds(monotonic_ns() - began);
        if (wake_.wait_for(hold, std::max(left, std::chrono::nanoseconds(0)), [&] { return stopping_; })) return;
    }
}

}  // namespace wherry::dns::steering
