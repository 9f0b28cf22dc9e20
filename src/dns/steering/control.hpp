// The dispatcher's own small HTTP service, for agents and operators:
//
//     POST /v1/samples            X-Wherry-Sender, X-Wherry-Time, X-Wherry-Signature; a sample a line
//     (Dispatcher::take_samples) GET  /v1/explain?name=NAME&client=PREFIX GET  /v1/status             sites with their
//     checks, names GET  /v1/targets            client prefixes that somebody measured, a line each: what agents probe
//     GET  /v1/map                sites, prefixes and round trips
//
// Everything but samples is open to whoever reaches the address: bind it where only friends do.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "dns/control_loop.hpp"
#include "dns/steering/dispatcher.hpp"

namespace wherry::dns::steering {

struct ControlRequest {
    std::string method;
    std::string path;
    std::vector<std::pair<std::string, std::string>> query;    // decoded
    std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
    std::string body;

    std::string query_value(std::string_view name) const;
    std::string header(std::string_view name) const;
};
struct ControlAnswer {
    int status = 200;
    std::string type = "application/json";
    std::string body;
};

inline constexpr std::size_t control_head_bytes = 16U << 10U;
inline constexpr std::size_t control_body_bytes = 4U << 20U;

// The head (to the empty line) of a request; invalid_argument when it is none. `length` gets Content-Length.
Result<ControlRequest> parse_control_head(std::string_view head, std::size_t& length);
ControlAnswer answer_control(Dispatcher& dispatcher, const ControlRequest& request);

class ControlServer {
  public:
    // Binds; start() starts the thread, so that privileges can be dropped in between.
    static Result<std::unique_ptr<ControlServer>> create(const std::vector<SocketAddress>& addresses);
    ~ControlServer();
    ControlServer(const ControlServer&) = delete;
    ControlServer& operator=(const ControlServer&) = delete;
    // `dispatcher` is asked for with every request: a reload may have made another.
    void start(std::function<std::shared_ptr<Dispatcher>()> dispatcher);
    const std::vector<SocketAddress>& addresses() const { return addresses_; }

  private:
    ControlServer() = default;
    void run();
    void serve(int client);

    std::vector<SocketAddress> addresses_;
    std::vector<Fd> listeners_;
    Fd stop_;
    std::function<std::shared_ptr<Dispatcher>()> dispatcher_;
    std::unique_ptr<JobPool> workers_;
    std::thread thread_;
};

}  // namespace wherry::dns::steering
