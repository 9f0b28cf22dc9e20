// A Docker data root (dockerd up to 28 with the overlay2 storage driver) as values. Nothing in it is trusted: every
// path is opened below the root without following symlinks, ids are digests, documents have limits. Nothing is written.
//
//     DockerRoot root = TRY(DockerRoot::open("/var/lib/docker"));
//     for (const DockerImage& image : TRY(root.images())) ...
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/result.hpp"

namespace wherry::adopt {

struct DockerLayer {
    std::string chain_id;  // "sha256:..."
    std::string diff_id;
    std::string cache_id;  // its folder in overlay2
};

struct DockerImage {
    std::string id;  // digest of its configuration
    std::string config;
    std::vector<std::string> names;   // "busybox:latest"
    std::vector<DockerLayer> layers;  // lowest first
};

struct DockerMount {
    std::string volume;
    std::string destination;
    bool writable = true;
};

struct DockerContainer {
    std::string id;
    std::string name;  // without the slash
    std::string image_id;
    bool running = false;
    json::object config;       // as in /containers/create
    json::object host_config;  // likewise
    std::vector<DockerMount> mounts;
    std::string mount_id;  // its folder in overlay2
};

struct DockerVolume {
    std::string name;
    bool has_options = false;  // a driver mounts something there
};

// What could not be read, and why: told, never guessed.
using Complaint = std::function<void(const std::string& what, const Error& error)>;

class DockerRoot {
  public:
    // not_found or invalid_argument when it is none, or of another storage driver.
    static Result<DockerRoot> open(const std::string& path);

    // Named ones, those of containers, and those without a name that no other image was made from.
    Result<std::vector<DockerImage>> images(const Complaint& complain) const;
    Result<std::vector<DockerVolume>> volumes(const Complaint& complain) const;
    Result<std::vector<DockerContainer>> containers(const Complaint& complain) const;

    Result<Fd> layer_tree(const DockerLayer& layer) const;  // the folder, for reading
    Result<Fd> tar_split(const DockerLayer& layer) const;   // gzip
    Result<Fd> container_tree(const DockerContainer& container) const;
    Result<Fd> volume_tree(const DockerVolume& volume) const;

  private:
    explicit DockerRoot(Fd root) : root_(std::move(root)) {}
    Result<DockerImage> image(const std::string& id) const;
    Result<DockerLayer> layer(const std::string& chain_id, const std::string& diff_id) const;
    Result<DockerContainer> container(const std::string& id) const;

    Fd root_;
};

// A path below `root`, with no symlink anywhere in it (openat2 RESOLVE_NO_SYMLINKS); invalid_argument where there is
// one.
Result<Fd> open_plain(int root, const std::string& path, int flags);

}  // namespace wherry::adopt
