// An image of a Docker root as a stream of the kind `docker save` writes: layers by digest, configuration,
// manifest.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>

#include "adopt/docker_root.hpp"
#include "adopt/tar_split.hpp"
#include "base/result.hpp"

namespace wherry::adopt {

class ImageArchive {
  public:
    // Of layers that are `known` at the other end only the beginning is sent: there it is not read.
    ImageArchive(const DockerRoot& root, const DockerImage& image, std::function<bool(const DockerLayer&)> known)
        : root_(root), image_(image), known_(std::move(known)) {}
    // 0: the end.
    Result<std::size_t> read(std::span<std::byte> buffer);

  private:
    Result<bool> advance();
    Result<bool> begin_layer(const DockerLayer& layer);
    void add_file(const std::string& name, std::string_view content);
    std::string manifest() const;

    const DockerRoot& root_;
    const DockerImage& image_;
    std::function<bool(const DockerLayer&)> known_;
    std::set<std::string> sent_;  // one layer may be there twice
    std::size_t next_layer_ = 0;
    bool documents_sent_ = false;
    std::string piece_;
    std::size_t piece_at_ = 0;
    std::optional<LayerStream> layer_;
    std::uint64_t layer_left_ = 0;
    std::uint64_t padding_ = 0;
};

// A header of a tar entry (POSIX ustar; sizes over 8 GiB in GNU's binary form), 512 bytes.
std::string tar_header(const std::string& name, std::uint64_t size);

}  // namespace wherry::adopt
