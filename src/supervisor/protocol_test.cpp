#include "supervisor/protocol.hpp"

#include <gtest/gtest.h>

#include "base/fd.hpp"

namespace wherry::supervisor {
namespace {

template <class T>
Result<T> round_trip(const T& value) {
    std::string text = to_json(to_json_object(value));
    json::object object = TRY(parse_json_object(text));
    return T::parse(JsonReader(object));
}

TEST(Protocol, CreateRequestsSurviveTheWire) {
    CreateRequest request;
    request.container_id = "c1";
    request.spec = {{"ociVersion", "1.2.0"}};
    request.bundle = "/bundle";
    request.root.lower_directories = {"/l2", "/l1"};
    request.root.upper_directory = "/u";
    request.root.work_directory = "/w";
    request.root.volatile_writes = true;
    request.seccomp_path = "/s";
    request.exit_record_path = "/e";
    request.log = {LogDriver::json_file, "/log", 1000, 3, true, {{"tag", "x"}}};
    request.stdin_open = true;
    request.stdin_once = true;
    request.init = true;
    auto back = round_trip(request);
    ASSERT_TRUE(back);
    EXPECT_EQ(to_json(to_json_object(*back)), to_json(to_json_object(request)));
    EXPECT_EQ(back->root.lower_directories.size(), 2U);
    EXPECT_EQ(back->log.max_files, 3U);
}

TEST(Protocol, StatesSurviveTheWire) {
    SandboxState sandbox;
    sandbox.sandbox_id = "s";
    sandbox.pid = 12;
    sandbox.netns_fd = 5;
    ContainerState container;
    container.container_id = "c";
    container.status = Status::paused;
    container.pid = 99;
    container.start_ticks = 123456789;
    container.created_at = WallTime(Nanoseconds(1'000'000'001));
    container.exit = ExitStatus{137, 9, true, WallTime(Nanoseconds(7))};
    container.execs.push_back({"e", 100, 5, true, true, WallTime(Nanoseconds(3)), std::nullopt, 10, 20});
    container.timings.push_back({"cgroup", 55});
    sandbox.containers.push_back(container);
    auto back = round_trip(sandbox);
    ASSERT_TRUE(back);
    EXPECT_EQ(to_json(to_json_object(*back)), to_json(to_json_object(sandbox)));
    ASSERT_EQ(back->containers.size(), 1U);
    EXPECT_TRUE(back->containers[0].exit->oom_killed);
    EXPECT_EQ(back->containers[0].execs[0].stderr_bytes, 20U);
}

TEST(Protocol, StatsSurviveTheWire) {
    Stats stats;
    stats.cpu_total_ns = 5;
    stats.memory_stat = {{"cache", 7}};
    stats.io_serviced = {{8, 0, "read", 3}};
    stats.pids_limit = ~std::uint64_t{0};
    auto back = round_trip(stats);
    ASSERT_TRUE(back);
    EXPECT_EQ(to_json(to_json_object(*back)), to_json(to_json_object(stats)));
}

TEST(Protocol, StreamOffsetsKeepTheirAbsence) {
    StreamRequest request;
    request.container_id = "c";
    request.stdout_offset = 0;
    auto back = round_trip(request);
    ASSERT_TRUE(back);
    EXPECT_EQ(back->stdout_offset, std::optional<std::uint64_t>(0));
    EXPECT_FALSE(back->stderr_offset);
}

TEST(Protocol, RefusesWhatCannotBe) {
    auto refused = [](std::string_view text, auto parse) {
        json::object object = *parse_json_object(text);
        return !parse(JsonReader(object));
    };
    for (std::string_view id : {"", "../x", "a/b", ".hidden", "a b"}) {
        json::object object{{"container_id", id}};
        EXPECT_FALSE(ProcessReference::parse(JsonReader(object))) << id;
    }
    EXPECT_TRUE(
        refused(R"({"container_id":"c","signal":0})", [](const JsonReader& r) { return KillRequest::parse(r); }));
    EXPECT_TRUE(
        refused(R"({"container_id":"c","signal":65})", [](const JsonReader& r) { return KillRequest::parse(r); }));
    EXPECT_TRUE(
        refused(R"({"container_id":"c","width":70000})", [](const JsonReader& r) { return ResizeRequest::parse(r); }));
    EXPECT_TRUE(refused(R"({"driver":"json-file"})", [](const JsonReader& r) { return LogOptions::parse(r); }));
    EXPECT_TRUE(
        refused(R"({"driver":"syslog","path":"/x"})", [](const JsonReader& r) { return LogOptions::parse(r); }));
    EXPECT_TRUE(refused(R"({"container_id":"c","bundle":"relative"})",
                        [](const JsonReader& r) { return CreateRequest::parse(r); }));
    EXPECT_TRUE(refused(R"({"container_id":"c","root":{"lower_directories":["x"]}})",
                        [](const JsonReader& r) { return CreateRequest::parse(r); }));
}

TEST(Protocol, ExitRecordsAreReadFromTheirFile) {
    std::string path = testing::TempDir() + "/exit-record";
    ExitRecord record{"c", 4, WallTime(Nanoseconds(1)), {3, 0, false, WallTime(Nanoseconds(2))}};
    ASSERT_TRUE(write_file_atomic(path, to_json(to_json_object(record)), 0600, Durability::none));
    auto read = read_exit_record(path);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->status.code, 3);
    EXPECT_EQ(read_exit_record(path + ".missing").error().code(), Code::not_found);
}

}  // namespace
}  // namespace wherry::supervisor
