// Image archives: what `docker save` wrote (either layout) and OCI layouts, read piece by piece as they stream by.
// Layers are unpacked when they come, documents are kept; at the end the manifests say what belongs together.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "image/bytes.hpp"
#include "image/layer_store.hpp"
#include "image/model.hpp"

namespace wherry::image {

// One image found in an archive: everything is checked, its layers are there.
struct ArchiveImage {
    std::string config_json;
    std::vector<std::string> names;  // canonical
};

class ArchiveReader {
  public:
    // `keep` is told of every layer, before anything else can remove it.
    ArchiveReader(LayerStore& layers, UnpackLimits limits, Platform platform, ProgressFunction progress,
                  std::function<void(const LayerInfo&)> keep);

    Result<> read_tar(ByteSource& source);
    Result<> read_directory(const std::string& path);
    // invalid_argument: not an image archive, or one that contradicts itself.
    Result<std::vector<ArchiveImage>> images() const;

  private:
    Result<> file(const std::string& path, ByteSource& content);
    Result<> layer(const std::string& path, ByteSource& content);
    Result<std::string> diff_id_of(const std::string& path) const;
    Result<const std::string*> document(const std::string& path) const;
    std::string follow(std::string path) const;
    Result<std::vector<ArchiveImage>> docker_images(std::string_view manifests) const;
    Result<std::vector<ArchiveImage>> oci_images(std::string_view index_text) const;
    Result<> oci_image(const Descriptor& descriptor, std::vector<std::string> names, int depth, bool only,
                       std::vector<ArchiveImage>& found) const;
    Result<const std::string*> blob(const Descriptor& descriptor) const;
    Result<> check(const ImageConfig& config, const std::vector<std::string>& layer_paths) const;

    LayerStore& layers_;
    UnpackLimits limits_;
    Platform platform_;
    ProgressFunction progress_;
    std::function<void(const LayerInfo&)> keep_;
    std::map<std::string, std::string> documents_;  // by path in the archive
    std::size_t document_bytes_ = 0;
    std::map<std::string, std::string> diff_ids_;       // of layers, by path
    std::map<std::string, std::string> broken_layers_;  // why, by path: fatal only when an image needs them
    std::map<std::string, std::string> links_;          // path to path
};

// One image as it goes into an archive.
struct ArchiveItem {
    std::string config_json;
    std::vector<LayerInfo> layers;
    std::vector<std::string> names;  // references with tags
};

// Docker's manifest.json beside an OCI layout, over the same blobs. Streams; needs no temporary space.
Result<> write_archive(const std::vector<ArchiveItem>& items, const LayerStore& layers, const ByteSink& sink);

}  // namespace wherry::image
