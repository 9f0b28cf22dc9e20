#include "image/registry/pull.hpp"

#include <algorithm>
#include <atomic>

#include "base/digest.hpp"
#include "base/log.hpp"
#include "image/registry/blob_stream.hpp"
#include "image/registry/origins.hpp"
#include "image/registry/transfer.hpp"

namespace wherry::image {

namespace {

constexpr std::uint64_t progress_step_bytes = 512U << 10U;

struct Resolved {
    Manifest manifest;
    std::string named_digest;  // of what the reference named
};

std::string describe(const Platform& platform) {
    return platform.os + "/" + platform.architecture + (platform.variant.empty() ? "" : "/" + platform.variant);
}

// In Docker's words, which scripts look for.
Error manifest_error(Error error, const Reference& reference) {
    if (error.code() == Code::not_found)
        return {Code::not_found, "manifest for " + reference.familiar() + " not found: " + error.describe()};
    // Docker Hub and others answer 401 or 403 for what does not exist.
    if (error.code() == Code::unauthenticated || error.code() == Code::permission_denied)
        return {Code::not_found, "pull access denied for " + reference.familiar_name() +
                                     ", repository does not exist or may require 'docker login': " + error.describe()};
    return error;
}

bool is_index(const FetchedManifest& fetched) {
    return fetched.media_type == media::oci_index || fetched.media_type == media::docker_manifest_list;
}

const Descriptor* choose(const Index& index, const Platform& wanted) {
    for (const Descriptor& entry : index.manifests) {
        // Attestations and other companions of images are no images.
        if (!entry.platform || !entry.artifact_type.empty() || entry.annotations.contains("vnd.docker.reference.type"))
            continue;
        if (platform_matches(wanted, *entry.platform)) return &entry;
    }
    if (index.manifests.size() == 1 && !index.manifests.front().platform) return &index.manifests.front();
    return nullptr;
}

Result<> check_media_type(const FetchedManifest& fetched, const std::string& inside) {
    if (inside != fetched.media_type)
        return fail(Code::data_loss, "the registry calls \"" + fetched.media_type.substr(0, 120) +
                                         "\" what calls itself \"" + inside.substr(0, 120) + "\"");
    return {};
}

Result<Resolved> resolve_manifest(RegistryClient& client, const Reference& reference, const Platform& wanted) {
    auto first = client.manifest(reference.digest.empty() ? reference.tag : reference.digest);
    if (!first) return std::unexpected(manifest_error(std::move(first).error(), reference));
    FetchedManifest fetched = std::move(*first);
    Resolved resolved;
    resolved.named_digest = fetched.digest;
    for (int depth = 0; is_index(fetched); ++depth) {
        if (depth == 3) return fail(Code::data_loss, "manifest lists are nested too deep");
        Index index = TRY(parse_index(fetched.bytes), "manifest list");
        TRY(check_media_type(fetched, index.media_type));
        const Descriptor* chosen = choose(index, wanted);
        if (chosen == nullptr)
            return fail(Code::not_found,
                        "no matching manifest for " + describe(wanted) + " in the manifest list entries");
        fetched = TRY(client.manifest(chosen->digest));
    }
    if (fetched.media_type != media::oci_manifest && fetched.media_type != media::docker_manifest)
        return fail(Code::unimplemented, "the registry gives a manifest of type \"" +
                                             fetched.media_type.substr(0, 120) + "\", which is not supported");
    resolved.manifest = TRY(parse_manifest(fetched.bytes));
    TRY(check_media_type(fetched, resolved.manifest.media_type));
    const std::string& kind = resolved.manifest.config.media_type;
    if (kind != media::docker_config && kind != media::oci_config)
        return fail(Code::unimplemented, "encountered remote \"" + kind.substr(0, 120) +
                                             "\" when fetching: it is not an image of containers");
    return resolved;
}

// One layer: network, hash and the confined child at once; bytes are read when the child has room for them.
class LayerPull {
  public:
    LayerPull(ImageStore& store, RegistryClient& client, const Descriptor& blob, std::string diff_id, Reporter& report,
              const std::atomic<bool>& stop, UnpackLimits limits)
        : store_(store),
          blob_(blob),
          diff_id_(std::move(diff_id)),
          report_(report),
          stop_(stop),
          limits_(limits),
          id_(short_digest(blob.digest)),
          stream_(client, blob) {}

    Result<LayerInfo> run() {
        auto source = ByteSource::from_function([this](std::span<std::byte> buffer) { return read(buffer); });
        AddLayerOptions options;
        options.expected_diff_id = diff_id_;
        options.limits = limits_;
        options.progress = [this](const Progress& progress) -> Result<> {
            if (stop_) return fail(Code::cancelled, "cancelled");
            if (!downloaded_) return {};
            return tell("Extracting", progress.current_bytes);
        };
        auto added = store_.layers().add(source, options);
        // What the network had to say names the blob already.
        if (!added && added.error().describe().contains(blob_.digest)) return added;
        if (!added) return std::unexpected(std::move(added).error().context("layer " + blob_.digest));
        TRY(tell("Pull complete", 0));
        return added;
    }
    // The whole blob went into it (not so when another pull brought the layer meanwhile).
    bool was_read() const { return downloaded_; }

  private:
    Result<std::size_t> read(std::span<std::byte> buffer) {
        if (stop_) return fail(Code::cancelled, "cancelled");
        std::size_t count = TRY(stream_.read(buffer));
        if (count == 0) {
            if (!downloaded_.exchange(true)) TRY(tell("Download complete", 0));
            return count;
        }
        if (stream_.received() - told_ >= progress_step_bytes || stream_.complete()) {
            told_ = stream_.received();
            TRY(tell("Downloading", told_));
        }
        return count;
    }

    Result<> tell(std::string_view action, std::uint64_t bytes) {
        return report_({.id = id_,
                        .action = std::string(action),
                        .current_bytes = bytes,
                        .total_bytes = bytes == 0 ? 0 : blob_.size_bytes});
    }

    ImageStore& store_;
    const Descriptor& blob_;
    std::string diff_id_;
    Reporter& report_;
    const std::atomic<bool>& stop_;
    UnpackLimits limits_;
    std::string id_;
    BlobStream stream_;
    std::uint64_t told_ = 0;
    std::atomic<bool> downloaded_ = false;
};

class Pull {
  public:
    Pull(ImageStore& store, Lease& lease, const Reference& reference, const TransferOptions& options, Reporter& report)
        : store_(store), lease_(lease), reference_(reference), options_(options), report_(report) {}

    // The layers that came are kept by the lease, so that another location need not bring them again.
    Result<PulledImage> from(const RegistryLocation& location) {
        RegistryOptions registry = options_.registry;
        if (location.mirror) registry.credentials = {};  // they are the registry's
        auto client = TRY(RegistryClient::create(location, reference_.path, std::move(registry)));
        const Platform wanted = options_.platform.os.empty() ? host_platform() : options_.platform;
        Resolved resolved = TRY(resolve_manifest(*client, reference_, wanted));
        const Manifest& manifest = resolved.manifest;
        PulledImage pulled{.id = manifest.config.digest, .digest = resolved.named_digest};
        lease_.hold(manifest.config.digest);
        if (!std::exchange(announced_, true))
            TRY(report_({.id = reference_.digest.empty() ? reference_.tag : reference_.digest,
                         .action = "Pulling from " + reference_.path}));
        if (store_.has(manifest.config.digest)) {
            pulled.up_to_date = true;
            TRY(check_platform(TRY(store_.image(manifest.config.digest)).config.platform, wanted));
            for (const Descriptor& layer : manifest.layers)
                TRY(report_({.id = short_digest(layer.digest), .action = "Already exists"}));
            return pulled;
        }
        const std::string config_json = TRY(client->document(manifest.config));
        const ImageConfig config = TRY(parse_image_config(config_json), "image configuration");
        TRY(check(manifest, config, wanted));
        for (const std::string& diff_id : config.diff_ids) lease_.hold(diff_id);
        TRY(fetch_layers(*client, manifest, config, location));
        TRY(store_.add_image(config_json));
        return pulled;
    }

  private:
    Result<> check(const Manifest& manifest, const ImageConfig& config, const Platform& wanted) const {
        if (config.diff_ids.size() != manifest.layers.size())
            return fail(Code::data_loss, "the manifest has " + std::to_string(manifest.layers.size()) +
                                             " layers and the configuration " + std::to_string(config.diff_ids.size()));
        return check_platform(config.platform, wanted);
    }

    Result<> check_platform(const Platform& actual, const Platform& wanted) const {
        if (!actual.os.empty() && actual.os != wanted.os)
            return fail(Code::unimplemented,
                        "image operating system \"" + actual.os.substr(0, 40) + "\" cannot be used on this platform");
        if (actual.architecture.empty() || platform_matches(wanted, actual)) return {};
        if (!options_.platform.os.empty())
            return fail(Code::not_found, "image with reference " + reference_.familiar() +
                                             " was found but does not match the specified platform: wanted " +
                                             describe(wanted) + ", actual: " + describe(actual));
        log_warn("image.foreign_platform", {{"image", reference_.familiar()}, {"platform", describe(actual)}});
        return {};
    }

    Result<> fetch_layers(RegistryClient& client, const Manifest& manifest, const ImageConfig& config,
                          const RegistryLocation& location) {
        for (const Descriptor& layer : manifest.layers)
            TRY(report_({.id = short_digest(layer.digest), .action = "Pulling fs layer"}));
        const LayerOrigins origins(options_.origins_folder);
        std::atomic<bool> stop{false};
        return for_each_parallel(
            manifest.layers.size(), options_.concurrent_layers,
            [&](std::size_t i) -> Result<> {
                const std::string& diff_id = config.diff_ids[i];
                const Descriptor& blob = manifest.layers[i];
                bool proven = false;  // that the blob gives this layer: otherwise it is the registry's word alone
                if (store_.layers().has(diff_id)) {
                    proven = std::ranges::any_of(origins.of(diff_id), [&](const LayerOrigin& origin) {
                        return origin.blob.digest == blob.digest;
                    });
                    TRY(report_({.id = short_digest(blob.digest), .action = "Already exists"}));
                } else {
                    LayerPull layer(store_, client, blob, diff_id, report_, stop, options_.limits);
                    const LayerInfo added = TRY(layer.run());
                    if (added.fresh) lease_.note_fresh(added.diff_id);
                    proven = layer.was_read();
                }
                if (proven && !location.mirror) origins.add(diff_id, {blob, reference_.domain, reference_.path});
                return {};
            },
            stop);
    }

    ImageStore& store_;
    Lease& lease_;
    const Reference& reference_;
    const TransferOptions& options_;
    Reporter& report_;
    bool announced_ = false;
};

// Another place may do better.
bool may_go_on(const Error& error) {
    return error.code() != Code::cancelled && error.code() != Code::resource_exhausted;
}

}  // namespace

Result<PulledImage> pull_image(ImageStore& store, Lease& lease, const Reference& reference,
                               const TransferOptions& options) {
    Reporter report(options.progress);
    Pull pull(store, lease, reference, options, report);
    const std::vector<RegistryLocation> locations = pull_locations(options.registry.config, reference.domain);
    for (const RegistryLocation& location : locations) {
        auto pulled = pull.from(location);
        if (pulled || !location.mirror || !may_go_on(pulled.error())) return pulled;
        log_warn("registry.mirror_failed",
                 {{"mirror", location.host}, {"image", reference.familiar()}, {"error", pulled.error()}});
    }
    return fail(Code::internal, "no place to pull from");  // the registry itself is always the last
}

Result<RemoteImage> inspect_remote(const Reference& reference, const TransferOptions& options) {
    auto client = TRY(RegistryClient::create(own_location(reference.domain), reference.path, options.registry));
    auto got = client->manifest(reference.digest.empty() ? reference.tag : reference.digest);
    if (!got) return std::unexpected(manifest_error(std::move(got).error(), reference));
    const FetchedManifest& fetched = *got;
    RemoteImage remote;
    remote.descriptor.media_type = fetched.media_type;
    remote.descriptor.digest = fetched.digest;
    remote.descriptor.size_bytes = fetched.bytes.size();
    if (is_index(fetched)) {
        for (Descriptor& entry : TRY(parse_index(fetched.bytes), "manifest list").manifests)
            if (entry.platform) remote.platforms.push_back(std::move(*entry.platform));
        return remote;
    }
    if (fetched.media_type != media::oci_manifest && fetched.media_type != media::docker_manifest)
        return fail(Code::unimplemented, "the registry gives a manifest of type \"" +
                                             fetched.media_type.substr(0, 120) + "\", which is not supported");
    const Manifest manifest = TRY(parse_manifest(fetched.bytes));
    if (manifest.config.media_type == media::docker_config || manifest.config.media_type == media::oci_config)
        remote.platforms.push_back(
            TRY(parse_image_config(TRY(client->document(manifest.config))), "image configuration").platform);
    return remote;
}

Result<std::vector<std::string>> remote_tags(const Reference& repository, const TransferOptions& options) {
    auto client = TRY(RegistryClient::create(own_location(repository.domain), repository.path, options.registry));
    auto tags = client->tags();
    if (!tags) return std::unexpected(manifest_error(std::move(tags).error(), repository));
    std::erase_if(*tags, [](const std::string& tag) { return !check_tag(tag); });
    return tags;
}

}  // namespace wherry::image
