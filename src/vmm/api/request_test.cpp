// Requests to actions: what is refused, with which words, and what the controller becomes.
#include "vmm/api/request.hpp"

#include <gtest/gtest.h>

#include "vmm/api/bodies.hpp"
#include "vmm/api/server.hpp"

namespace wherry::vmm::api {
namespace {

class RequestTest : public ::testing::Test {
  protected:
    Result<Answer> send(std::string_view method, std::string_view path, std::string_view body = {}) {
        auto parsed = parse_request(method, path, body);
        if (!parsed) return std::unexpected(std::move(parsed).error());
        return parsed->action(controller);
    }
    std::string fault(std::string_view method, std::string_view path, std::string_view body = {}) {
        auto answer = send(method, path, body);
        return answer ? "no fault" : answer.error().describe();
    }
    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    Controller controller{*loop, InstanceInfo{}, 51200, [](ExitCode) {}};
};

TEST_F(RequestTest, Faults) {
    constexpr std::string_view prefix = "An error occurred when deserializing the json body of a request: ";
    EXPECT_EQ(fault("GET", "/nothing"), "Invalid request method and/or path: GET /nothing.");
    EXPECT_EQ(fault("PUT", "/machine-config"), "Empty PUT request.");
    EXPECT_EQ(fault("PUT", "/machine-config", R"({"vcpu_count":1})"),
              std::string(prefix) + "missing field `mem_size_mib`.");
    EXPECT_EQ(fault("PUT", "/entropy", R"({"x":1})"),
              std::string(prefix) + "unknown field `x`, expected `rate_limiter`.");
    EXPECT_EQ(fault("PUT", "/vsock", R"({"guest_cid":"3","uds_path":"x"})"),
              std::string(prefix) + "invalid type: string \"3\", expected a number from 0 to 4294967295.");
    EXPECT_EQ(fault("PUT", "/drives/a", R"({"drive_id":"b","is_root_device":false,"path_on_host":"/x"})"),
              "The id from the path [a] does not match the id from the body [b]!");
    EXPECT_EQ(fault("PUT", "/actions", R"({"action_type":"InstanceStart"})"),
              "Cannot start microvm without kernel configuration.");
    EXPECT_EQ(fault("PATCH", "/vm", R"({"state":"Paused"})"),
              "The requested operation is not supported before starting the microVM.");
    EXPECT_EQ(fault("PUT", "/snapshot/create", "{}"), std::string(prefix) + "missing field `snapshot_path`.");
    EXPECT_EQ(fault("PUT", "/snapshot/create", R"({"snapshot_path":"a","mem_file_path":"b"})"),
              "The requested operation is not supported before starting the microVM.");
    EXPECT_EQ(fault("PUT", "/snapshot/load", R"({"snapshot_path":"a"})"),
              std::string(prefix) + "missing field: either `mem_backend` or `mem_file_path` is required.");
    EXPECT_EQ(
        fault("PUT", "/snapshot/load",
              R"({"snapshot_path":"a","mem_file_path":"b","mem_backend":{"backend_type":"File","backend_path":"c"}})"),
        std::string(prefix) + "too many fields: either `mem_backend` or `mem_file_path` exclusively is required.");
    EXPECT_EQ(fault("PUT", "/snapshot/load", R"({"snapshot_path":"/nonexistent/a","mem_file_path":"b"})"),
              "Load snapshot error: Failed to restore from snapshot: Cannot open the snapshot file: "
              "open /nonexistent/a: No such file or directory");
    EXPECT_EQ(fault("PUT", "/mmds/config", R"({"network_interfaces":[]})"),
              "The list of network interface IDs that allow forwarding MMDS requests is empty.");
}

TEST_F(RequestTest, MachineConfiguration) {
    ASSERT_TRUE(send("PUT", "/machine-config", R"({"vcpu_count":4,"mem_size_mib":256,"huge_pages":"Transparent"})"));
    ASSERT_TRUE(send("PATCH", "/machine-config", R"({"smt":true})"));
    EXPECT_FALSE(send("PATCH", "/machine-config", R"({"vcpu_count":3})"));
    auto got = send("GET", "/machine-config");
    ASSERT_TRUE(got && *got);
    EXPECT_EQ(to_json(**got),
              R"({"vcpu_count":4,"mem_size_mib":256,"smt":true,"track_dirty_pages":false,"huge_pages":"Transparent"})");
    EXPECT_FALSE(send("PUT", "/machine-config", R"({"vcpu_count":1,"mem_size_mib":128,"cpu_template":"V1N1"})"));
}

TEST_F(RequestTest, Metadata) {
    EXPECT_FALSE(send("GET", "/mmds"));
    ASSERT_TRUE(send("PUT", "/mmds", R"({"a":1})"));
    ASSERT_TRUE(send("PATCH", "/mmds", R"({"b":{"c":null}})"));
    EXPECT_EQ(to_json(**send("GET", "/mmds")), R"({"a":1,"b":{}})");
    const std::string large = R"({"a":")" + std::string(60000, 'x') + "\"}";
    auto refused = send("PUT", "/mmds", large);
    ASSERT_FALSE(refused);
    EXPECT_EQ(status_of(refused.error().code()), 413);
}

TEST_F(RequestTest, ConfigurationFiles) {
    EXPECT_FALSE(apply_configuration(controller, "{"));
    EXPECT_FALSE(apply_configuration(controller, R"({"nothing":{}})"));
    EXPECT_FALSE(apply_configuration(controller, R"({"pmem":[{}]})"));
    EXPECT_FALSE(apply_configuration(controller, R"({"machine-config":{"vcpu_count":0,"mem_size_mib":1}})"));
    ASSERT_TRUE(apply_configuration(controller,
                                    R"({"machine-config":{"vcpu_count":2,"mem_size_mib":64},"pmem":[],"entropy":{}})"));
    EXPECT_EQ(controller.machine_configuration().as_object().at("vcpu_count").as_uint64(), 2U);
}

TEST(Bodies, CpuTemplates) {
    const auto object = parse_json_object(
        R"({"kvm_capabilities":["!56","12"],"cpuid_modifiers":[{"leaf":"0x1","subleaf":"0x0","flags":0,"modifiers":[{"register":"ecx","bitmap":"0b1x0"}]}],"msr_modifiers":[{"addr":"0x10a","bitmap":"0b11xx"}]})");
    ASSERT_TRUE(object);
    const auto parsed = parse_cpu_template(*object);
    ASSERT_TRUE(parsed) << parsed.error().describe();
    ASSERT_EQ(parsed->cpuid.size(), 1U);
    EXPECT_EQ(parsed->cpuid[0].filter, 5U);
    EXPECT_EQ(parsed->cpuid[0].value, 4U);
    EXPECT_EQ(parsed->msrs[0].filter, 12U);
    EXPECT_TRUE(parsed->capabilities[0].is_removed);
    for (
        std::string_view bad :
        {R"({"msr_modifiers":[{"addr":"0x10a","bitmap":"11"}]})", R"({"msr_modifiers":[{"addr":"z","bitmap":"0b1"}]})",
         R"({"cpuid_modifiers":[{"leaf":"1","subleaf":"0","flags":0,"modifiers":[{"register":"rax","bitmap":"0b1"}]}]})",
         R"({"kvm_capabilities":[1]})"}) {
        const auto wrong = parse_json_object(bad);
        ASSERT_TRUE(wrong);
        EXPECT_FALSE(parse_cpu_template(*wrong)) << bad;
    }
}

TEST(Status, EveryCodeHasOne) {
    for (int code = 0; code <= static_cast<int>(Code::internal); ++code)
        EXPECT_EQ(status_of(static_cast<Code>(code)), static_cast<Code>(code) == Code::resource_exhausted ? 413 : 400);
}

}  // namespace
}  // namespace wherry::vmm::api
