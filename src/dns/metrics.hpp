// Counters in Prometheus's text format, over HTTP for whoever may reach the address: GET /metrics, nothing else.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "dns/keeper.hpp"
#include "dns/server.hpp"

namespace wherry::dns {

std::string render_metrics(const Server& server, const Keeper& keeper);

class MetricsServer {
  public:
    // Binds; the thread is started by start(), so that privileges can be dropped in between.
    static Result<std::unique_ptr<MetricsServer>> create(const std::vector<SocketAddress>& addresses);
    ~MetricsServer();
    MetricsServer(const MetricsServer&) = delete;
    MetricsServer& operator=(const MetricsServer&) = delete;
    void start(std::function<std::string()> render);

  private:
    MetricsServer() = default;
    void run();
    void serve(int listener);
    std::vector<Fd> listeners_;
    Fd stop_;
    std::function<std::string()> render_;
    std::thread thread_;
};

}  // namespace wherry::dns
