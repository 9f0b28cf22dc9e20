// Keeps the zones of a server: reads them from files and journals, transfers those that others own, tells others of
// changes, applies updates, follows catalogs, and hands every new state to the server whole.
//
// One thread (run's) changes everything; the server's threads only submit requests; transfers and notifications block
// on threads of their own.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "dns/config.hpp"
#include "dns/control_loop.hpp"
#include "dns/journal.hpp"
#include "dns/server.hpp"
#include "dns/signer.hpp"
#include "dns/transfer_in.hpp"

namespace wherry::dns {

class Keeper : public ControlSink {
  public:
    // `config_path`: read again by reload(); empty: only the zones' files are.
    static Result<std::unique_ptr<Keeper>> create(Config config, std::string config_path);
    ~Keeper() override;

    // The server that gets the zones; before load().
    void attach(Server& server) { server_ = &server; }
    void set_signer(std::shared_ptr<SignerClient> signer) { signer_ = std::move(signer); }
    // What a zone's steered names are answered with; asked for whenever zones are published.
    void set_policies(std::function<std::shared_ptr<const AnswerPolicy>(const Zone& zone)> policies) {
        policies_ = std::move(policies);
    }
    // Publishes the zones again, since a policy changed; from any thread.
    void republish();
    // Told of a configuration that was read again, before its zones are published; an error refuses it.
    void set_on_reload(std::function<Result<>(const Config& config)> on_reload) { on_reload_ = std::move(on_reload); }
    // From now on file names are seen from inside of the configuration's chroot.
    void set_chrooted() { chrooted_ = true; }
    // Reads every zone. A primary zone that cannot be read is an error here; later it keeps its old content.
    Result<> load();
    // Until a SIGTERM or SIGINT is read from the descriptor; SIGHUP reloads.
    void run(int signal_fd);
    bool submit(ControlRequest request) override;

    // For metrics; from any thread.
    struct Counters {
        std::atomic<std::uint64_t> transfers_in{0};
        std::atomic<std::uint64_t> transfers_failed{0};
        std::atomic<std::uint64_t> updates{0};
        std::atomic<std::uint64_t> notifies_in{0};
        std::atomic<std::uint64_t> notifies_out{0};
        std::atomic<std::uint64_t> reloads{0};
        std::atomic<std::uint64_t> reload_failures{0};
    };
    const Counters& counters() const { return counters_; }

  private:
    struct Managed {
        ZoneConfig config;
        std::shared_ptr<const Zone> zone;
        std::shared_ptr<const ZoneHistory> history;
        std::shared_ptr<const ZoneAccess> access;
        std::shared_ptr<const ZoneSigner> signer;
        std::optional<Journal> journal;
        std::string file_identity;    // of the master file that was read last
        std::optional<Name> catalog;  // the catalog that it is a member of
        std::string catalog_id;
        // Secondaries.
        bool fetching = false;
        bool fetch_again = false;
        std::size_t next_primary = 0;
        std::uint64_t timer = 0;  // the number of the timer that counts
        std::int64_t expires_ns = 0;
        std::uint64_t generation = 0;  // of this object: late results of another are ignored
    };
    using Zones = std::map<std::string, std::unique_ptr<Managed>>;  // by lower-case name

    Keeper(Config config, std::string config_path);
    static std::string key_of(const Name& origin) { return origin.lower().to_text(); }
    Managed* find(const Name& origin);
    std::string path(const std::string& configured) const;
    std::string state_path(const Managed& zone, std::string_view suffix) const;
    std::shared_ptr<const TsigKey> key_for(const Remote& remote) const;

    void reload();
    Result<> apply_config(Config config, bool first);
    Result<> load_zone_file(Managed& zone);
    Result<> load_state(Managed& zone);
    Result<> make_catalog(Managed& zone);
    Result<std::shared_ptr<const ZoneSigner>> make_signer(const Managed& zone);
    // The zone has a new version: what led to it goes to the history, the journal (unless it came from there), the
    // server and those to be notified.
    Result<> install(Managed& zone, std::shared_ptr<const Zone> next,
                     std::vector<std::shared_ptr<const ZoneDiff>> diffs);
    Result<> persist(Managed& zone, const std::vector<std::shared_ptr<const ZoneDiff>>& diffs);
    void publish();
    void tend_keys();
    void forget_state(Managed& zone);

    void notify(const Managed& zone);
    void notify_one(const Name& origin, const Remote& remote, std::uint32_t serial, int attempt);
    void schedule_refresh(Managed& zone, std::int64_t milliseconds);
    void refresh(Managed& zone);
    void fetched(const Name& origin, std::uint64_t generation, Result<TransferResult> result);
    void set_expiry(Managed& zone);
    void follow_catalog(Managed& zone);

    void handle(ControlRequest request);
    void handle_notify(const ControlRequest& request);
    void handle_updates();
    void answer(const ControlRequest& request, Rcode rcode);
    void update_zone(Managed& zone, const std::vector<ControlRequest>& requests);

    Config config_;
    std::string config_path_;
    bool chrooted_ = false;
    Server* server_ = nullptr;
    std::shared_ptr<SignerClient> signer_;
    std::function<std::shared_ptr<const AnswerPolicy>(const Zone& zone)> policies_;
    std::function<Result<>(const Config& config)> on_reload_;
    Zones zones_;
    std::vector<ControlRequest> updates_;
    bool publish_pending_ = false;
    std::vector<Name> to_notify_;  // once the next state is published
    std::uint64_t next_generation_ = 1;
    std::unique_ptr<ControlLoop> loop_;
    Counters counters_;
    std::unique_ptr<JobPool> jobs_;  // last: goes first
};

}  // namespace wherry::dns
