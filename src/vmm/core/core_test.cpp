// Buses, buckets, requests and filters.
#include <gtest/gtest.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <tuple>

#include "vmm/core/bus.hpp"
#include "vmm/core/http.hpp"
#include "vmm/core/metrics.hpp"
#include "vmm/core/rate_limiter.hpp"
#include "vmm/core/seccomp_filter.hpp"

namespace wherry::vmm {
namespace {

class Echo final : public BusDevice {
  public:
    void read(std::uint64_t offset, std::span<std::byte> out) override {
        std::ranges::fill(out, static_cast<std::byte>(offset));
    }
    void write(std::uint64_t offset, std::span<const std::byte>) override { last = offset; }
    std::uint64_t last = 0;
};

TEST(MetricsLine, TellsWhatWasCountedSinceTheLineBefore) {
    Counter one, two;
    Gauge gauge;
    MetricsLine line;
    line.begin("a\"b");
    line.add("one", &one);
    line.add("two", &two);
    line.add("none", nullptr);
    line.begin("sums");
    line.add_sum("sum", std::array{&one, &two});
    line.add_sum("empty", {});
    line.add("gauge", gauge);
    line.finish();
    const auto rest = [](std::string_view text) {
        EXPECT_TRUE(text.starts_with(R"({"utc_timestamp_ms":1)")) << text;
        EXPECT_TRUE(text.ends_with("\n"));
        return std::string(text.substr(text.find(',')));
    };
    one.add(UINT64_MAX);
    two.add(7);
    gauge.set(5);
    const std::string full = "\n";
    for (int i = 0; i < 2; ++i) {  // looking changes nothing
        EXPECT_EQ(
            rest(line.peek()),
            R"(,"a\"b":{"one":18446744073709551615,"two":7,"none":0},"sums":{"sum":6,"empty":0,"gauge":5}})" + full);
    }
    line.take();
    two.add(2);
    EXPECT_EQ(rest(line.take()), R"(,"a\"b":{"one":0,"two":2,"none":0},"sums":{"sum":2,"empty":0,"gauge":5}})" + full);
}

TEST(LastMetrics, IsWrittenOnce) {
    std::array<int, 2> pipe = {};
    ASSERT_EQ(::pipe(pipe.data()), 0);
    const Fd from(pipe[0]), to(pipe[1]);
    LastMetrics last;
    Counter counter;
    const auto make = [&counter] {
        auto line = std::make_unique<MetricsLine>();
        line->begin("a");
        line->add("one", &counter);
        line->finish();
        return line;
    };
    last.publish(make(), to.get());
    last.publish(make(), to.get());
    last.withdraw();
    LastMetrics::write_from_signal();  // there is none
    last.publish(make(), to.get());
    counter.add();
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        LastMetrics::write_from_signal();
        LastMetrics::write_from_signal();
        _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    std::array<char, 256> text = {};
    const ssize_t n = read(from.get(), text.data(), text.size());
    ASSERT_GT(n, 0);
    const std::string_view written(text.data(), static_cast<std::size_t>(n));
    EXPECT_TRUE(written.ends_with("\"a\":{\"one\":1}}\n")) << written;
    EXPECT_EQ(written.find('\n'), written.size() - 1);
}

TEST(Bus, FindsDevicesByTheirWholeRange) {
    Bus bus;
    auto echo = std::make_shared<Echo>();
    ASSERT_TRUE(bus.add(100, 10, echo));
    EXPECT_FALSE(bus.add(109, 1, echo));
    EXPECT_FALSE(bus.add(95, 6, echo));
    ASSERT_TRUE(bus.add(110, 10, echo));
    std::byte value{};
    EXPECT_TRUE(bus.read(109, std::span(&value, 1)));
    EXPECT_EQ(value, std::byte{9});
    EXPECT_FALSE(bus.read(99, std::span(&value, 1)));
    EXPECT_EQ(value, std::byte{0xff});
    std::array<std::byte, 4> wide{};
    EXPECT_FALSE(bus.read(107, wide));
    EXPECT_FALSE(bus.write(118, wide));
}

constexpr std::int64_t ms = 1'000'000;

TEST(RateLimiter, RefillsOverTime) {
    RateLimiter limiter(
        {.bandwidth = BucketConfig{.size = 1000, .one_time_burst = 500, .refill_time_ms = 100}, .operations = {}}, 0);
    EXPECT_TRUE(limiter.take(500, 0));  // the burst
    EXPECT_TRUE(limiter.take(1000, 0));
    EXPECT_FALSE(limiter.take(100, 0));
    EXPECT_EQ(limiter.wait().count(), 10 * ms);
    EXPECT_FALSE(limiter.take(100, 9 * ms));
    EXPECT_TRUE(limiter.take(100, 10 * ms));
    EXPECT_TRUE(limiter.take(5000, 200 * ms));  // more than the bucket: when it is full, into debt
    EXPECT_FALSE(limiter.take(1, 300 * ms));
    EXPECT_TRUE(limiter.take(1, 700 * ms));
}

TEST(RateLimiter, AnOperationHeldBackByBytesIsNotCounted) {
    RateLimiter limiter({.bandwidth = BucketConfig{.size = 10, .one_time_burst = 0, .refill_time_ms = 1000},
                         .operations = BucketConfig{.size = 2, .one_time_burst = 0, .refill_time_ms = 1000000}},
                        0);
    EXPECT_TRUE(limiter.take(10, 0));
    for (int i = 0; i < 5; ++i) EXPECT_FALSE(limiter.take(10, 1 * ms));
    EXPECT_TRUE(limiter.take(10, 1000 * ms));
    EXPECT_FALSE(limiter.take(0, 2000 * ms));
    limiter.update({.bandwidth = {}, .operations = BucketConfig{}}, 2000 * ms);
    EXPECT_TRUE(limiter.take(0, 2000 * ms));
    EXPECT_FALSE(limiter.config().operations);
}

TEST(Http, TakesRequestsByteByByte) {
    HttpParser parser({});
    const std::string_view text =
        "PUT /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.0\r\n\r\n";
    std::vector<HttpRequest> got;
    for (char c : text) {
        parser.feed({&c, 1});
        auto request = parser.next();
        ASSERT_TRUE(request) << request.error().describe();
        if (*request) got.push_back(std::move(**request));
    }
    ASSERT_EQ(got.size(), 2U);
    EXPECT_EQ(got[0].body, "hello");
    EXPECT_EQ(got[0].target, "/a?b");
    EXPECT_TRUE(got[0].keep_alive);
    EXPECT_EQ(*got[0].header("host"), "x");
    EXPECT_FALSE(got[1].keep_alive);
}

TEST(Http, RefusesWhatIsNone) {
    for (std::string_view text :
         {"GET\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/2\r\n\r\n", "G@T / HTTP/1.1\r\n\r\n",
          "GET / HTTP/1.1\r\nbad\r\n\r\n", "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
          "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
          "GET / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
          "GET / HTTP/1.1\r\n b: c\r\n\r\n", "GET  HTTP/1.1\r\n\r\n"}) {
        HttpParser parser({});
        parser.feed(text);
        EXPECT_FALSE(parser.next()) << text;
    }
    HttpParser parser({.head_bytes = 16, .body_bytes = 16});
    parser.feed("GET /aaaaaaaaaaaaaaaaaaaaaaaaaa");
    EXPECT_FALSE(parser.next());
}

// Whether a child under the filter survives f.
template <class F>
bool survives(const confine::SeccompProgram& program, F f) {
    const pid_t child = fork();
    if (child == 0) {
        if (!install(program)) _exit(99);
        f();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(SeccompFilter, LetsThroughWhatIsListedOnly) {
    for (ThreadKind kind : {ThreadKind::vmm, ThreadKind::api, ThreadKind::vcpu}) {
        const auto program = default_programs(DeviceBus::pci).of(kind);
        EXPECT_TRUE(survives(program, [] { syscall(SYS_gettid); }));
        EXPECT_FALSE(survives(program, [] { syscall(SYS_execve, nullptr, nullptr, nullptr); }));
        EXPECT_FALSE(survives(program, [] { syscall(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr); }));
        EXPECT_FALSE(survives(program, [] { syscall(SYS_ptrace, 0, 0, 0, 0); }));
        EXPECT_TRUE(survives(program,
                             [] { std::ignore = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }));
        EXPECT_FALSE(survives(program, [] {
            std::ignore = mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        }));
    }
    const auto programs = default_programs(DeviceBus::pci);
    EXPECT_TRUE(survives(programs.vmm, [] { syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0); }));
    EXPECT_FALSE(survives(programs.vmm, [] { syscall(SYS_socket, AF_INET, SOCK_STREAM, 0); }));
    EXPECT_FALSE(survives(programs.vcpu, [] { syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0); }));
    EXPECT_FALSE(survives(programs.vcpu, [] { syscall(SYS_openat, -100, "/", 0, 0); }));
}

TEST(SeccompFilter, TakesCustomLists) {
#if __has_feature(address_sanitizer)
    GTEST_SKIP() << "the sanitizer's own system calls are not in so short a list";
#endif
    const std::string rest =
        R"({"default_action":"kill_process","filter_action":"allow","filter":[{"syscall":"exit_group"}]})";
    const auto programs = parse_programs(
        R"({"vmm":{"default_action":"trap","filter_action":"allow","filter":[{"syscall":"exit_group"},{"syscall":"dup","args":[{"index":0,"type":"dword","op":"eq","val":1}]}]},"api":)" +
        rest + R"(,"vcpu":)" + rest + "}");
    ASSERT_TRUE(programs) << programs.error().describe();
    EXPECT_TRUE(survives(programs->vmm, [] { syscall(SYS_dup, 1); }));
    EXPECT_FALSE(survives(programs->vmm, [] { syscall(SYS_dup, 2); }));
    EXPECT_FALSE(survives(programs->api, [] { syscall(SYS_dup, 1); }));
    EXPECT_FALSE(parse_programs("{}"));
    EXPECT_FALSE(
        parse_programs(R"({"vmm":{"filter":[{"syscall":"nothing"}]},"api":{"filter":[]},"vcpu":{"filter":[]}})"));
}

}  // namespace
}  // namespace wherry::vmm
