// The command line of wherry-jailer: Firecracker's jailer's flags (its docs/jailer.md), checked before anything is
// done.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "confine/rlimits.hpp"

namespace wherry::jailer {

// "cpu.shares=10": what is before the first point of the file's name is the controller.
struct CgroupSetting {
    std::string controller;
    std::string file;
    std::string value;

    friend bool operator==(const CgroupSetting&, const CgroupSetting&) = default;
};

enum class Action : unsigned char { jail, help, version };
enum class CgroupVersion : unsigned char { by_controller, v1, v2 };

struct Options {
    Action action = Action::jail;
    std::string id;         // 1 to 64 letters, digits and '-'
    std::string exec_file;  // as given; must name a regular file
    uid_t uid = 0;
    gid_t gid = 0;
    std::string chroot_base = "/srv/jailer";
    std::string network_namespace;  // path; empty: the present one
    bool daemonize = false;
    bool new_pid_namespace = false;
    std::vector<CgroupSetting> cgroups;
    CgroupVersion cgroup_version = CgroupVersion::by_controller;
    std::string parent_cgroup;  // empty: the name of exec_file; relative, may have several parts
    std::vector<confine::ResourceLimit> limits;
    std::vector<std::string> monitor_arguments;  // what came after "--"

    // The last part of exec_file.
    std::string exec_name() const;
    std::string effective_parent_cgroup() const;
};

// `arguments` without the program's name; "--flag value" and "--flag=value" both. invalid_argument names the flag and
// what is wrong with it; nothing of the system is looked at.
Result<Options> parse_command_line(std::span<const std::string_view> arguments);
std::string_view usage();

// The single values, as the flags take them.
Result<CgroupSetting> parse_cgroup_setting(std::string_view text);
Result<confine::ResourceLimit> parse_resource_limit(std::string_view text);
Result<> validate_id(std::string_view id);
Result<> validate_parent_cgroup(std::string_view path);

}  // namespace wherry::jailer
