// Where a container's processes are accounted: a cgroup made here (cgroupfs), one that systemd makes
// (--systemd-cgroup), or none (rootless, where nothing was delegated).
#pragma once

#include <optional>
#include <string>

#include "base/json.hpp"
#include "base/result.hpp"
#include "command_line.hpp"
#include "confine/cgroup.hpp"
#include "oci/spec.hpp"

namespace wherry::runtime {

class Placement {
  public:
    // Makes it and sets the limits; nothing is left behind on failure.
    static Result<Placement> make(const CommandLine& line, const oci::Spec& spec, const std::string& id);
    // The same, where possible in two steps: then unfinished(), and finish() is for CreateRequest::complete_cgroup.
    static Result<Placement> begin(const CommandLine& line, const oci::Spec& spec, const std::string& id);
    bool unfinished() const { return unfinished_; }
    Result<> finish(const oci::Spec& spec);
    Placement(Placement&&) noexcept = default;
    Placement& operator=(Placement&&) noexcept = default;
    Placement(const Placement&) = delete;
    Placement& operator=(const Placement&) = delete;
    ~Placement();  // takes the placeholder out of the scope; the cgroup stays

    const confine::Cgroup* cgroup() const { return cgroup_ ? &*cgroup_ : nullptr; }
    // The container's first process is in: nobody else has to keep the scope.
    void settle();
    void save(json::object& state) const;
    void remove();  // after a failure; best effort

  private:
    Placement() = default;
    Result<> by_systemd(const CommandLine& line, const oci::Spec& spec, const std::string& id);
    Result<> by_hand(const CommandLine& line, const oci::Spec& spec, const std::string& id);

    std::optional<confine::Cgroup> cgroup_;
    std::string unit_;  // systemd's scope; empty: none
    bool user_manager_ = false;
    bool unfinished_ = false;
    bool own_ = false;  // made here, to be removed with the container
    Fd placeholder_;    // closing it ends the process that holds the scope until the container is in it
    pid_t placeholder_pid_ = -1;
};

// Of a container that is gone: its cgroup and its scope, from the state that save() wrote.
Result<> remove_placement(const json::object& state);
// New limits of a running container: to the cgroup, and to systemd where it would forget them.
Result<> update_placement(const json::object& state, const confine::CgroupResources& resources);

}  // namespace wherry::runtime
