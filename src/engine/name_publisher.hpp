// Names of workloads in the DNS: containers with the label wherry.dns=NAME[,NAME...] have their address in a zone while
// they run and are not unhealthy, by signed dynamic updates (RFC 2136) to its primary server.
//
// Each host adds and deletes only its own records, so that several may share a name. What was published is written down
// before it is sent: a daemon that was killed takes back what its containers no longer are. Lives on the loop; sends
// from the pool.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "dns/tools/update_client.hpp"
#include "engine/core.hpp"

namespace wherry::engine {

class NamePublisher {
  public:
    // invalid_argument when the options are incomplete or wrong.
    static Result<std::unique_ptr<NamePublisher>> create(Core& core, const NameOptions& options);

    asio::awaitable<void> run();
    void close();

  private:
    // One published address: "name address".
    using Published = std::set<std::pair<std::string, std::string>>;

    NamePublisher(Core& core, NameOptions options) : core_(core), options_(std::move(options)) {}
    Published wanted();
    asio::awaitable<Result<>> synchronize();
    Result<> write(const Published& published) const;
    Result<> read();
    dns::tools::RecordChange change(bool add, const std::pair<std::string, std::string>& entry) const;
    std::string path() const { return core_.options.data_root + "/dns-names"; }

    Core& core_;
    NameOptions options_;
    dns::SocketAddress server_;
    dns::Name zone_;
    std::shared_ptr<const dns::TsigKey> key_;
    Published published_;
    std::set<std::string> complained_;  // labels that are no names of the zone, told once
    std::unique_ptr<EventSubscription> events_;
    Signal closing_;
};

}  // namespace wherry::engine
