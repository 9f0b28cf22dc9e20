// Images as a user sees them. Archives come and go as descriptors (a pipe, a file): the engine reads or writes them on
// a thread of its own and closes them at the end.
// Threading: call on the engine's executor; progress callbacks come on it too.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"
#include "engine/container_spec.hpp"
#include "engine/containers.hpp"
#include "engine/events.hpp"

namespace wherry::engine {

struct ImageSummary {
    std::string id;  // "sha256:..."
    std::string parent_id;
    Strings repo_tags;
    Strings repo_digests;
    WallTime created;
    std::int64_t size_bytes = 0;
    StringMap labels;
    std::int64_t containers = 0;
};

struct ImageHistory {
    std::string id;  // "<missing>" or the image's id
    WallTime created;
    std::string created_by;
    Strings tags;
    std::int64_t size_bytes = 0;
    std::string comment;
    bool empty_layer = false;
};

struct ImageView {
    ImageSummary summary;
    std::string comment;
    std::string author;
    std::string architecture;
    std::string variant;
    std::string os;
    std::string docker_version;
    Config config;
    Strings diff_ids;
    std::optional<WallTime> last_tag_time;
};

struct ImageListOptions {
    bool all = false;
    Filters filters;  // dangling, label, reference, before, since, until
};

struct ImportOptions {
    std::string reference;  // "repo:tag", may be empty
    Strings changes;        // Dockerfile instructions
    std::string message;
    std::string platform;
};

// A line for the person waiting, e.g. "Loaded image: busybox:latest".
using Progress = std::function<void(std::string line)>;

struct RemovedImage {
    std::string untagged;  // one of the two
    std::string deleted;
};

struct ImageRemoveOptions {
    bool force = false;
    bool no_prune = false;
};

class Images {
  public:
    virtual ~Images() = default;
    virtual asio::awaitable<Result<std::vector<ImageSummary>>> list(ImageListOptions options) = 0;
    virtual asio::awaitable<Result<ImageView>> inspect(std::string reference) = 0;  // "No such image: x"
    virtual asio::awaitable<Result<std::vector<ImageHistory>>> history(std::string reference) = 0;
    virtual asio::awaitable<Result<std::string>> import(Fd archive, ImportOptions options) = 0;  // its id
    virtual asio::awaitable<Result<>> load(Fd archive, Progress progress) = 0;
    virtual asio::awaitable<Result<>> save(Strings references, Fd archive) = 0;
    virtual asio::awaitable<Result<>> tag(std::string reference, std::string repository, std::string tag) = 0;
    virtual asio::awaitable<Result<std::vector<RemovedImage>>> remove(std::string reference,
                                                                      ImageRemoveOptions options) = 0;
    virtual asio::awaitable<Result<PruneResult>> prune(Filters filters) = 0;
};

}  // namespace wherry::engine
