#include "image/registry/pull.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <future>
#include <mutex>
#include <thread>

#include "base/digest.hpp"
#include "base/log.hpp"
#include "image/registry/channel.hpp"
#include "image/registry/gzip_writer.hpp"
#include "image/registry/origins.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t channel_bytes = 2U << 20U;
// Blobs from here on are read in pieces side by side: one connection seldom fills a long way.
constexpr std::uint64_t ranges_from_bytes = 32U << 20U;
constexpr std::size_t range_bytes = 2U << 20U;
constexpr std::size_t ranges_at_once = 3;

std::string short_digest(std::string_view digest) {
    return std::string(digest_hex(digest).substr(0, 12));
}

// One call at a time, whatever thread it comes from.
class Reporter {
  public:
    explicit Reporter(ProgressFunction function) : function_(std::move(function)) {}
    Result<> operator()(Progress progress) {
        if (!function_) return {};
        std::lock_guard lock(lock_);
        return function_(progress);
    }

  private:
    ProgressFunction function_;
    std::mutex lock_;
};

// Runs `work(i)` for each i below count on some threads; the first error stops the rest.
Result<> for_each_parallel(std::size_t count, unsigned threads, const std::function<Result<>(std::size_t)>& work,
                           std::atomic<bool>& stop) {
    std::atomic<std::size_t> next{0};
    std::mutex lock;
    std::optional<Error> first;
    auto run = [&] {
        for (std::size_t i = next++; i < count && !stop; i = next++) {
            if (auto outcome = work(i); !outcome) {
                std::lock_guard guard(lock);
                if (!first) first = std::move(outcome).error();
                stop = true;
            }
        }
    };
    std::vector<std::thread> pool;
    for (unsigned i = 1; i < std::min<std::size_t>(threads, count); ++i) pool.emplace_back(run);
    run();
    for (std::thread& thread : pool) thread.join();
    if (first) return std::unexpected(std::move(*first));
    return {};
}

struct Resolved {
    Manifest manifest;
    std::string manifest_digest;
    std::string named_digest;  // of what the reference named
};

std::string describe(const Platform& platform) {
    return platform.os + "/" + platform.architecture + (platform.variant.empty() ? "" : "/" + platform.variant);
}

Result<Resolved> resolve_manifest(RegistryClient& client, const Reference& reference, const Platform& wanted) {
    FetchedManifest fetched = TRY(client.manifest(reference.digest.empty() ? reference.tag : reference.digest));
    Resolved resolved;
    resolved.named_digest = fetched.digest;
    for (int depth = 0; fetched.media_type == media::oci_index || fetched.media_type == media::docker_manifest_list;
         ++depth) {
        if (depth == 3) return fail(Code::data_loss, "manifest lists are nested too deep");
        Index index = TRY(parse_index(fetched.bytes), "manifest list");
        const Descriptor* chosen = nullptr;
        for (const Descriptor& entry : index.manifests) {
            if (!entry.platform || !entry.artifact_type.empty() ||
                entry.annotations.contains("vnd.docker.reference.type"))
                continue;
            if (platform_matches(wanted, *entry.platform)) {
                chosen = &entry;
                break;
            }
        }
        if (chosen == nullptr && index.manifests.size() == 1 && !index.manifests.front().platform)
            chosen = &index.manifests.front();
        if (chosen == nullptr)
            return fail(Code::not_found,
                        "no matching manifest for " + describe(wanted) + " in the manifest list entries");
        fetched = TRY(client.manifest(chosen->digest));
    }
    if (fetched.media_type != media::oci_manifest && fetched.media_type != media::docker_manifest)
        return fail(Code::unimplemented, "the registry gives a manifest of type \"" +
                                             fetched.media_type.substr(0, 120) + "\", which is not an image");
    resolved.manifest = TRY(parse_manifest(fetched.bytes), "manifest");
    resolved.manifest_digest = fetched.digest;
    return resolved;
}

// The blob's bytes in order, in pieces of several connections when it is large.
Result<> stream_blob(RegistryClient& client, const Descriptor& blob, const ByteSink& sink) {
    if (blob.size_bytes < ranges_from_bytes) return client.read_blob(blob, sink);
    std::deque<std::future<Result<std::string>>> window;
    std::uint64_t asked = 0;
    bool first = true;
    Result<> outcome{};
    while (asked < blob.size_bytes || !window.empty()) {
        // One piece alone first: a registry without ranges is read in the plain way.
        while (asked < blob.size_bytes && window.size() < (first ? 1 : ranges_at_once)) {
            std::size_t size = static_cast<std::size_t>(std::min<std::uint64_t>(range_bytes, blob.size_bytes - asked));
            window.push_back(std::async(
                std::launch::async, [&client, &blob, at = asked, size] { return client.read_range(blob, at, size); }));
            asked += size;
        }
        Result<std::string> piece = window.front().get();
        window.pop_front();
        if (!piece && first && piece.error().code() == Code::unimplemented) return client.read_blob(blob, sink);
        first = false;
        outcome = piece ? sink(as_bytes(*piece)) : Result<>(std::unexpected(std::move(piece).error()));
        if (!outcome) break;
    }
    for (auto& waiting : window) waiting.wait();
    return outcome;
}

Result<> pull_layer(ImageStore& store, RegistryClient& client, const Descriptor& blob, const std::string& diff_id,
                    Reporter& report, std::atomic<bool>& stop) {
    const std::string id = short_digest(blob.digest);
    if (store.layers().has(diff_id)) return report({.id = id, .action = "Already exists"});
    TRY(report({.id = id, .action = "Pulling fs layer"}));
    Channel channel(channel_bytes);
    std::thread reader([&] {
        Sha256 hash;
        std::uint64_t received = 0;
        std::uint64_t told = 0;
        Result<> outcome = stream_blob(client, blob, [&](std::span<const std::byte> data) -> Result<> {
            if (stop) return fail(Code::cancelled, "cancelled");
            hash.update(data);
            received += data.size();
            if (received - told >= (1U << 20U) || received == blob.size_bytes) {
                told = received;
                TRY(report(
                    {.id = id, .action = "Downloading", .current_bytes = received, .total_bytes = blob.size_bytes}));
            }
            return channel.write(std::string(as_text(data)));
        });
        // The whole blob is what its digest says before the last byte's end is told: a tampered layer never completes.
        if (outcome && hash.finish_digest() != blob.digest)
            outcome =
                fail(Code::data_loss,
                     "layer " + blob.digest + ": the registry sent other bytes (filesystem layer verification failed)");
        channel.finish(std::move(outcome));
    });
    auto source = ByteSource::from_function([&](std::span<std::byte> buffer) { return channel.read(buffer); });
    AddLayerOptions options;
    options.expected_diff_id = diff_id;
    auto added = store.layers().add(source, options);
    if (added) {
        // What the decoder left unread (padding after the archive) still belongs to the blob's digest.
        std::array<std::byte, 4096> rest;
        while (true) {
            auto got = channel.read(rest);
            if (!got) {
                added = std::unexpected(std::move(got).error());
                break;
            }
            if (*got == 0) break;
        }
    }
    channel.abandon();
    reader.join();
    if (!added) return std::unexpected(std::move(added).error().context("layer " + blob.digest));
    return report({.id = id, .action = "Pull complete"});
}

}  // namespace

Result<PulledImage> pull_image(ImageStore& store, const Reference& reference, const TransferOptions& options) {
    auto client = TRY(RegistryClient::create(reference.domain, reference.path, options.registry));
    Reporter report(options.progress);
    Platform wanted = options.platform.os.empty() ? host_platform() : options.platform;
    Resolved resolved = TRY(resolve_manifest(*client, reference, wanted));
    const Manifest& manifest = resolved.manifest;
    PulledImage pulled{
        .id = manifest.config.digest, .digest = resolved.named_digest, .up_to_date = store.has(manifest.config.digest)};
    if (pulled.up_to_date) return pulled;
    if (manifest.config.size_bytes > max_document_bytes)
        return fail(Code::resource_exhausted, "the image's configuration is larger than 8 MiB");
    std::string config_json;
    TRY(client->read_blob(manifest.config, [&](std::span<const std::byte> data) -> Result<> {
        config_json += as_text(data);
        return {};
    }));
    if (sha256_digest(config_json) != manifest.config.digest)
        return fail(Code::data_loss, "the registry sent another configuration than the manifest names");
    ImageConfig config = TRY(parse_image_config(config_json), "image configuration");
    if (config.diff_ids.size() != manifest.layers.size())
        return fail(Code::data_loss, "the manifest has " + std::to_string(manifest.layers.size()) +
                                         " layers and the configuration " + std::to_string(config.diff_ids.size()));
    if (options.platform.os.empty() && !config.platform.architecture.empty() &&
        !platform_matches(wanted, config.platform))
        log_warn("image.foreign_platform", {{"image", reference.familiar()}, {"platform", describe(config.platform)}});
    Lease lease = store.lease();
    for (const std::string& diff_id : config.diff_ids) lease.hold(diff_id);
    LayerOrigins origins(options.origins_folder);
    std::atomic<bool> stop{false};
    TRY(for_each_parallel(
        manifest.layers.size(), options.concurrent_layers,
        [&](std::size_t i) -> Result<> {
            TRY(pull_layer(store, *client, manifest.layers[i], config.diff_ids[i], report, stop));
            origins.add(config.diff_ids[i], {manifest.layers[i], reference.domain, reference.path});
            return {};
        },
        stop));
    pulled.id = TRY(store.add_image(config_json));
    return pulled;
}

namespace {

// The blob of a layer for this registry: one it has already, or one made now (compressed into the content store).
Result<Descriptor> push_layer(ImageStore& store, RegistryClient& client, const Reference& reference,
                              const std::string& diff_id, LayerOrigins& origins, Reporter& report) {
    const std::string id = short_digest(diff_id);
    for (const LayerOrigin& origin : origins.of(diff_id)) {
        if (origin.registry != reference.domain) continue;
        if (origin.repository == reference.path || TRY(client.has_blob(origin.blob.digest))) {
            if (origin.repository == reference.path && !TRY(client.has_blob(origin.blob.digest))) continue;
            TRY(report({.id = id, .action = "Layer already exists"}));
            return origin.blob;
        }
        if (TRY(client.mount_blob(origin.blob.digest, origin.repository))) {
            TRY(report({.id = id, .action = "Mounted from " + origin.repository}));
            origins.add(diff_id, {origin.blob, reference.domain, reference.path});
            return origin.blob;
        }
    }
    TRY(report({.id = id, .action = "Preparing"}));
    Ingest ingest = TRY(store.content().begin());
    GzipWriter gzip([&](std::span<const std::byte> data) { return ingest.write(data); });
    TRY(store.layers().write_tar(diff_id, [&](std::span<const std::byte> data) { return gzip.write(data); }));
    TRY(gzip.finish());
    BlobInfo info = TRY(ingest.commit());
    Descriptor blob{
        .media_type = std::string(media::docker_layer_gzip), .digest = info.digest, .size_bytes = info.size_bytes};
    auto outcome = [&]() -> Result<> {
        if (TRY(client.has_blob(blob.digest))) return report({.id = id, .action = "Layer already exists"});
        std::uint64_t told = 0;
        TRY(client.upload_blob(
            blob.digest, blob.size_bytes,
            [&]() -> Result<ByteSource> { return ByteSource::from_fd(TRY(store.content().open_blob(blob.digest))); },
            [&](std::uint64_t sent) {
                if (sent - told < (1U << 20U) && sent != blob.size_bytes) return;
                told = sent;
                (void)report({.id = id, .action = "Pushing", .current_bytes = sent, .total_bytes = blob.size_bytes});
            }));
        return report({.id = id, .action = "Pushed"});
    }();
    // The compressed copy served its purpose: the layer itself is kept unpacked.
    (void)store.content().remove(blob.digest);
    if (!outcome) return std::unexpected(std::move(outcome).error());
    origins.add(diff_id, {blob, reference.domain, reference.path});
    return blob;
}

}  // namespace

Result<std::string> push_image(ImageStore& store, std::string_view image_id, const Reference& reference,
                               const TransferOptions& options) {
    if (!reference.digest.empty()) return fail(Code::invalid_argument, "cannot push a digest reference");
    Image image = TRY(store.image(image_id));
    auto client = TRY(RegistryClient::create(reference.domain, reference.path, options.registry));
    Reporter report(options.progress);
    Lease lease = store.lease();
    for (const std::string& diff_id : image.config.diff_ids) lease.hold(diff_id);
    LayerOrigins origins(options.origins_folder);
    Manifest manifest;
    manifest.media_type = media::docker_manifest;
    manifest.layers.resize(image.config.diff_ids.size());
    std::atomic<bool> stop{false};
    TRY(for_each_parallel(
        manifest.layers.size(), options.concurrent_layers,
        [&](std::size_t i) -> Result<> {
            manifest.layers[i] = TRY(push_layer(store, *client, reference, image.config.diff_ids[i], origins, report));
            // Origins may have been written by another writer: a manifest holds one family of types.
            manifest.layers[i].media_type = media::docker_layer_gzip;
            return {};
        },
        stop));
    manifest.config = {
        .media_type = std::string(media::docker_config), .digest = image.id, .size_bytes = image.config_json.size()};
    if (!TRY(client->has_blob(image.id)))
        TRY(client->upload_blob(image.id, image.config_json.size(),
                                [&]() -> Result<ByteSource> { return ByteSource::from_string(image.config_json); },
                                {}));
    std::string bytes = wherry::to_json(json::value(encode(manifest)));
    TRY(client->put_manifest(reference.tag, manifest.media_type, bytes));
    std::string digest = sha256_digest(bytes);
    TRY(report({.id = reference.tag, .action = "digest: " + digest + " size: " + std::to_string(bytes.size())}));
    return digest;
}

}  // namespace wherry::image
