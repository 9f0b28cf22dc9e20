// What wherry-unpack does as "cp" (job.hpp): in two steps, because the jail is closed between them.
#pragma once

#include "base/fd.hpp"
#include "image/copy/job.hpp"

namespace wherry::image {

// Does the job below `root` and reports; returns the exit code. Confined by now.
int run_copy(const CopyJob& job, const Fd& root);
// Tells the parent why it did not come to that.
int refuse_copy(Error error);

}  // namespace wherry::image
