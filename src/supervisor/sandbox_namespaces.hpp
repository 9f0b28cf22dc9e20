// The namespaces that the containers of one sandbox share. The network's comes from the client; ipc, uts and pid are
// made here, by a child that enters them. A shared pid namespace needs a first process for as long as it lives: that
// child stays, in an empty root, without rights, under strict seccomp, and ends with the shim.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "oci/container.hpp"
#include "supervisor/protocol.hpp"

namespace wherry::supervisor {

class SandboxNamespaces {
  public:
    // `directory`: any folder; the child that stays hides the host's files under it. The caller is single-threaded.
    // `sysctls` are written in the new namespaces, by their paths below /proc/sys; that takes a shared pid namespace.
    Result<> make(const SandboxRequest& request, const std::string& directory,
                  const std::map<std::string, std::string>& sysctls = {});
    // The process that holds a shared pid namespace, a child of the caller's to be reaped; -1 without one.
    pid_t holder() const { return holder_; }
    // Ends the holder, and with it everyone in the pid namespace.
    void release() { life_.reset(); }
    void keep_network(Fd netns) { network_ = std::move(netns); }
    int network() const { return network_.get(); }
    // What a container gets: the network's always, the others where its specification has one of its own.
    void give(oci::CreateRequest& request) const;

  private:
    Fd network_;
    Fd ipc_;
    Fd uts_;
    Fd pid_;
    pid_t holder_ = -1;
    Fd life_;  // the holder of the pid namespace reads its other end, and goes when this one is closed
};

}  // namespace wherry::supervisor
