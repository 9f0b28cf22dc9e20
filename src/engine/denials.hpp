// Which system calls seccomp denied to which container, from the kernel's audit records, for `why`. Best effort.
#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <optional>

#include "confine/seccomp_log.hpp"
#include "engine/core.hpp"

namespace wherry::engine {

class DenialLog {
  public:
    explicit DenialLog(Core& core) : core_(core) {}
    void start();
    void stop();

  private:
    asio::awaitable<void> follow();
    void note(const confine::SeccompDenial& denial);

    Core& core_;
    std::optional<confine::SeccompLog> log_;
    std::optional<asio::posix::stream_descriptor> descriptor_;
};

}  // namespace wherry::engine
