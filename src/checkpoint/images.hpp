// What a dump and a restore of a container mean in CRIU's options.
//
//     DumpRequest request{.options = {.images = folder, .work = folder}, .subject = {spec, bundle, root, cgroup}, ...};
//     CriuRun run = TRY(prepare_dump(request));
//     TRY(run_criu(run));
//
// What comes from outside the container is told as external: bind mounts, masks, the container's cgroups, network and
// pid namespaces given by path, and standard streams. docs/runtime.md lists what is not supported.
#pragma once

#include <sys/types.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "checkpoint/criu.hpp"
#include "confine/resctrl.hpp"
#include "oci/container.hpp"
#include "oci/spec.hpp"

namespace wherry::checkpoint {

struct Options {
    std::string images;  // folder, absolute, there already
    std::string work;    // folder of logs and the like, as well
    bool tcp_established = false;
    bool external_unix_sockets = false;
    bool file_locks = false;
    bool auto_dedup = false;
    bool shell_job = false;
    std::string cgroups_mode = "soft";          // soft, full, strict or ignore
    std::vector<std::string> empty_namespaces;  // "network" only
};
// invalid_argument for words that are none. What both preparations ask first.
Result<> check_options(const Options& options);

struct Subject {
    oci::Spec spec;
    std::string bundle;
    std::string root;    // of the container's root file system on the host; a dump takes none, too
    std::string cgroup;  // path below each hierarchy; empty: none
};

struct DumpRequest {
    Options options;
    Subject subject;
    pid_t pid = -1;
    bool leave_running = false;
    bool frozen = false;    // its cgroup is: it is thawed for the dump, and frozen again where it stays
    bool pre_dump = false;  // memory alone; leaves it running
    std::string parent;     // of an earlier pre-dump, relative to the images; empty: none
};
// unimplemented for a container with a terminal: CRIU takes and gives a terminal's other end over its socket only.
Result<> check_dumpable(const oci::Spec& spec);
// Also writes what the standard streams were into the images' folder.
Result<CriuRun> prepare_dump(const DumpRequest& request);

struct RestoreRequest {
    Options options;
    Subject subject;
    std::string root_mount;                // a folder to bind the root at; the root itself will do
    std::string pid_file;                  // made by CRIU; what is there goes
    std::array<int, 3> stdio{-1, -1, -1};  // borrowed; -1: /dev/null
    std::string lsm_profile, lsm_mount_context;
    // Of oci::make_intel_rdt(); whoever made it removes it when nothing comes of the restore.
    std::optional<confine::ResctrlGroup> intel_rdt;
};
// not_found when the images' folder holds no checkpoint; unimplemented for a container with a terminal.
Result<> check_images(const std::string& folder);
Result<> check_restorable(const oci::Spec& spec);
Result<CriuRun> prepare_restore(const RestoreRequest& request);
// Once CRIU has ended well: the container of the process it left. conflict when that has ended already.
Result<oci::Container> restored_container(const RestoreRequest& request, const std::string& id);

}  // namespace wherry::checkpoint
