#include "engine/events.hpp"

#include <algorithm>
#include <boost/asio/this_coro.hpp>
#include <utility>

#include "engine/async.hpp"

namespace wherry::engine {

Result<> check_filters(const Filters& filters, std::initializer_list<std::string_view> known) {
    for (const auto& [key, values] : filters) {
        if (std::ranges::find(known, std::string_view(key)) == known.end()) {
            return fail(Code::invalid_argument, "invalid filter '" + key + "'");
        }
    }
    return {};
}

bool labels_match(const std::map<std::string, std::string>& labels, const std::vector<std::string>& wanted) {
    return std::ranges::all_of(wanted, [&](const std::string& one) {
        const std::size_t equals = one.find('=');
        const auto found = labels.find(one.substr(0, equals));
        return found != labels.end() && (equals == std::string::npos || found->second == one.substr(equals + 1));
    });
}

bool matches_label_filters(const std::map<std::string, std::string>& labels, const Filters& filters) {
    if (const auto wanted = filters.find("label"); wanted != filters.end() && !labels_match(labels, wanted->second))
        return false;
    const auto unwanted = filters.find("label!");
    return unwanted == filters.end() ||
           std::ranges::none_of(unwanted->second, [&](const std::string& one) { return labels_match(labels, {one}); });
}

Result<EventFilter> EventFilter::create(Filters filters) {
    TRY(check_filters(filters, {"config", "container", "daemon", "event", "image", "label", "network", "node", "plugin",
                                "scope", "secret", "service", "type", "volume"}));
    EventFilter filter;
    filter.filters_ = std::move(filters);
    return filter;
}

bool EventFilter::matches(const Event& event) const {
    const auto any_of = [](const std::vector<std::string>& values, auto&& test) {
        return values.empty() || std::ranges::any_of(values, test);
    };
    const auto attribute = [&](const char* name) {
        const auto found = event.attributes.find(name);
        return found == event.attributes.end() ? std::string() : found->second;
    };
    // Does one of the values name the thing: by id, a prefix of it, or its name?
    const auto names = [&](const std::vector<std::string>& values, const std::string& id, const std::string& name) {
        return any_of(values, [&](const std::string& value) {
            return value == name || (!value.empty() && id.starts_with(value));
        });
    };
    for (const auto& [key, values] : filters_) {
        bool good = true;
        if (key == "type") {
            good = any_of(values, [&](const std::string& value) { return value == event.type; });
        } else if (key == "event") {
            // "exec_start" matches "exec_start: sh"
            good = any_of(values, [&](const std::string& value) {
                return value == event.action || event.action.starts_with(value + ":");
            });
        } else if (key == "label") {
            good = labels_match(event.attributes, values);
        } else if (key == "scope") {
            good = any_of(values, [](const std::string& value) { return value == "local"; });
        } else if (key == "image") {
            const std::string image = event.type == "image" ? attribute("name") : attribute("image");
            good = any_of(values, [&](const std::string& value) {
                return value == image || value == image.substr(0, image.rfind(':')) ||
                       (event.type == "image" && value == event.id);
            });
        } else if (key == "container" || key == "volume" || key == "network" || key == "daemon") {
            good = event.type == key ? names(values, event.id, attribute("name"))
                                     : !values.empty() && names(values, attribute(key.c_str()), "");
        } else {
            good = values.empty();  // nothing here ever is a service, a node, ...
        }
        if (!good) return false;
    }
    return true;
}

class EventBus::Subscription final : public EventSubscription {
  public:
    Subscription(EventBus* bus, EventQuery query, EventFilter filter)
        : bus_(bus), filter_(std::move(filter)), until_(query.until) {
        if (query.since) {
            for (const Event& event : bus->ring_) {
                if (event.time >= *query.since && wanted(event)) queue_.push_back(event);
            }
        }
    }
    ~Subscription() override { forget(); }

    void offer(const Event& event) {
        if (!wanted(event) || overflowed_) return;
        if (queue_.size() >= subscriber_capacity) {
            overflowed_ = true;
            queue_.clear();
        } else {
            queue_.push_back(event);
        }
        ready_.notify_all();
    }
    void end() {
        bus_ = nullptr;
        ready_.notify_all();
    }
    void cancel() override {
        forget();
        queue_.clear();
        ready_.notify_all();
    }

    asio::awaitable<Result<std::optional<Event>>> next() override {
        while (true) {
            if (overflowed_) co_return fail(Code::resource_exhausted, "events were not read fast enough");
            if (!queue_.empty()) {
                Event event = std::move(queue_.front());
                queue_.pop_front();
                co_return std::optional<Event>(std::move(event));
            }
            if (bus_ == nullptr) co_return std::optional<Event>();
            Signal::Clock::time_point deadline = Signal::Clock::time_point::max();
            if (until_) {
                const auto left = *until_ - wall_now();
                if (left <= Nanoseconds::zero()) co_return std::optional<Event>();
                deadline = Signal::Clock::now() + left;
            }
            co_await ready_.wait(deadline);
            if ((co_await asio::this_coro::cancellation_state).cancelled() != asio::cancellation_type::none)
                co_return fail(Code::cancelled, "the reader of the events went away");
        }
    }

  private:
    bool wanted(const Event& event) const { return (!until_ || event.time <= *until_) && filter_.matches(event); }
    void forget() {
        if (bus_ != nullptr) std::erase(bus_->subscriptions_, this);
        bus_ = nullptr;
    }

    EventBus* bus_;
    EventFilter filter_;
    std::optional<WallTime> until_;
    std::deque<Event> queue_;
    bool overflowed_ = false;
    Signal ready_;
};

EventBus::EventBus(asio::any_io_executor executor) : executor_(std::move(executor)) {}
EventBus::~EventBus() {
    close();
}

void EventBus::publish(Event event) {
    if (event.time == WallTime{}) event.time = wall_now();
    for (Subscription* subscription : subscriptions_) subscription->offer(event);
    ring_.push_back(std::move(event));
    if (ring_.size() > ring_capacity) ring_.pop_front();
}

Result<std::unique_ptr<EventSubscription>> EventBus::subscribe(EventQuery query) {
    if (closed_) return fail(Code::unavailable, "the daemon is shutting down");
    EventFilter filter = TRY(EventFilter::create(query.filters));
    auto subscription = std::make_unique<Subscription>(this, std::move(query), std::move(filter));
    subscriptions_.push_back(subscription.get());
    return subscription;
}

void EventBus::close() {
    closed_ = true;
    for (Subscription* subscription : std::exchange(subscriptions_, {})) subscription->end();
}

}  // namespace wherry::engine
