#include <map>
#include <set>

#include "base/clock.hpp"
#include "base/digest.hpp"
#include "base/json.hpp"
#include "image/archive.hpp"
#include "image/reference.hpp"
#include "image/tar/writer.hpp"

namespace wherry::image {

namespace {

std::string blob_path(std::string_view digest) {
    return "blobs/sha256/" + std::string(digest_hex(digest));
}

std::int64_t created_seconds(const ImageConfig& config) {
    auto time = parse_rfc3339(config.created);
    return time ? std::chrono::duration_cast<std::chrono::seconds>(time->time_since_epoch()).count() : 0;
}

class ArchiveWriter {
  public:
    ArchiveWriter(const LayerStore& layers, const ByteSink& sink) : layers_(layers), tar_(sink) {}

    Result<> write(const std::vector<ArchiveItem>& items) {
        TRY(folder("blobs/"));
        TRY(folder("blobs/sha256/"));
        for (const auto& item : items) TRY(image(item));
        Index index;
        index.media_type = media::oci_index;
        index.manifests = std::move(entries_);
        TRY(tar_.file("index.json", to_json(json::value(encode(index)))));
        TRY(tar_.file("manifest.json", to_json(json::value(manifests_))));
        TRY(tar_.file("oci-layout", R"({"imageLayoutVersion":"1.0.0"})"));
        if (!repositories_.empty()) TRY(tar_.file("repositories", to_json(json::value(repositories_))));
        return tar_.finish();
    }

  private:
    Result<> folder(std::string_view path) {
        TarEntry entry;
        entry.type = TarType::directory;
        entry.path = path;
        entry.mode = 0755;
        TRY(tar_.begin(entry));
        return tar_.end();
    }

    Result<> blob(const std::string& digest, std::string_view text, std::int64_t mtime) {
        if (!written_.insert(digest).second) return {};
        return tar_.file(blob_path(digest), text, mtime);
    }

    Result<> layer(const LayerInfo& layer, std::int64_t mtime) {
        if (!written_.insert(layer.diff_id).second) return {};
        TarEntry entry;
        entry.path = blob_path(layer.diff_id);
        entry.mode = 0644;
        entry.mtime_seconds = mtime;
        entry.size_bytes = layer.tar_bytes;
        entry.stored_bytes = layer.tar_bytes;
        TRY(tar_.begin(entry));
        TRY(layers_.write_tar(layer.diff_id, [&](std::span<const std::byte> bytes) { return tar_.content(bytes); }));
        return tar_.end();
    }

    Result<> image(const ArchiveItem& item) {
        ImageConfig config = TRY(parse_image_config(item.config_json));
        std::int64_t mtime = created_seconds(config);
        Manifest manifest;
        manifest.media_type = media::oci_manifest;
        manifest.config = {.media_type = std::string(media::oci_config),
                           .digest = sha256_digest(item.config_json),
                           .size_bytes = item.config_json.size()};
        json::array layer_paths;
        for (const auto& one : item.layers) {
            TRY(layer(one, mtime));
            manifest.layers.push_back(
                {.media_type = std::string(media::oci_layer), .digest = one.diff_id, .size_bytes = one.tar_bytes});
            layer_paths.emplace_back(blob_path(one.diff_id));
        }
        TRY(blob(manifest.config.digest, item.config_json, mtime));
        std::string manifest_text = to_json(json::value(encode(manifest)));
        std::string manifest_digest = sha256_digest(manifest_text);
        TRY(blob(manifest_digest, manifest_text, mtime));
        Descriptor descriptor{.media_type = manifest.media_type,
                              .digest = manifest_digest,
                              .size_bytes = manifest_text.size(),
                              .platform = config.platform};
        json::array tags;
        for (const auto& name : item.names) {
            Reference reference = TRY(parse_reference(name));
            if (reference.tag.empty()) continue;
            Descriptor named = descriptor;
            named.annotations["io.containerd.image.name"] = reference.name() + ":" + reference.tag;
            named.annotations["org.opencontainers.image.ref.name"] = reference.tag;
            entries_.push_back(std::move(named));
            tags.emplace_back(reference.familiar_name() + ":" + reference.tag);
            if (item.layers.empty()) continue;
            auto& repository = repositories_[reference.familiar_name()];
            if (!repository.is_object()) repository = json::object();
            repository.get_object()[reference.tag] = digest_hex(item.layers.back().diff_id);
        }
        if (tags.empty()) entries_.push_back(std::move(descriptor));
        json::object docker;
        docker["Config"] = blob_path(manifest.config.digest);
        docker["RepoTags"] = tags.empty() ? json::value(nullptr) : json::value(std::move(tags));
        docker["Layers"] = std::move(layer_paths);
        manifests_.push_back(std::move(docker));
        return {};
    }

    const LayerStore& layers_;
    TarWriter tar_;
    std::set<std::string> written_;
    std::vector<Descriptor> entries_;
    json::array manifests_;
    json::object repositories_;
};

}  // namespace

Result<> write_archive(const std::vector<ArchiveItem>& items, const LayerStore& layers, const ByteSink& sink) {
    return ArchiveWriter(layers, sink).write(items);
}

}  // namespace wherry::image
