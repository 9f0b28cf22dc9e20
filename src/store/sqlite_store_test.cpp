#include "store/sqlite_store.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "base/fd.hpp"
#include "store/store_contract_test.hpp"

namespace wherry::store {
namespace {

class Directory final : public StorePlace {
  public:
    Directory() {
        std::string pattern = "/tmp/wherry-store-XXXXXX";
        path_ = ::mkdtemp(pattern.data());
    }
    ~Directory() override { std::filesystem::remove_all(path_); }
    std::string file() const { return path_ + "/store.db"; }
    Result<std::unique_ptr<Store>> open() override { return open_sqlite_store({.path = file()}); }

  private:
    std::string path_;
};

INSTANTIATE_TEST_SUITE_P(Sqlite, StoreContract,
                         ::testing::Values(StoreFactory{"Sqlite", [] { return std::make_unique<Directory>(); }}),
                         [](const auto& info) { return info.param.name; });

TEST(SqliteStore, RefusesASecondOpener) {
    Directory place;
    auto first = place.open();
    ASSERT_TRUE(first);
    EXPECT_EQ(place.open().error().code(), Code::unavailable);
    first->reset();
    EXPECT_TRUE(place.open());
}

TEST(SqliteStore, RefusesAFileThatIsNoStore) {
    Directory place;
    ASSERT_TRUE(write_file_atomic(place.file(), std::string(5000, 'x'), 0600, Durability::none));
    EXPECT_EQ(place.open().error().code(), Code::data_loss);
}

TEST(SqliteStore, KeepsABoundedHistory) {
    Directory place;
    auto store = open_sqlite_store({.path = place.file(), .history_limit = 10});
    ASSERT_TRUE(store);
    std::vector<Transaction> batch;
    for (int i = 0; i < 300; ++i) batch.push_back({Put{{.kind = "thing", .key = "a", .spec = std::to_string(i)}}});
    std::ignore = (*store)->commit_all(batch);
    auto watch = (*store)->watch({}, 0);
    EXPECT_EQ((*watch)->next(std::chrono::milliseconds(0)).error().code(), Code::out_of_range);
    watch = (*store)->watch({}, 290);
    EXPECT_EQ((*watch)->next(std::chrono::milliseconds(0))->size(), 10U);
}

// A child writes as fast as it can and says each revision that was acknowledged; it is killed in the middle. What was
// acknowledged is there, and every transaction is there whole.
TEST(SqliteStore, KeepsWhatWasAcknowledgedWhenKilled) {
    for (int round = 0; round < 5; ++round) {
        Directory place;
        Pipe pipe = *make_pipe();
        const pid_t child = ::fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            auto store = place.open();
            for (std::uint64_t i = 0; store; ++i) {
                const std::string key = std::to_string(i);
                auto done = (*store)->commit({Create{{.kind = "left", .key = key, .spec = std::string(500, 'l')}},
                                              Create{{.kind = "right", .key = key, .spec = std::string(500, 'r')}}});
                if (!done || ::write(pipe.write.get(), &i, sizeof i) != sizeof i) break;
            }
            ::_exit(1);
        }
        pipe.write.reset();
        std::uint64_t acknowledged = 0;
        for (int seen = 0; seen < 20 + (round * 7); ++seen) {
            ASSERT_EQ(::read(pipe.read.get(), &acknowledged, sizeof acknowledged), ssize_t{sizeof acknowledged});
        }
        ::kill(child, SIGKILL);
        while (::read(pipe.read.get(), &acknowledged, sizeof acknowledged) == sizeof acknowledged) {
        }
        ::waitpid(child, nullptr, 0);
        auto store = place.open();
        ASSERT_TRUE(store) << store.error().describe();
        const auto left = (*store)->list({.kind = "left"});
        const auto right = (*store)->list({.kind = "right"});
        EXPECT_EQ(left->records.size(), right->records.size());
        EXPECT_GE(left->records.size(), acknowledged + 1);
    }
}

}  // namespace
}  // namespace wherry::store
