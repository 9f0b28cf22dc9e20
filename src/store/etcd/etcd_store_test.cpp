// The contract on a real etcd: one on loopback with a data folder of its own, for all tests.
#include "store/etcd/etcd_store.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <set>

#include "base/fd.hpp"
#include "store/store_contract_test.hpp"

namespace wherry::store {
namespace {

constexpr const char* etcd_binary = "/usr/bin/etcd";

std::string free_address() {
    const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    // SAFETY: the sockets API takes every address family through sockaddr.
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
        ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
        return {};
    return "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

class Etcd {
  public:
    // nullptr: not installed, or it does not start.
    static Etcd* instance() {
        static Etcd etcd;
        return etcd.pid_ > 0 ? &etcd : nullptr;
    }
    ~Etcd() { stop(); }
    Etcd(const Etcd&) = delete;
    Etcd& operator=(const Etcd&) = delete;

    EtcdOptions options(std::string prefix) const {
        EtcdOptions options;
        options.cluster.endpoints = {address_};
        options.prefix = std::move(prefix);
        return options;
    }

    void stop() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            ::waitpid(pid_, nullptr, 0);
            pid_ = -1;
        }
        if (!folder_.empty()) std::ignore = remove_tree(folder_);
    }

  private:
    Etcd() {
        if (::access(etcd_binary, X_OK) != 0) return;
        char name[] = "/tmp/wherry-etcd-XXXXXX";
        if (::mkdtemp(name) == nullptr) return;
        folder_ = name;
        address_ = free_address();
        const std::string peer = free_address();
        std::vector<std::string> words{etcd_binary,
                                       "--data-dir",
                                       folder_ + "/data",
                                       "--listen-client-urls",
                                       address_,
                                       "--advertise-client-urls",
                                       address_,
                                       "--listen-peer-urls",
                                       peer,
                                       "--initial-advertise-peer-urls",
                                       peer,
                                       "--initial-cluster",
                                       "default=" + peer};
        std::vector<char*> argv;
        for (std::string& word : words) argv.push_back(word.data());
        argv.push_back(nullptr);
        const std::string log = folder_ + "/log";
        pid_ = ::fork();
        if (pid_ == 0) {
            // SAFETY: after fork: async-signal-safe calls only.
            const int file = ::open(log.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
            ::dup2(file, 1);
            ::dup2(file, 2);
            ::execv(argv[0], argv.data());
            ::_exit(127);
        }
        for (int i = 0; i < 600; ++i) {
            if (open_etcd_store(options("/probe"))) return;
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
        stop();
    }

    pid_t pid_ = -1;
    std::string folder_;
    std::string address_;
};

class EtcdPlace final : public StorePlace {
  public:
    explicit EtcdPlace(std::string prefix) : prefix_(std::move(prefix)) {}
    Result<std::unique_ptr<Store>> open() override { return open_etcd_store(Etcd::instance()->options(prefix_)); }

  private:
    std::string prefix_;
};

std::string fresh_prefix() {
    static int count = 0;
    return "/test" + std::to_string(++count);
}

#define NEED_ETCD() \
    if (Etcd::instance() == nullptr) GTEST_SKIP() << "etcd (etcd-server) is not installed, or does not start"

StoreFactory factory() {
    return {.name = "etcd", .make = [] { return std::make_unique<EtcdPlace>(fresh_prefix()); }};
}

// Without etcd the contract's tests would have nothing to run on: then they are not there, and this one says so.
std::vector<StoreFactory> factories() {
    if (Etcd::instance() == nullptr) return {};
    return {factory()};
}
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(StoreContract);
INSTANTIATE_TEST_SUITE_P(Etcd, StoreContract, ::testing::ValuesIn(factories()),
                         [](const auto& information) { return information.param.name; });

TEST(EtcdStore, RunsTheContract) {
    NEED_ETCD();
}

Record thing(std::string key, std::string spec = "{}") {
    return {.kind = "thing", .key = std::move(key), .spec = std::move(spec), .status = "{}"};
}

TEST(EtcdStore, TwoProcessesShareOneStore) {
    NEED_ETCD();
    const std::string prefix = fresh_prefix();
    auto one = open_etcd_store(Etcd::instance()->options(prefix));
    auto two = open_etcd_store(Etcd::instance()->options(prefix));
    ASSERT_TRUE(one && two);
    auto watch = (*two)->watch({}, 0);
    ASSERT_TRUE(watch);
    std::jthread writer([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        std::ignore = (*one)->create(thing("a"));
    });
    auto changes = (*watch)->next(std::chrono::seconds(30));
    ASSERT_TRUE(changes) << changes.error().describe();
    ASSERT_EQ(changes->size(), 1U);
    EXPECT_EQ(changes->front().record.key, "a");
    EXPECT_EQ((*two)->create(thing("a")).error().code(), Code::already_exists);
    EXPECT_EQ((*two)->create(thing("b"))->revision, 2U);
}

TEST(EtcdStore, WritersOfManyProcessesLoseNothing) {
    NEED_ETCD();
    const std::string prefix = fresh_prefix();
    constexpr int writers = 4;
    constexpr int rounds = 10;
    std::vector<std::unique_ptr<Store>> stores;
    for (int i = 0; i < writers; ++i) stores.push_back(std::move(*open_etcd_store(Etcd::instance()->options(prefix))));
    {
        std::vector<std::jthread> threads;
        for (int i = 0; i < writers; ++i) {
            threads.emplace_back([&, i] {
                for (int round = 0; round < rounds; ++round) {
                    auto made = stores[static_cast<std::size_t>(i)]->create(
                        thing(std::to_string(i) + "-" + std::to_string(round)));
                    EXPECT_TRUE(made) << made.error().describe();
                }
            });
        }
    }
    auto listing = stores[0]->list({});
    ASSERT_TRUE(listing);
    EXPECT_EQ(listing->records.size(), static_cast<std::size_t>(writers * rounds));
    EXPECT_EQ(listing->revision, static_cast<Revision>(writers * rounds));
    std::set<Revision> revisions;
    for (const Record& record : listing->records) revisions.insert(record.revision);
    EXPECT_EQ(revisions.size(), listing->records.size());
}

TEST(EtcdStore, NamesMayHoldAnyByte) {
    NEED_ETCD();
    auto store = open_etcd_store(Etcd::instance()->options(fresh_prefix()));
    ASSERT_TRUE(store);
    // Kinds that begin alike do not mix, whatever their next character sorts like.
    ASSERT_TRUE((*store)->create({.kind = "a", .key = "z/../%\"\n", .spec = "{}", .status = "{}"}));
    ASSERT_TRUE((*store)->create({.kind = "a-b", .key = "y", .spec = "{}", .status = "{}"}));
    EXPECT_EQ((*store)->get("a", "z/../%\"\n")->key, "z/../%\"\n");
    EXPECT_EQ((*store)->list({.kind = "a"})->records.size(), 1U);
    EXPECT_EQ((*store)->list({})->records.front().kind, "a");
}

TEST(EtcdStore, TheHistoryIsTrimmed) {
    NEED_ETCD();
    EtcdOptions options = Etcd::instance()->options(fresh_prefix());
    options.history_limit = 10;
    auto store = open_etcd_store(options);
    ASSERT_TRUE(store);
    std::vector<Transaction> batch;
    for (int i = 0; i < 300; ++i) batch.push_back({Put{thing("a", std::to_string(i))}});
    for (const auto& result : (*store)->commit_all(batch)) ASSERT_TRUE(result) << result.error().describe();
    EXPECT_EQ(*(*store)->revision(), 300U);
    auto watch = (*store)->watch({}, 0);
    ASSERT_TRUE(watch);
    EXPECT_EQ((*watch)->next(std::chrono::milliseconds(0)).error().code(), Code::out_of_range);
    watch = (*store)->watch({}, 295);
    EXPECT_EQ((*watch)->next(std::chrono::milliseconds(0))->size(), 5U);
}

TEST(EtcdStore, TooBigATransactionIsRefused) {
    NEED_ETCD();
    auto store = open_etcd_store(Etcd::instance()->options(fresh_prefix()));
    ASSERT_TRUE(store);
    Transaction transaction;
    for (int i = 0; i < 200; ++i) transaction.emplace_back(Create{thing(std::to_string(i))});
    EXPECT_EQ((*store)->commit(transaction).error().code(), Code::resource_exhausted);
    EXPECT_EQ(*(*store)->revision(), 0U);
}

TEST(EtcdStore, ForeignDataIsNotTouched) {
    NEED_ETCD();
    const std::string prefix = fresh_prefix();
    EtcdOptions options = Etcd::instance()->options(prefix);
    auto client = EtcdClient::create(options.cluster);
    ASSERT_TRUE(client);
    ASSERT_TRUE(
        (*client)->transact({}, {{.kind = EtcdOperation::Kind::put, .key = prefix + "/revision", .value = "theirs"}}));
    EXPECT_EQ(open_etcd_store(options).error().code(), Code::data_loss);
}

TEST(EtcdStore, NobodyThereIsSaid) {
    EtcdOptions options;
    options.cluster.endpoints = {free_address(), free_address()};
    options.cluster.request_timeout = std::chrono::milliseconds(500);
    EXPECT_EQ(open_etcd_store(options).error().code(), Code::unavailable);
    options.cluster.endpoints.clear();
    EXPECT_EQ(open_etcd_store(options).error().code(), Code::invalid_argument);
}

TEST(EtcdStore, ADeadEndpointIsPassedOver) {
    NEED_ETCD();
    EtcdOptions options = Etcd::instance()->options(fresh_prefix());
    options.cluster.endpoints.insert(options.cluster.endpoints.begin(), free_address());
    auto store = open_etcd_store(options);
    ASSERT_TRUE(store) << store.error().describe();
    EXPECT_TRUE((*store)->create(thing("a")));
}

TEST(EtcdAnswers, AreParsed) {
    auto answer = parse_etcd_answer(
        R"({"header":{"revision":"7"},"succeeded":true,"responses":[{"response_put":{}},{"response_range":{"kvs":[{"key":"YQ==","value":"Yg==","mod_revision":"5"}]}},{"response_range":{}}]})");
    ASSERT_TRUE(answer);
    EXPECT_TRUE(answer->succeeded);
    EXPECT_EQ(answer->revision, 7);
    ASSERT_EQ(answer->ranges.size(), 2U);
    EXPECT_EQ(answer->ranges[0].front().key, "a");
    EXPECT_EQ(answer->ranges[0].front().mod_revision, 5);
    for (const char* bad : {"", "[]", R"({"header":5})", R"({"header":{"revision":"x"}})", R"({"responses":{}})",
                            R"({"responses":[{"response_range":{"kvs":[{"key":"%"}]}}]})"})
        EXPECT_FALSE(parse_etcd_answer(bad)) << bad;
    EXPECT_TRUE(*parse_etcd_watch_line(R"({"result":{"events":[{"kv":{}}]}})"));
    EXPECT_FALSE(*parse_etcd_watch_line(R"({"result":{"created":true}})"));
    EXPECT_EQ(parse_etcd_watch_line(R"({"result":{"canceled":true}})").error().code(), Code::cancelled);
    EXPECT_EQ(parse_etcd_watch_line(R"({"error":{}})").error().code(), Code::unavailable);
}

TEST(EtcdPrefix, EndsBehindAllItsKeys) {
    EXPECT_EQ(etcd_prefix_end("ab"), "ac");
    EXPECT_EQ(etcd_prefix_end("a\xff"), "b");
    EXPECT_EQ(etcd_prefix_end("\xff"), std::string(1, '\0'));
}

}  // namespace
}  // namespace wherry::store
