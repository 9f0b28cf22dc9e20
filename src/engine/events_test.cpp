#include "engine/events.hpp"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <thread>

#include "engine/async.hpp"

namespace wherry::engine {
namespace {

Event event(std::string type, std::string action, std::string id, std::map<std::string, std::string> attributes = {}) {
    return {.type = std::move(type),
            .action = std::move(action),
            .id = std::move(id),
            .attributes = std::move(attributes),
            .time = wall_now()};
}

bool matches(Filters filters, const Event& one) {
    return EventFilter::create(std::move(filters))->matches(one);
}

TEST(EventFilter, FollowsDockersRules) {
    const Event start = event("container", "start", "abc", {{"name", "web"}, {"image", "busybox:1"}, {"team", "a"}});
    EXPECT_TRUE(matches({}, start));
    EXPECT_TRUE(matches({{"type", {"image", "container"}}}, start));
    EXPECT_FALSE(matches({{"type", {"image"}}}, start));
    EXPECT_TRUE(matches({{"container", {"web"}}}, start));
    EXPECT_TRUE(matches({{"container", {"ab"}}}, start));
    EXPECT_FALSE(matches({{"container", {"other"}}}, start));
    EXPECT_TRUE(matches({{"image", {"busybox"}}}, start));
    EXPECT_TRUE(matches({{"label", {"team=a"}}}, start));
    EXPECT_FALSE(matches({{"label", {"team=b"}}}, start));
    EXPECT_TRUE(matches({{"event", {"exec_start"}}}, event("container", "exec_start: sh", "abc")));
    EXPECT_EQ(EventFilter::create({{"nonsense", {"x"}}}).error().message(), "invalid filter 'nonsense'");
}

asio::awaitable<void> collect(EventSubscription& subscription, std::vector<std::string>& seen,
                              std::optional<Code>& failure) {
    while (true) {
        auto next = co_await subscription.next();
        if (!next) {
            failure = next.error().code();
            co_return;
        }
        if (!*next) co_return;
        seen.push_back((*next)->action);
    }
}

TEST(EventBus, GivesKeptOnesThenLiveOnesAndEnds) {
    asio::io_context io;
    EventBus bus(io.get_executor());
    bus.publish(event("container", "create", "a"));
    bus.publish(event("image", "tag", "b"));
    auto subscription =
        bus.subscribe({.since = WallTime{}, .until = std::nullopt, .filters = {{"type", {"container"}}}});
    ASSERT_TRUE(subscription);
    std::vector<std::string> seen;
    std::optional<Code> failure;
    asio::co_spawn(io, collect(**subscription, seen, failure), asio::detached);
    io.poll();
    EXPECT_EQ(seen, std::vector<std::string>{"create"});
    bus.publish(event("container", "start", "a"));
    io.poll();
    EXPECT_EQ(seen.size(), 2U);
    bus.close();
    io.run();
    EXPECT_FALSE(failure);
    EXPECT_FALSE(bus.subscribe({}));
}

TEST(EventBus, ASlowReaderLosesItsSubscriptionNotMemory) {
    asio::io_context io;
    EventBus bus(io.get_executor());
    auto subscription = bus.subscribe({});
    for (std::size_t i = 0; i <= EventBus::subscriber_capacity; ++i) bus.publish(event("container", "start", "a"));
    std::vector<std::string> seen;
    std::optional<Code> failure;
    asio::co_spawn(io, collect(**subscription, seen, failure), asio::detached);
    io.run();
    EXPECT_EQ(failure, Code::resource_exhausted);
}

TEST(EventBus, UntilEnds) {
    asio::io_context io;
    EventBus bus(io.get_executor());
    auto subscription =
        bus.subscribe({.since = std::nullopt, .until = wall_now() + std::chrono::milliseconds(20), .filters = {}});
    std::vector<std::string> seen;
    std::optional<Code> failure;
    asio::co_spawn(io, collect(**subscription, seen, failure), asio::detached);
    io.run();
    EXPECT_TRUE(seen.empty());
    EXPECT_FALSE(failure);
}

asio::awaitable<void> critical(Mutex& mutex, std::vector<int>& order, int number, asio::io_context& io) {
    const Mutex::Guard guard = co_await mutex.lock();
    order.push_back(number);
    asio::steady_timer pause(io, std::chrono::milliseconds(1));
    co_await pause.async_wait(asio::use_awaitable);
    order.push_back(number);
}

TEST(Async, AMutexLetsOneInAfterTheOther) {
    asio::io_context io;
    Mutex mutex;
    std::vector<int> order;
    for (int i = 0; i < 3; ++i) asio::co_spawn(io, critical(mutex, order, i, io), asio::detached);
    io.run();
    EXPECT_EQ(order, (std::vector<int>{0, 0, 1, 1, 2, 2}));
}

asio::awaitable<void> use_pool(Pool& pool, std::thread::id loop, bool& elsewhere, bool& back) {
    const auto result = co_await pool.run([]() -> Result<std::thread::id> { return std::this_thread::get_id(); });
    elsewhere = *result != loop;
    back = std::this_thread::get_id() == loop;
}

TEST(Async, ThePoolWorksElsewhereAndComesBack) {
    asio::io_context io;
    Pool pool(1);
    bool elsewhere = false;
    bool back = false;
    asio::co_spawn(io, use_pool(pool, std::this_thread::get_id(), elsewhere, back), asio::detached);
    io.run();
    EXPECT_TRUE(elsewhere);
    EXPECT_TRUE(back);
    pool.join();
}

}  // namespace
}  // namespace wherry::engine
