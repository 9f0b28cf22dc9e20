// What happened to what, in Docker's vocabulary, and who listens. The last events are kept in a bounded ring, so that
// `events --since` answers; a subscriber that does not read fast enough loses its subscription, never memory.
// Threading: everything on the engine's loop.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace wherry::engine {

namespace asio = boost::asio;

// Filters as every list and prune takes them: key -> accepted values. {"dangling":{"true":true}} and
// {"dangling":["true"]} are both {{"dangling", {"true"}}}.
using Filters = std::map<std::string, std::vector<std::string>>;
// invalid_argument "invalid filter 'x'" when a key is none of `known`.
Result<> check_filters(const Filters& filters, std::initializer_list<std::string_view> known);
// Docker's label filter: each value is "key" or "key=value" and all must match.
bool labels_match(const std::map<std::string, std::string>& labels, const std::vector<std::string>& wanted);

// "label" as above, and none of "label!".
bool matches_label_filters(const std::map<std::string, std::string>& labels, const Filters& filters);

struct Event {
    std::string type;    // "container", "image", "volume", "network", "daemon"
    std::string action;  // "create", "start", "die", "exec_start: sh", ...
    std::string id;
    std::map<std::string, std::string> attributes;  // name, image, labels, exitCode, signal, ...
    WallTime time;
};

// type, event, container, image, volume, network, daemon, label, scope; Docker's meaning.
class EventFilter {
  public:
    static Result<EventFilter> create(Filters filters);
    bool matches(const Event& event) const;

  private:
    Filters filters_;
};

class EventSubscription {
  public:
    virtual ~EventSubscription() = default;
    // The next event; nullopt at `until` or when the daemon ends. resource_exhausted when the reader was too slow;
    // cancelled when the calling coroutine is (Asio's cancellation).
    virtual asio::awaitable<Result<std::optional<Event>>> next() = 0;
    virtual void cancel() = 0;  // a pending or the next next() ends with nullopt
};

struct EventQuery {
    std::optional<WallTime> since;  // with it, kept events come first
    std::optional<WallTime> until;
    Filters filters;
};

class EventBus {
  public:
    explicit EventBus(asio::any_io_executor executor);
    ~EventBus();
    EventBus(const EventBus&) = delete;
    EventBus& operator=(const EventBus&) = delete;

    void publish(Event event);
    Result<std::unique_ptr<EventSubscription>> subscribe(EventQuery query);
    void close();  // ends all subscriptions
    std::size_t subscribers() const { return subscriptions_.size(); }

    static constexpr std::size_t ring_capacity = 1024;
    static constexpr std::size_t subscriber_capacity = 4096;

  private:
    friend class Subscription;
    class Subscription;
    asio::any_io_executor executor_;
    std::deque<Event> ring_;
    std::vector<Subscription*> subscriptions_;
    bool closed_ = false;
};

}  // namespace wherry::engine
