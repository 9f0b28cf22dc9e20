// A verb: its names, what help says of it, its options and the function that does it. All verbs are in one table
// (commands()), from which dispatch, help, completion and man pages are made.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "cli/options.hpp"

namespace wherry::cli {

class Session;

struct Invocation {
    std::string name;  // the verb as it was written: "ps", "container ls"
    ParsedOptions options;
    std::vector<std::string> arguments;
};

inline constexpr int any_number = -1;

struct Command {
    // Every path that leads here, at most four; the first is the one help lists at the top level or in its group.
    std::vector<std::string_view> names;
    std::string_view usage;    // what follows the name: "[OPTIONS] CONTAINER [CONTAINER...]"
    std::string_view summary;  // one line
    std::string_view example;  // lines that can be typed as they are
    std::span<const Option> options = {};
    int minimum = 0;
    int maximum = any_number;
    bool stop_at_argument = false;
    int failure = 1;  // the exit code of our own failures; 125 where the container's own codes are passed on
    bool quiet_failure_hint = true;  // false: failures end with "Run '… --help' for more information"
    Result<int> (*run)(Session& session, const Invocation& invocation) = nullptr;
    bool hidden = false;
    std::string_view details;  // more than one line for --help, where the summary is not enough
};

// Sorted by first name.
const std::vector<const Command*>& commands();
// nullptr when there is none of that path ("container ls").
const Command* find_command(std::string_view path);

struct Group {
    std::string_view name;
    std::string_view summary;
};
std::span<const Group> groups();
const Group* find_group(std::string_view name);

// Options before the verb.
std::span<const Option> global_options();

// Adds its verbs; one function a file of verbs.
void add_container_list_verbs(std::vector<const Command*>& all);
void add_life_cycle_verbs(std::vector<const Command*>& all);
void add_run_verbs(std::vector<const Command*>& all);
void add_exec_verbs(std::vector<const Command*>& all);
void add_log_verbs(std::vector<const Command*>& all);
void add_copy_verbs(std::vector<const Command*>& all);
void add_change_verbs(std::vector<const Command*>& all);
void add_image_verbs(std::vector<const Command*>& all);
void add_registry_verbs(std::vector<const Command*>& all);
void add_archive_verbs(std::vector<const Command*>& all);
void add_inspect_verbs(std::vector<const Command*>& all);
void add_system_verbs(std::vector<const Command*>& all);
void add_event_verbs(std::vector<const Command*>& all);
void add_stats_verbs(std::vector<const Command*>& all);
void add_volume_verbs(std::vector<const Command*>& all);
void add_network_verbs(std::vector<const Command*>& all);
void add_prune_verbs(std::vector<const Command*>& all);
void add_why_verbs(std::vector<const Command*>& all);
void add_undelete_verbs(std::vector<const Command*>& all);
void add_sandbox_verbs(std::vector<const Command*>& all);
void add_adopt_verbs(std::vector<const Command*>& all);
void add_dns_lookup_verbs(std::vector<const Command*>& all);
void add_dns_dispatch_verbs(std::vector<const Command*>& all);
void add_dns_path_verbs(std::vector<const Command*>& all);
void add_help_verbs(std::vector<const Command*>& all);

}  // namespace wherry::cli
