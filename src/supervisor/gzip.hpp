// Compressed log files. The inode of the file that was compressed stands in the gzip header's comment ("inode=123"),
// so that a reader in the middle of it finds its place again.
#pragma once

#include <sys/types.h>

#include <optional>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::supervisor {

// Compresses all of `from` (read from its start) to `to`.
Result<> gzip_file(int from, int to, ino_t inode);
// The whole content, in an unnamed memory file; at most `limit` bytes (resource_exhausted: a bomb is no log).
Result<Fd> gunzip_to_memory(int from, std::uint64_t limit = 1U << 30U);
// What the comment says; nullopt: not one of ours.
std::optional<ino_t> gzip_inode(int fd);

}  // namespace wherry::supervisor
