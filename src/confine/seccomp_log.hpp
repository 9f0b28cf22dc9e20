// Who was denied what: the kernel's audit records of seccomp (type 1326), for `wherry why`.
//
// Two sources, tried in this order: the netlink audit multicast group (AUDIT_NLGRP_READLOG; CAP_AUDIT_READ in the
// initial user namespace, any number of readers), and /dev/kmsg (where the kernel prints audit records when no audit
// daemon listens). Best effort by nature: the kernel limits the rate of records, and a filter has to be installed with
// SECCOMP_FILTER_FLAG_LOG or an action that logs.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::confine {

struct SeccompDenial {
    pid_t pid = 0;  // as the initial pid namespace numbers it
    uid_t uid = 0;
    std::string command;     // comm; whatever the container chose to call itself: printable characters only, at most 16
    std::uint32_t arch = 0;  // AUDIT_ARCH_...
    int syscall = -1;
    int signal = 0;            // 0 or SIGSYS
    std::uint32_t action = 0;  // SECCOMP_RET_... of the record's code, its low 16 bits the errno given
};

// One record's text ("audit(…): auid=… pid=… comm="…" … sig=0 arch=c000003e syscall=41 … code=0x50000"). Hostile by
// assumption: comm is the container's. nullopt when it is no seccomp record.
std::optional<SeccompDenial> parse_seccomp_record(std::string_view text);

class SeccompLog {
  public:
    enum class Source : unsigned char { netlink, kernel_log };

    static Result<SeccompLog> open();
    static Result<SeccompLog> open(Source source);

    int fd() const { return fd_.get(); }  // EPOLLIN
    Source source() const { return source_; }
    // What there is now, at most 64 events a call; never blocks. Lost records (buffer overrun) are not an error.
    Result<std::vector<SeccompDenial>> read();

  private:
    SeccompLog(Fd fd, Source source) : fd_(std::move(fd)), source_(source) {}
    Fd fd_;
    Source source_;
};

}  // namespace wherry::confine
