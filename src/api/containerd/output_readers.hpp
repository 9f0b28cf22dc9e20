// The far ends of the fifos that a process is to write to (fifo(7)).
// containerd's clients open theirs on a thread of their own. When the process has ended before that thread came to it,
// they give the fifo up, and what was written is lost: nothing is started before they are there.
#pragma once

#include <string>
#include <vector>

#include "api/containerd/stdio.hpp"
#include "base/fd.hpp"

namespace wherry::api::containerd {

class OutputReaders {
  public:
    explicit OutputReaders(const StdioPaths& paths);
    // Whether all have come. Those that have are held until this goes: they would read an end of file when their only
    // writer left. What is no fifo, or can't be opened, is not waited for: ProcessStdio::open says what is wrong.
    bool all_there();

  private:
    std::vector<std::string> awaited_;
    std::vector<Fd> held_;
};

}  // namespace wherry::api::containerd
