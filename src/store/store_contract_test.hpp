// What every Store must do, as a parameterised suite. An implementation joins with
//
//     INSTANTIATE_TEST_SUITE_P(Sqlite, StoreContract, ::testing::Values(StoreFactory{...}));
//
// Each test opens its own fresh store; `reopen` stands for a restart of the process.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "store/store.hpp"

namespace wherry::store {

// One place where a store can be opened again and again and finds what was there.
class StorePlace {
  public:
    virtual ~StorePlace() = default;
    virtual Result<std::unique_ptr<Store>> open() = 0;
};

struct StoreFactory {
    std::string name;
    std::function<std::unique_ptr<StorePlace>()> make;
};

class StoreContract : public ::testing::TestWithParam<StoreFactory> {
  protected:
    void SetUp() override {
        place_ = GetParam().make();
        open();
    }
    void open() {
        auto opened = place_->open();
        ASSERT_TRUE(opened) << opened.error().describe();
        store_ = std::move(*opened);
    }
    void reopen() {
        store_.reset();
        open();
    }
    static Record record(std::string key, std::string spec = "{}", std::string kind = "thing") {
        return {.kind = std::move(kind), .key = std::move(key), .spec = std::move(spec), .status = "{}"};
    }
    Record created(std::string key, std::string spec = "{}") {
        auto result = store_->create(record(std::move(key), std::move(spec)));
        EXPECT_TRUE(result) << result.error().describe();
        return result ? *result : Record{};
    }

    std::unique_ptr<StorePlace> place_;
    std::unique_ptr<Store> store_;
};

TEST_P(StoreContract, ACreatedRecordIsThereWithItsRevision) {
    const Record made = created("a", R"({"x":1})");
    EXPECT_EQ(made.revision, 1U);
    EXPECT_EQ(made.created, 1U);
    EXPECT_EQ(*store_->get("thing", "a"), made);
    EXPECT_EQ(*store_->revision(), 1U);
}

TEST_P(StoreContract, WhatIsMissingIsNotFound) {
    EXPECT_EQ(store_->get("thing", "a").error().code(), Code::not_found);
    EXPECT_EQ(store_->update(record("a")).error().code(), Code::not_found);
    EXPECT_EQ(store_->remove("thing", "a").error().code(), Code::not_found);
}

TEST_P(StoreContract, CreatingTwiceIsRefused) {
    created("a");
    EXPECT_EQ(store_->create(record("a")).error().code(), Code::already_exists);
    EXPECT_TRUE(store_->create(record("a", "{}", "other")));
}

TEST_P(StoreContract, ARecordNeedsAKindAndAKey) {
    EXPECT_EQ(store_->create(record("")).error().code(), Code::invalid_argument);
    EXPECT_EQ(store_->create(record("a", "{}", "")).error().code(), Code::invalid_argument);
}

TEST_P(StoreContract, AnUpdateComparesTheRevision) {
    Record first = created("a");
    Record second = first;
    first.status = R"({"state":"running"})";
    auto updated = store_->update(first);
    ASSERT_TRUE(updated);
    EXPECT_EQ(updated->revision, 2U);
    EXPECT_EQ(updated->created, 1U);
    EXPECT_EQ(store_->update(second).error().code(), Code::conflict);
    EXPECT_EQ(store_->get("thing", "a")->status, first.status);
    EXPECT_EQ(store_->get("thing", "a")->created, 1U);
}

TEST_P(StoreContract, ARemovalMayCompareTheRevision) {
    const Record made = created("a");
    EXPECT_EQ(store_->remove("thing", "a", made.revision + 1).error().code(), Code::conflict);
    const auto removed = store_->remove("thing", "a", made.revision);
    EXPECT_TRUE(removed) << removed.error().describe();
    EXPECT_EQ(store_->get("thing", "a").error().code(), Code::not_found);
}

TEST_P(StoreContract, ListingsFilterAndAreOrdered) {
    created("b1");
    created("a2");
    created("a1");
    Record elsewhere = record("a3");
    elsewhere.project = "p2";
    elsewhere.node = "n2";
    ASSERT_TRUE(store_->create(elsewhere));
    ASSERT_TRUE(store_->create(record("a1", "{}", "other")));
    auto keys = [&](const Query& query) {
        std::string all;
        const auto listing = store_->list(query);
        EXPECT_TRUE(listing);
        for (const Record& one : listing->records) all += one.kind + "/" + one.key + " ";
        return all;
    };
    EXPECT_EQ(keys({}), "other/a1 thing/a1 thing/a2 thing/a3 thing/b1 ");
    EXPECT_EQ(keys({.kind = "thing"}), "thing/a1 thing/a2 thing/a3 thing/b1 ");
    EXPECT_EQ(keys({.kind = "thing", .key_prefix = "a"}), "thing/a1 thing/a2 thing/a3 ");
    EXPECT_EQ(keys({.kind = "thing", .project = "p2"}), "thing/a3 ");
    EXPECT_EQ(keys({.node = "n2"}), "thing/a3 ");
    EXPECT_EQ(keys({.key_prefix = "%"}), "");
}

TEST_P(StoreContract, ATransactionIsAllOrNothingAndOneRevision) {
    const Record first = created("a");
    const auto good = store_->commit({Create{record("b")}, Create{record("c")}, Remove{"thing", "a", first.revision}});
    ASSERT_TRUE(good);
    EXPECT_EQ(*good, 2U);
    EXPECT_EQ(store_->get("thing", "b")->revision, 2U);
    EXPECT_EQ(store_->get("thing", "c")->revision, 2U);
    const auto bad = store_->commit({Remove{"thing", "b"}, Create{record("c")}});
    EXPECT_EQ(bad.error().code(), Code::already_exists);
    EXPECT_TRUE(store_->get("thing", "b"));
    EXPECT_EQ(*store_->revision(), 2U);
}

TEST_P(StoreContract, ChecksGuardATransaction) {
    const Record first = created("a");
    EXPECT_EQ(store_->commit({Check{"thing", "a", 99}, Create{record("b")}}).error().code(), Code::conflict);
    EXPECT_EQ(store_->commit({Check{"thing", "a", 0}, Create{record("b")}}).error().code(), Code::conflict);
    EXPECT_TRUE(store_->commit({Check{"thing", "a", first.revision}, Check{"thing", "z", 0}, Create{record("b")}}));
}

TEST_P(StoreContract, PutCreatesAndOverwrites) {
    ASSERT_TRUE(store_->commit({Put{record("a", "1")}}));
    ASSERT_TRUE(store_->commit({Put{record("a", "2")}}));
    const auto now = store_->get("thing", "a");
    EXPECT_EQ(now->spec, "2");
    EXPECT_EQ(now->created, 1U);
    EXPECT_EQ(now->revision, 2U);
}

TEST_P(StoreContract, TransactionsCommittedTogetherStayIndependent) {
    const std::vector<Transaction> batch{{Create{record("a")}}, {Create{record("a")}}, {Create{record("b")}}};
    const auto results = store_->commit_all(batch);
    ASSERT_EQ(results.size(), 3U);
    EXPECT_TRUE(results[0]);
    EXPECT_EQ(results[1].error().code(), Code::already_exists);
    EXPECT_TRUE(results[2]);
    EXPECT_GT(*results[2], *results[0]);
}

TEST_P(StoreContract, EverythingIsThereAfterAReopen) {
    created("a", R"({"text":"ä\u0000"})");
    created("b");
    ASSERT_TRUE(store_->remove("thing", "b"));
    const auto before = store_->list({});
    reopen();
    const auto after = store_->list({});
    EXPECT_EQ(before->records, after->records);
    EXPECT_EQ(before->revision, after->revision);
    EXPECT_EQ(created("c").revision, 4U);
}

TEST_P(StoreContract, AWatchTellsEveryChangeInOrder) {
    created("a");
    auto watch = store_->watch({.kind = "thing"}, *store_->revision());
    ASSERT_TRUE(watch);
    EXPECT_TRUE((*watch)->next(std::chrono::milliseconds(0))->empty());
    created("b", "1");
    ASSERT_TRUE(store_->create(record("x", "{}", "other")));
    ASSERT_TRUE(store_->commit({Remove{"thing", "a"}, Put{record("b", "2")}}));
    auto changes = (*watch)->next(std::chrono::milliseconds(1000));
    ASSERT_TRUE(changes);
    ASSERT_EQ(changes->size(), 3U);
    EXPECT_EQ((*changes)[0].record.spec, "1");
    EXPECT_EQ((*changes)[1].type, Change::Type::removed);
    EXPECT_EQ((*changes)[1].record.key, "a");
    EXPECT_EQ((*changes)[2].record.spec, "2");
    EXPECT_EQ((*changes)[1].record.revision, (*changes)[2].record.revision);
}

TEST_P(StoreContract, AWatchWakesUpAndGoesOnAfterAReopen) {
    auto watch = store_->watch({}, 0);
    std::jthread writer([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        std::ignore = store_->create(record("late"));
    });
    auto changes = (*watch)->next(std::chrono::seconds(10));
    writer.join();
    ASSERT_TRUE(changes);
    ASSERT_EQ(changes->size(), 1U);
    const Revision seen = changes->front().record.revision;
    created("later");
    reopen();
    EXPECT_EQ((*watch)->next(std::chrono::milliseconds(0)).error().code(), Code::unavailable);
    watch = store_->watch({}, seen);
    changes = (*watch)->next(std::chrono::milliseconds(0));
    ASSERT_EQ(changes->size(), 1U);
    EXPECT_EQ(changes->front().record.key, "later");
}

TEST_P(StoreContract, ACompactedPositionIsSaid) {
    created("a");
    created("b");
    ASSERT_TRUE(store_->compact(1));
    auto watch = store_->watch({}, 0);
    ASSERT_TRUE(watch);
    EXPECT_EQ((*watch)->next(std::chrono::milliseconds(0)).error().code(), Code::out_of_range);
    watch = store_->watch({}, 1);
    EXPECT_EQ((*watch)->next(std::chrono::milliseconds(0))->size(), 1U);
    EXPECT_TRUE(store_->get("thing", "a"));
    EXPECT_EQ(store_->compact(99).error().code(), Code::out_of_range);
    EXPECT_EQ(store_->watch({}, 99).error().code(), Code::invalid_argument);
}

TEST_P(StoreContract, OfManyWritersOneWinsEachRevision) {
    created("counter", "0");
    constexpr int writers = 4;
    constexpr int rounds = 25;
    {
        std::vector<std::jthread> threads;
        for (int i = 0; i < writers; ++i) {
            threads.emplace_back([&] {
                for (int done = 0; done < rounds;) {
                    Record now = *store_->get("thing", "counter");
                    now.spec = std::to_string(std::stoi(now.spec) + 1);
                    if (store_->update(now)) ++done;
                }
            });
        }
    }
    EXPECT_EQ(store_->get("thing", "counter")->spec, std::to_string(writers * rounds));
}

}  // namespace wherry::store
