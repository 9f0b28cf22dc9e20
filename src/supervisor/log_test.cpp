#include "supervisor/log.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "base/fd.hpp"
#include "supervisor/log_writer.hpp"

namespace wherry::supervisor {
namespace {

constexpr auto out = LogStream::stdout_stream;
constexpr auto err = LogStream::stderr_stream;
const WallTime noon = *parse_rfc3339("2026-11-23T12:00:00.5Z");

class LogTest : public testing::TestWithParam<LogDriver> {
  protected:
    void SetUp() override {
        std::string folder = testing::TempDir() + "/wherry-log-XXXXXX";
        ASSERT_NE(::mkdtemp(folder.data()), nullptr);
        folder_ = folder;
        options_.driver = GetParam();
        options_.path = folder_ + "/c.log";
    }
    void TearDown() override { ASSERT_TRUE(remove_tree(folder_)); }

    std::vector<LogEntry> read_all(const LogReadOptions& filter = {}) const {
        std::vector<LogEntry> entries;
        auto reader = LogReader::open(options_, filter);
        EXPECT_TRUE(reader) << reader.error().describe();
        while (reader) {
            auto entry = reader->next();
            EXPECT_TRUE(entry);
            if (!entry || !*entry) break;
            entries.push_back(std::move(**entry));
        }
        return entries;
    }
    static std::string joined(const std::vector<LogEntry>& entries, LogStream stream) {
        std::string text;
        for (const LogEntry& entry : entries) {
            if (entry.stream == stream) text += entry.data;
        }
        return text;
    }

    std::string folder_;
    LogOptions options_;
};

INSTANTIATE_TEST_SUITE_P(Formats, LogTest, testing::Values(LogDriver::json_file, LogDriver::local),
                         [](const auto& info) { return info.param == LogDriver::local ? "local" : "json_file"; });

std::string random_bytes(std::size_t count) {
    std::mt19937 generator(7);
    std::string bytes(count, '\0');
    for (char& c : bytes) c = static_cast<char>(generator());
    return bytes;
}

TEST_P(LogTest, GivesBackWhatWasWritten) {
    auto writer = LogWriter::open(options_);
    ASSERT_TRUE(writer) << writer.error().describe();
    (*writer)->write(out, "one\ntw", noon);
    (*writer)->write(err, "complaint\n", noon);
    (*writer)->write(out, "o\nrest", noon);
    (*writer)->finish(out, noon);
    auto entries = read_all();
    ASSERT_EQ(entries.size(), 4U);
    EXPECT_EQ(entries[0].data, "one\n");
    EXPECT_EQ(entries[0].time, noon);
    EXPECT_EQ(entries[1].data, "complaint\n");
    EXPECT_EQ(entries[1].stream, err);
    EXPECT_EQ(entries[2].data, "two\n");
    EXPECT_EQ(entries[3].data, "rest");
    EXPECT_EQ((*writer)->entries(), 4U);
}

TEST_P(LogTest, KeepsBinaryDataAndSplitsLongLines) {
    std::string bytes = random_bytes(300'000) + std::string(40'000, 'y') + "\xC3\xA4\n";
    {
        auto writer = LogWriter::open(options_);
        ASSERT_TRUE(writer);
        for (std::size_t at = 0; at < bytes.size(); at += 7001)
            (*writer)->write(out, std::string_view(bytes).substr(at, 7001), noon);
        (*writer)->finish(out, noon);
    }
    auto entries = read_all();
    EXPECT_EQ(joined(entries, out), bytes);
    for (const LogEntry& entry : entries) EXPECT_LE(entry.data.size(), max_log_line_bytes + 1);
}

TEST_P(LogTest, TailReadsFromTheEnd) {
    auto writer = LogWriter::open(options_);
    ASSERT_TRUE(writer);
    for (int i = 0; i < 5000; ++i) {
        (*writer)->write(i % 10 == 0 ? err : out, "line " + std::to_string(i) + std::string(100, '.') + "\n", noon);
    }
    auto last = read_all({.tail = 3});
    ASSERT_EQ(last.size(), 3U);
    EXPECT_TRUE(last[0].data.starts_with("line 4997."));
    auto errors = read_all({.tail = 700, .want_stdout = false});
    EXPECT_EQ(errors.size(), 500U);
    errors = read_all({.tail = 2, .want_stdout = false});
    ASSERT_EQ(errors.size(), 2U);
    EXPECT_TRUE(errors[1].data.starts_with("line 4990."));
    EXPECT_EQ(read_all({.tail = 0}).size(), 0U);
    EXPECT_EQ(read_all({.tail = 5000}).size(), 5000U);
    EXPECT_EQ(read_all({.tail = 100000}).size(), 5000U);
}

TEST_P(LogTest, SinceAndUntil) {
    auto writer = LogWriter::open(options_);
    ASSERT_TRUE(writer);
    for (int i = 0; i < 10; ++i) (*writer)->write(out, std::to_string(i) + "\n", noon + std::chrono::seconds(i));
    auto entries = read_all({.since = noon + std::chrono::seconds(3), .until = noon + std::chrono::seconds(5)});
    ASSERT_EQ(entries.size(), 3U);
    EXPECT_EQ(entries[0].data, "3\n");
    EXPECT_EQ(entries[2].data, "5\n");
}

TEST_P(LogTest, RotatesAndReadsAcross) {
    options_.max_size_bytes = 4000;
    options_.max_files = 4;
    std::string expected;
    {
        auto writer = LogWriter::open(options_);
        ASSERT_TRUE(writer);
        for (int i = 0; i < 100; ++i) {
            std::string line = "line " + std::to_string(i) + std::string(50, '-') + "\n";
            (*writer)->write(out, line, noon);
            expected += line;
        }
    }
    EXPECT_TRUE(path_exists(options_.path + ".1"));
    EXPECT_FALSE(path_exists(options_.path + ".4"));
    EXPECT_EQ(joined(read_all(), out), expected);
    EXPECT_EQ(read_all({.tail = 80}).size(), 80U);
    {
        auto writer = LogWriter::open(options_);
        ASSERT_TRUE(writer);
        for (int i = 0; i < 1000; ++i) (*writer)->write(out, std::string(50, '+') + std::to_string(i) + "\n", noon);
    }
    auto entries = read_all();
    EXPECT_LT(entries.size(), 400U);
    EXPECT_TRUE(entries.back().data.ends_with("999\n"));
    EXPECT_FALSE(path_exists(options_.path + ".4"));
    ASSERT_TRUE(remove_log(options_));
    EXPECT_FALSE(path_exists(options_.path));
    EXPECT_FALSE(path_exists(options_.path + ".3"));
}

TEST_P(LogTest, CompressesRotatedFiles) {
    options_.max_size_bytes = 15000;
    options_.max_files = 5;
    options_.compress = true;
    std::string expected;
    {
        auto writer = LogWriter::open(options_);
        ASSERT_TRUE(writer);
        for (int i = 0; i < 700; ++i) {
            std::string line = "line " + std::to_string(i) + "\n";
            (*writer)->write(out, line, noon);
            expected += line;
        }
        // From the very start, through compressed files.
        LogCursor cursor((*writer)->find({0, 0}), options_.driver, {0, 0});
        std::string replayed;
        while (true) {
            auto piece = cursor.next();
            ASSERT_TRUE(piece);
            if (!*piece) break;
            EXPECT_EQ((*piece)->lost, 0U);
            replayed += (*piece)->data;
        }
        EXPECT_EQ(replayed, expected);
    }
    EXPECT_TRUE(path_exists(options_.path + ".1.gz"));
    EXPECT_FALSE(path_exists(options_.path + ".1"));
    EXPECT_EQ(joined(read_all(), out), expected);
    EXPECT_EQ(read_all({.tail = 650}).size(), 650U);
}

TEST_P(LogTest, FollowsAcrossRotation) {
    options_.max_size_bytes = 1000;
    options_.max_files = 3;
    auto writer = LogWriter::open(options_);
    ASSERT_TRUE(writer);
    auto reader = LogReader::open(options_, {});
    ASSERT_TRUE(reader);
    int expected = 0;
    for (int i = 0; i < 300; ++i) {
        (*writer)->write(out, std::to_string(i) + "\n", noon);
        if (i % 7 != 0) continue;
        while (true) {
            auto entry = reader->next();
            ASSERT_TRUE(entry);
            if (!*entry) break;
            EXPECT_EQ((*entry)->data, std::to_string(expected++) + "\n");
        }
        EXPECT_EQ(expected, i + 1);
    }
}

TEST_P(LogTest, GoesOnAfterACrashInTheMiddleOfAnEntry) {
    {
        auto writer = LogWriter::open(options_);
        ASSERT_TRUE(writer);
        (*writer)->write(out, "whole\n", noon);
        (*writer)->write(out, "half\n", noon);
    }
    auto size = read_file(options_.path)->size();
    ASSERT_EQ(::truncate(options_.path.c_str(), static_cast<off_t>(size - 3)), 0);
    EXPECT_EQ(read_all().size(), 1U);
    EXPECT_EQ(read_all({.tail = 5}).size(), 1U);
    auto writer = LogWriter::open(options_);
    ASSERT_TRUE(writer);
    (*writer)->write(out, "next\n", noon);
    auto entries = read_all();
    ASSERT_EQ(entries.size(), 2U);
    EXPECT_EQ(entries[1].data, "next\n");
}

TEST_P(LogTest, CursorsReplayFromAnyOffset) {
    options_.max_size_bytes = 100'000;
    options_.max_files = 50;
    auto writer = LogWriter::open(options_);
    ASSERT_TRUE(writer);
    std::string all_out = random_bytes(700'000);
    std::string all_err;
    for (std::size_t at = 0; at < all_out.size(); at += 5000) {
        (*writer)->write(out, std::string_view(all_out).substr(at, 5000), noon);
        std::string line = "at " + std::to_string(at) + "\n";
        (*writer)->write(err, line, noon);
        all_err += line;
    }
    for (std::uint64_t from : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{333'333}, std::uint64_t{690'000}}) {
        StreamOffsets wanted{from, 700};
        LogCursor cursor((*writer)->find(wanted), options_.driver, wanted);
        std::string got_out;
        std::string got_err;
        while (true) {
            auto piece = cursor.next();
            ASSERT_TRUE(piece) << piece.error().describe();
            if (!*piece) break;
            EXPECT_EQ((*piece)->lost, 0U);
            ((*piece)->stream == out ? got_out : got_err) += (*piece)->data;
        }
        got_out += (*writer)->pending(out);
        EXPECT_EQ(got_out, all_out.substr(from));
        EXPECT_EQ(got_err, all_err.substr(700));
    }
}

TEST_P(LogTest, HeldFilesStayReadableAfterTheyAreGone) {
    options_.max_size_bytes = 2000;
    options_.max_files = 2;
    auto writer = LogWriter::open(options_);
    ASSERT_TRUE(writer);
    LogCursor cursor((*writer)->head(), options_.driver, {0, 0});
    std::string expected;
    for (int i = 0; i < 1000; ++i) {
        std::string line = "line " + std::to_string(i) + "\n";
        (*writer)->write(out, line, noon);
        expected += line;
    }
    std::string got;
    while (true) {
        auto piece = cursor.next();
        ASSERT_TRUE(piece);
        if (!*piece) break;
        got += (*piece)->data;
    }
    EXPECT_EQ(got, expected);
    // A newcomer gets what is left, and is told what is not.
    LogCursor late((*writer)->find({0, 0}), options_.driver, {0, 0});
    EXPECT_GT(late.offsets()[0], 0U);
}

class JsonLog : public LogTest {};
INSTANTIATE_TEST_SUITE_P(Docker, JsonLog, testing::Values(LogDriver::json_file));

TEST_P(JsonLog, WritesDockersLines) {
    options_.attributes = {{"env", "prod"}};
    auto writer = LogWriter::open(options_);
    ASSERT_TRUE(writer);
    (*writer)->write(out, "a\t\"q\" <b> & \\ \x1b[0m\r\n", noon);
    (*writer)->write(err, "\xC3\xA4\xE2\x80\xA8\n", noon);
    EXPECT_EQ(*read_file(options_.path),
              "{\"log\":\"a\\u0009\\\"q\\\" \\u003cb\\u003e \\u0026 \\\\ \\u001b[0m\\r\\n\",\"stream\":\"stdout\","
              "\"attrs\":{\"env\":\"prod\"},\"time\":\"2026-11-23T12:00:00.5Z\"}\n"
              "{\"log\":\"\xC3\xA4\\u2028\\n\",\"stream\":\"stderr\",\"attrs\":{\"env\":\"prod\"},"
              "\"time\":\"2026-11-23T12:00:00.5Z\"}\n");
    EXPECT_EQ(read_all()[0].attributes, "{\"env\":\"prod\"}");
}

TEST_P(JsonLog, SkipsDamagedLines) {
    std::ofstream(options_.path)
        << "garbage\n{\"log\":\"x\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-23T12:00:00Z\"}\n{}\n";
    auto entries = read_all();
    ASSERT_EQ(entries.size(), 1U);
    EXPECT_EQ(entries[0].data, "x\n");
}

TEST(Log, NoneCannotBeRead) {
    EXPECT_EQ(LogReader::open({}, {}).error().code(), Code::unimplemented);
}

TEST(Log, MissingReadsAsEmpty) {
    auto reader = LogReader::open({LogDriver::json_file, "/nonexistent/log"}, {});
    ASSERT_TRUE(reader);
    EXPECT_FALSE(reader->next()->has_value());
}

}  // namespace
}  // namespace wherry::supervisor
