// Images as a user sees them. Archives come and go as descriptors (a pipe, a file): the engine reads or writes them on
// a thread of its own and closes them at the end.
// Threading: call on the engine's executor; progress callbacks come on it too.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"
#include "engine/container_spec.hpp"
#include "engine/containers.hpp"
#include "engine/events.hpp"
#include "image/registry/auth.hpp"

namespace wherry::engine {

struct ImageSummary {
    std::string id;  // "sha256:..."
    std::string parent_id;
    Strings repo_tags;
    Strings repo_digests;
    WallTime created;
    std::int64_t size_bytes = 0;
    std::int64_t shared_size_bytes = -1;  // with other images; -1: not asked for
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

struct CommitRequest {
    std::string container;  // reference
    std::string repository;
    std::string tag;
    std::string author;
    std::string comment;
    Strings changes;  // Dockerfile instructions
    bool pause = true;
    std::optional<Config> config;  // what it says wins over the container's
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
    // Conflicts, whatever is forced, when the image has come into use since it was looked at.
    bool only_unused = false;   // by a container
    bool only_unnamed = false;  // by a name
};

// Set by whoever no longer wants the result; looked at by the threads that work for it.
using CancelFlag = std::shared_ptr<std::atomic<bool>>;

using image::RegistryCredentials;

// One step of a pull or push. With an id it is about a layer and takes the place of the step before; without, it is a
// line of its own.
struct TransferStep {
    std::string id;
    std::string status;
    std::uint64_t current_bytes = 0;
    std::uint64_t total_bytes = 0;
    // After a tag was pushed.
    struct Pushed {
        std::string tag;
        std::string digest;
        std::uint64_t size_bytes = 0;
    };
    std::optional<Pushed> pushed;
};
using TransferFunction = std::function<void(TransferStep step)>;

struct PullOptions {
    std::string reference;  // "name[:tag][@digest]"; without either: every tag
    std::string platform;   // "linux/arm64"; empty: the host's
    RegistryCredentials credentials;
    CancelFlag cancelled;
};

struct PushOptions {
    std::string reference;  // "name[:tag]"; without: every tag there is here
    RegistryCredentials credentials;
    CancelFlag cancelled;
};

struct RemoteImageView {
    std::string media_type;
    std::string digest;
    std::int64_t size_bytes = 0;
    struct Platform {
        std::string architecture;
        std::string os;
        std::string os_version;
        std::string variant;
    };
    std::vector<Platform> platforms;
};

struct ImageSearchOptions {
    std::string term;  // "name", or "host/name"
    int limit = 0;     // 1 to 100; 0: 25
    Filters filters;   // is-automated, is-official, stars
    RegistryCredentials credentials;
};

struct ImageSearchHit {
    std::string name;
    std::string description;
    std::int64_t stars = 0;
    bool official = false;
    bool automated = false;
};

class Images {
  public:
    virtual ~Images() = default;
    virtual asio::awaitable<Result<std::vector<ImageSummary>>> list(ImageListOptions options) = 0;
    virtual asio::awaitable<Result<ImageView>> inspect(std::string reference) = 0;  // "No such image: x"
    virtual asio::awaitable<Result<std::vector<ImageHistory>>> history(std::string reference) = 0;
    virtual asio::awaitable<Result<std::string>> import(Fd archive, ImportOptions options) = 0;  // its id
    virtual asio::awaitable<Result<std::string>> commit(CommitRequest request) = 0;              // the new image's id
    // `layers` is told of each layer that was not there before.
    virtual asio::awaitable<Result<>> load(Fd archive, Progress progress, TransferFunction layers) = 0;
    virtual asio::awaitable<Result<>> save(Strings references, Fd archive) = 0;
    virtual asio::awaitable<Result<>> tag(std::string reference, std::string repository, std::string tag) = 0;
    virtual asio::awaitable<Result<std::vector<RemovedImage>>> remove(std::string reference,
                                                                      ImageRemoveOptions options) = 0;
    virtual asio::awaitable<Result<PruneResult>> prune(Filters filters) = 0;

    // Registries (image/registry/client.hpp says what is spoken). Steps come on the engine's executor.
    virtual asio::awaitable<Result<>> pull(PullOptions options, TransferFunction progress) = 0;
    virtual asio::awaitable<Result<>> push(PushOptions options, TransferFunction progress) = 0;
    // Whether the registry ("host", or Docker's "https://index.docker.io/v1/") takes the credentials. Returns the
    // identity token that replaces the password, or nothing. unauthenticated.
    virtual asio::awaitable<Result<std::string>> login(std::string server, RegistryCredentials credentials) = 0;
    virtual asio::awaitable<Result<RemoteImageView>> inspect_remote(std::string reference,
                                                                    RegistryCredentials credentials) = 0;
    // unimplemented where the registry offers no search.
    virtual asio::awaitable<Result<std::vector<ImageSearchHit>>> search(ImageSearchOptions options) = 0;
    // Reads everything of the image again. data_loss: something on disk is not what it was.
    virtual asio::awaitable<Result<>> verify(std::string reference, CancelFlag cancelled) = 0;
};

}  // namespace wherry::engine
