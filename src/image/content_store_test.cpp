#include "image/content_store.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace wherry::image {
namespace {

class ContentStoreTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "wherry-content-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        root_ = pattern;
        store_ = std::move(*ContentStore::open(root_));
    }
    void TearDown() override { std::filesystem::remove_all(root_); }

    std::string root_;
    std::unique_ptr<ContentStore> store_;
};

TEST_F(ContentStoreTest, KeepsBlobsByDigest) {
    auto blob = store_->put("hello");
    ASSERT_TRUE(blob);
    EXPECT_EQ(blob->digest, sha256_digest("hello"));
    EXPECT_EQ(blob->size_bytes, 5U);
    EXPECT_TRUE(store_->has(blob->digest));
    EXPECT_EQ(*store_->read(blob->digest), "hello");
    ASSERT_TRUE(store_->put("hello"));  // again: no error, one blob
    EXPECT_EQ(store_->list()->size(), 1U);
    EXPECT_TRUE(store_->verify(blob->digest));
    ASSERT_TRUE(store_->remove(blob->digest));
    EXPECT_FALSE(store_->has(blob->digest));
    EXPECT_EQ(store_->info(blob->digest).error().code(), Code::not_found);
}

TEST_F(ContentStoreTest, RefusesWrongDigestAndLeavesNothing) {
    auto blob = store_->put("hello", sha256_digest("other"));
    ASSERT_FALSE(blob);
    EXPECT_EQ(blob.error().code(), Code::data_loss);
    EXPECT_TRUE(store_->list()->empty());
    EXPECT_TRUE(std::filesystem::is_empty(root_ + "/ingest"));
}

TEST_F(ContentStoreTest, LimitsWhatASourceGives) {
    auto source = ByteSource::from_string(std::string(100, 'x'));
    EXPECT_EQ(store_->put(source, 99).error().code(), Code::resource_exhausted);
    auto fits = ByteSource::from_string(std::string(100, 'x'));
    EXPECT_TRUE(store_->put(fits, 100));
}

TEST_F(ContentStoreTest, DigestsNeverBecomePaths) {
    for (const char* bad : {"", "sha256:", "sha256:../../../etc/passwd", "../x", "sha512:00"}) {
        EXPECT_FALSE(store_->has(bad));
        EXPECT_EQ(store_->open_blob(bad).error().code(), Code::invalid_argument);
    }
}

TEST_F(ContentStoreTest, SweepsWhatACrashLeft) {
    std::ofstream(root_ + "/ingest/half") << "half";
    store_.reset();
    store_ = std::move(*ContentStore::open(root_));
    EXPECT_TRUE(std::filesystem::is_empty(root_ + "/ingest"));
}

TEST_F(ContentStoreTest, FindsTampering) {
    auto blob = store_->put("hello");
    std::string path = root_ + "/blobs/sha256/" + blob->digest.substr(7);
    ::chmod(path.c_str(), 0600);
    std::ofstream(path) << "hullo";
    EXPECT_EQ(store_->verify(blob->digest).error().code(), Code::data_loss);
}

}  // namespace
}  // namespace wherry::image
