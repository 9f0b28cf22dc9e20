// Shares of the last-level cache and of memory bandwidth (Intel RDT and what others call the like): the kernel's
// resctrl file system (Documentation/filesystems/resctrl.rst) as config-linux.md "IntelRdt" uses it.
//
// A group is a directory of the mount. Its file `schemata` says what its tasks may use; a task that writes "0" to its
// file `tasks` moves there, and children are born where their parents are. `mon_groups` below has groups that only
// count.
//
//     ResctrlMount mount = TRY(resctrl_of_this_host());
//     ResctrlGroup group = TRY(ResctrlGroup::make(mount, {.container_id = id, .schemata = {.l3_cache = "L3:0=ff"}}));
//     ResctrlJoin join = TRY(group.prepare_join());
//     in the child, single-threaded and before it drops its rights: TRY(join.enter());
//     ...
//     TRY(group.remove());
//
// What takes several steps happens under the lock that resctrl's users agree on (flock of the mount point). The
// kernel's refusals come with its own words, from info/last_cmd_status. Different objects are independent; no threads
// of its own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/result.hpp"

namespace wherry::confine {

struct ResctrlMount {
    std::string path;                     // "/sys/fs/resctrl"
    bool bandwidth_in_megabytes = false;  // mounted with mba_MBps: no percentages, and nothing is rounded
};
// Those that show the file system's root.
std::vector<ResctrlMount> find_resctrl(std::string_view mountinfo);
// By /proc/self/mountinfo; unimplemented when none is mounted (the administrator mounts it).
Result<ResctrlMount> resctrl_of_this_host();

// Lines "L3:0=7f0;1=1f" and "MB:0=20;1=70"; empty: not given.
struct ResctrlSchemata {
    std::string l3_cache;
    std::string memory_bandwidth;

    // As the specification has them written: the lines of l3_cache, but none that begins with "MB:", then that of
    // memory_bandwidth. invalid_argument naming the member for what is no such line.
    Result<std::vector<std::string>> lines() const;
};

struct ResctrlRequest {
    std::string clos_id;  // the group's name; empty: the container's id
    std::string container_id;
    ResctrlSchemata schemata;
    bool monitors_cache = false;      // CMT
    bool monitors_bandwidth = false;  // MBM
};

// What a child needs to enter a group, from any root and mount namespace.
class ResctrlJoin {
  public:
    // Moves the calling process, whose children follow.
    Result<> enter() const;
    std::vector<int> descriptors() const;  // to be kept open until then

  private:
    friend class ResctrlGroup;
    std::vector<Fd> tasks_;  // of the group, then of its monitoring group
    Fd status_;              // info/last_cmd_status, where the kernel has it
};

class ResctrlGroup {
  public:
    // Makes the group, or joins the one that is there: with a clos_id and schemata it must say the same already
    // (conflict), with a clos_id alone it must be there (not_found). unimplemented for what the host's resctrl lacks,
    // naming it. On error nothing is left that was made here.
    static Result<ResctrlGroup> make(const ResctrlMount& mount, const ResctrlRequest& request);
    // What state() told.
    static Result<ResctrlGroup> restore(const json::object& state);
    json::object state() const;

    const std::string& path() const { return path_; }
    // not_found when somebody has removed the group: the kernel has moved its tasks to the default one then.
    Result<ResctrlJoin> prepare_join() const;
    // Writes what is given, the rest stays.
    Result<> update(const ResctrlSchemata& schemata) const;
    // When the container is deleted: its monitoring group, and the group itself if it was made here under the
    // container's id. One with a clos_id stays, whoever made it: others may count on it. Missing is fine.
    Result<> remove() const;

  private:
    Result<> remove_directories(bool group_too) const;

    std::string mount_;
    std::string path_;
    std::string monitoring_path_;  // empty: none
    bool made_ = false;            // the group was not there before
    bool named_ = false;           // by a clos_id
};

}  // namespace wherry::confine
