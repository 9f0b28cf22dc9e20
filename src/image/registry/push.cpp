#include <algorithm>
#include <atomic>

#include "base/digest.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "image/registry/gzip_writer.hpp"
#include "image/registry/origins.hpp"
#include "image/registry/pull.hpp"
#include "image/registry/transfer.hpp"

namespace wherry::image {

namespace {

constexpr std::uint64_t told_every_bytes = 512U << 10U;

enum class Packing : unsigned char { plain, gzip, zstd };

Packing packing_of(std::string_view media_type) {
    if (media_type.ends_with("zstd")) return Packing::zstd;
    return media_type == media::oci_layer || media_type == media::docker_layer ? Packing::plain : Packing::gzip;
}

// One family of types a manifest: Docker's, which every registry takes, unless a layer's packing is not in it.
void set_types(Manifest& manifest) {
    const bool docker = std::ranges::all_of(
        manifest.layers, [](const Descriptor& layer) { return packing_of(layer.media_type) == Packing::gzip; });
    manifest.media_type = docker ? media::docker_manifest : media::oci_manifest;
    manifest.config.media_type = docker ? media::docker_config : media::oci_config;
    for (Descriptor& layer : manifest.layers) {
        switch (packing_of(layer.media_type)) {
            case Packing::plain:
                layer.media_type = media::oci_layer;
                break;
            case Packing::gzip:
                layer.media_type = docker ? media::docker_layer_gzip : media::oci_layer_gzip;
                break;
            case Packing::zstd:
                layer.media_type = media::oci_layer_zstd;
                break;
        }
        layer.annotations.clear();
        layer.platform.reset();
    }
}

class Push {
  public:
    Push(ImageStore& store, Lease& lease, RegistryClient& client, const Reference& reference,
         const TransferOptions& options, Reporter& report, const std::atomic<bool>& stop)
        : store_(store),
          lease_(lease),
          client_(client),
          reference_(reference),
          origins_(options.origins_folder),
          report_(report),
          stop_(stop) {}

    // The blob of a layer for this registry: one it has already, or one made now.
    Result<Descriptor> layer(const std::string& diff_id) {
        const std::string id = short_digest(diff_id);
        if (auto known = TRY(known_blob(diff_id, id))) return std::move(*known);
        TRY(report_({.id = id, .action = "Preparing"}));
        BlobInfo info = TRY(compress(diff_id));
        auto outcome = send(info, id);
        // The compressed copy served its purpose: the layer itself is kept unpacked.
        if (auto gone = store_.content().remove(info.digest); !gone)
            log_warn("push.copy_left", {{"blob", info.digest}, {"error", gone.error()}});
        if (!outcome) return std::unexpected(std::move(outcome).error());
        Descriptor blob;
        blob.media_type = media::docker_layer_gzip;
        blob.digest = info.digest;
        blob.size_bytes = info.size_bytes;
        origins_.add(diff_id, {blob, reference_.domain, reference_.path});
        return blob;
    }

  private:
    Result<std::optional<Descriptor>> known_blob(const std::string& diff_id, const std::string& id) {
        for (const LayerOrigin& origin : origins_.of(diff_id)) {
            // The same bytes under the same name may be at this registry whatever registry they came from.
            if (TRY(client_.has_blob(origin.blob.digest))) {
                TRY(report_({.id = id, .action = "Layer already exists"}));
                return std::optional(origin.blob);
            }
            if (origin.registry != reference_.domain || origin.repository == reference_.path) continue;
            if (!TRY(client_.mount_blob(origin.blob.digest, origin.repository))) continue;
            TRY(report_({.id = id, .action = "Mounted from " + origin.repository}));
            origins_.add(diff_id, {origin.blob, reference_.domain, reference_.path});
            return std::optional(origin.blob);
        }
        return std::optional<Descriptor>();
    }

    Result<BlobInfo> compress(const std::string& diff_id) {
        Ingest ingest = TRY(store_.content().begin());
        GzipWriter gzip([&](std::span<const std::byte> data) { return ingest.write(data); });
        TRY(store_.layers().write_tar(diff_id, [&](std::span<const std::byte> data) -> Result<> {
            if (stop_ || client_.is_cancelled()) return fail(Code::cancelled, "cancelled");
            return gzip.write(data);
        }));
        TRY(gzip.finish());
        BlobInfo info = TRY(ingest.commit());
        lease_.hold(info.digest);
        return info;
    }

    Result<> send(const BlobInfo& info, const std::string& id) {
        if (TRY(client_.has_blob(info.digest))) return report_({.id = id, .action = "Layer already exists"});
        std::uint64_t told = 0;
        TRY(client_.upload_blob(
            info.digest, info.size_bytes,
            [&]() -> Result<ByteSource> { return ByteSource::from_fd(TRY(store_.content().open_blob(info.digest))); },
            [&](std::uint64_t sent) {
                if (sent >= told && sent - told < told_every_bytes && sent != info.size_bytes) return;
                told = sent;
                // A listener that is gone ends the push with its next report that counts.
                (void)report_({.id = id, .action = "Pushing", .current_bytes = sent, .total_bytes = info.size_bytes});
            }));
        return report_({.id = id, .action = "Pushed"});
    }

    ImageStore& store_;
    Lease& lease_;
    RegistryClient& client_;
    const Reference& reference_;
    LayerOrigins origins_;
    Reporter& report_;
    const std::atomic<bool>& stop_;
};

}  // namespace

Result<PushedImage> push_image(ImageStore& store, std::string_view image_id, const Reference& reference,
                               const TransferOptions& options) {
    if (!reference.digest.empty()) return fail(Code::invalid_argument, "cannot push a digest reference");
    Lease lease = store.lease();
    lease.hold(std::string(image_id));
    const Image image = TRY(store.image(image_id));
    for (const std::string& diff_id : image.config.diff_ids) lease.hold(diff_id);
    auto client = TRY(RegistryClient::create(own_location(reference.domain), reference.path, options.registry));
    Reporter report(options.progress);
    std::atomic<bool> stop{false};
    Push push(store, lease, *client, reference, options, report, stop);
    Manifest manifest;
    // A layer that is there twice is sent once.
    std::vector<std::string> different;
    for (const std::string& diff_id : image.config.diff_ids)
        if (std::ranges::find(different, diff_id) == different.end()) different.push_back(diff_id);
    std::vector<Descriptor> blobs(different.size());
    TRY(for_each_parallel(
        different.size(), options.concurrent_layers,
        [&](std::size_t i) -> Result<> {
            blobs[i] = TRY(push.layer(different[i]));
            return {};
        },
        stop));
    for (const std::string& diff_id : image.config.diff_ids)
        manifest.layers.push_back(
            blobs[static_cast<std::size_t>(std::ranges::find(different, diff_id) - different.begin())]);
    manifest.config.digest = image.id;
    manifest.config.size_bytes = image.config_json.size();
    set_types(manifest);
    if (!TRY(client->has_blob(image.id)))
        TRY(client->upload_blob(image.id, image.config_json.size(),
                                [&]() -> Result<ByteSource> { return ByteSource::from_string(image.config_json); },
                                {}));
    const std::string bytes = wherry::to_json(json::value(encode(manifest)));
    TRY(client->put_manifest(reference.tag, manifest.media_type, bytes));
    return PushedImage{.digest = sha256_digest(bytes), .manifest_bytes = bytes.size()};
}

}  // namespace wherry::image
