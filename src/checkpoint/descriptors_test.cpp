#include "checkpoint/descriptors.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.hpp"

namespace wherry::checkpoint {
namespace {

TEST(Descriptors, TwoFormsAreReplaceable) {
    for (const char* good : {"pipe:[1]", "pipe:[4026531840]", "file[1f:a0]", "file[0:0]"})
        EXPECT_TRUE(is_replaceable(good)) << good;
    for (const char* bad :
         {"", "pipe:[]", "pipe:[1", "pipe:[1]x", "pipe:[a]", "pipe:[1]:--x", "socket:[1]", "file[1]", "file[:1]",
          "file[1:]", "file[1:2:3]", "file[G:1]", "file[1:2]]", "/dev/null", "pipe:[11111111111111111]"})
        EXPECT_FALSE(is_replaceable(bad)) << bad;
    EXPECT_TRUE(is_file("file[1:2]"));
    EXPECT_FALSE(is_file("pipe:[1]"));
}

TEST(Descriptors, ComeBackAsTheyWere) {
    StandardStreams streams{"file[1f:4]", "pipe:[7]", "pipe:[8]"};
    auto again = parse_standard_streams(to_text(streams));
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(*again, streams);
}

TEST(Descriptors, WhatIsOfNoUseIsLeftOut) {
    auto streams = parse_standard_streams(R"(["/dev/null", 5, "pipe:[3]", "pipe:[4]"])");
    ASSERT_TRUE(streams.has_value());
    EXPECT_EQ(*streams, (StandardStreams{"", "", "pipe:[3]"}));
    EXPECT_TRUE(parse_standard_streams("[]").has_value());
    for (const char* bad : {"", "{}", "\"pipe:[1]\"", "[\"pipe:[1]\""})
        EXPECT_FALSE(parse_standard_streams(bad)) << bad;
}

TEST(Descriptors, OfAProcess) {
    Pipe pipe = make_pipe().value();
    Pipe ready = make_pipe().value();
    Fd null = open_file("/dev/null", O_RDWR).value();
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        ::dup2(null.get(), 0);
        ::dup2(pipe.write.get(), 1);
        ::dup2(pipe.write.get(), 2);
        [[maybe_unused]] ssize_t told = ::write(ready.write.get(), "x", 1);
        ::pause();
        ::_exit(0);
    }
    char byte = 0;
    ASSERT_EQ(::read(ready.read.get(), &byte, 1), 1);
    auto streams = standard_streams_of(child);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ASSERT_TRUE(streams.has_value());
    // In the same mount namespace it is a file like any other.
    EXPECT_EQ(streams->at(0), "/dev/null");
    EXPECT_TRUE(streams->at(1).starts_with("pipe:[") && is_replaceable(streams->at(1)));
    EXPECT_EQ(streams->at(1), streams->at(2));
    EXPECT_FALSE(standard_streams_of(child).has_value());
}

}  // namespace
}  // namespace wherry::checkpoint
