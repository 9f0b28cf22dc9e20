// Files in and out of a container: `cp`, `export`, `diff`. The work is done by confined children (docs/copy.md).
#pragma once

#include <boost/asio/awaitable.hpp>
#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "image/copy/job.hpp"
#include "image/layer_store.hpp"

namespace wherry::engine {

namespace asio = boost::asio;

using PathStat = image::PathStat;
using FileChange = image::Change;

struct ExtractOptions {
    bool keep_kinds = false;   // a folder is not replaced by something else, nor the other way round
    bool copy_owners = false;  // everything belongs to the container's user, where it has one
};

// An archive on its way out through a descriptor. Dropping this ends it.
class ArchiveTransfer {
  public:
    virtual ~ArchiveTransfer() = default;
    virtual const PathStat& stat() const = 0;  // of `cp`
    // After the stream's end was seen: whether it is whole.
    virtual asio::awaitable<Result<>> finish() = 0;
};

}  // namespace wherry::engine
