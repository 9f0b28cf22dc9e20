// The daemon's end of a copying child.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "image/copy/job.hpp"

namespace wherry::image {

// A running child. Whoever has it must kill() or have seen its last report, and then reap() it.
class CopyProcess {
  public:
    CopyProcess() = default;
    CopyProcess(pid_t pid, Fd reports) : pid_(pid), reports_(std::move(reports)) {}

    int reports() const { return reports_.get(); }
    Fd take_reports() { return std::move(reports_); }
    void kill() const;
    // Blocks until it has ended, which after its last report or kill() is now. Once.
    void reap();
    bool running() const { return pid_ > 0; }

  private:
    pid_t pid_ = -1;  // not reaped yet, so it can't be anyone else's
    Fd reports_;
};

struct CopyDescriptors {
    int root = -1;    // CopyJob::root says what it is
    int input = -1;   // -1: /dev/null
    int output = -1;  // -1: /dev/null
    std::vector<int> trees;
};

// The child dies with the calling thread.
Result<CopyProcess> spawn_copy(const std::string& program, const CopyJob& job, const CopyDescriptors& descriptors);

// The tree at `path` of the host as a mount of its own that no namespace sees, with what is mounted below it.
Result<Fd> take_tree(const std::string& path);

}  // namespace wherry::image
