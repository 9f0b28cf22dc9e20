#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <memory>

#include "base/digest.hpp"
#include "base/json.hpp"
#include "image/archive.hpp"
#include "image/reference.hpp"
#include "image/tar/decoder.hpp"
#include "image/tar/reader.hpp"
#include "image/unpack/plan.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t max_all_documents_bytes = 32U << 20U;
constexpr std::size_t max_archive_entries = 1'000'000;
constexpr std::size_t sniff_bytes = 512;
constexpr int max_links = 16;
constexpr int max_index_depth = 4;
constexpr std::string_view blob_prefix = "blobs/sha256/";

// Source that gives `head` first, then the rest.
ByteSource joined(std::string head, ByteSource& rest) {
    auto first = std::make_shared<ByteSource>(ByteSource::from_string(std::move(head)));
    return ByteSource::from_function([first, &rest](std::span<std::byte> buffer) -> Result<std::size_t> {
        std::size_t count = TRY(first->read(buffer));
        return count > 0 ? Result<std::size_t>(count) : rest.read(buffer);
    });
}

// At most `count` bytes, allocated as they come.
Result<std::string> read_some(ByteSource& source, std::size_t count) {
    std::string text;
    std::array<std::byte, 16U << 10U> buffer{};
    while (text.size() < count) {
        std::size_t got = TRY(source.read(std::span(buffer).first(std::min(buffer.size(), count - text.size()))));
        if (got == 0) break;
        text += as_text(std::span(buffer).first(got));
    }
    return text;
}

bool looks_like_json(std::string_view head) {
    std::size_t start = head.find_first_not_of(" \t\r\n");
    return start != std::string_view::npos && (head[start] == '{' || head[start] == '[');
}

bool looks_like_layer(std::string_view head) {
    bool compressed = head.starts_with("\x1f\x8b") || head.starts_with("\x28\xb5\x2f\xfd") || head.starts_with("BZh") ||
                      head.starts_with(std::string_view("\xfd"
                                                        "7zXZ",
                                                        5));
    bool tar = head.size() == sniff_bytes && head.substr(257, 5) == "ustar";
    bool empty_tar = head.size() == sniff_bytes && head.find_first_not_of('\0') == std::string_view::npos;
    return compressed || tar || empty_tar;
}

bool is_bookkeeping(std::string_view path) {
    return path.ends_with("/VERSION") || path.ends_with("/json");
}

}  // namespace

ArchiveReader::ArchiveReader(LayerStore& layers, UnpackLimits limits, Platform platform, ProgressFunction progress,
                             std::function<void(const LayerInfo&)> keep)
    : layers_(layers),
      limits_(limits),
      platform_(std::move(platform)),
      progress_(std::move(progress)),
      keep_(std::move(keep)) {}

Result<> ArchiveReader::read_tar(ByteSource& source) {
    StreamDecoder decoder(source);
    std::vector<std::byte> buffer(256U << 10U);
    TarReader reader([&]() -> Result<std::span<const std::byte>> {
        std::size_t count = TRY(decoder.read(buffer));
        return std::span<const std::byte>(buffer).first(count);
    });
    std::size_t entries = 0;
    for (;;) {
        auto entry = TRY(reader.next(), "image archive");
        if (!entry) return {};
        if (++entries > max_archive_entries)
            return fail(Code::resource_exhausted, "image archive has too many entries");
        std::string path = TRY(clean_path(entry->path), "image archive");
        if (entry->type == TarType::symlink || entry->type == TarType::hard_link) {
            std::string base = entry->type == TarType::symlink
                                   ? path.substr(0, path.rfind('/') == std::string::npos ? 0 : path.rfind('/'))
                                   : "";
            links_[path] = TRY(clean_path(base + "/" + entry->target), "link in image archive");
        }
        if (entry->type != TarType::regular || entry->sparse) continue;
        std::span<const std::byte> piece;
        ByteSource content = ByteSource::from_function([&](std::span<std::byte> out) -> Result<std::size_t> {
            if (piece.empty()) piece = TRY(reader.data());
            std::size_t count = std::min(out.size(), piece.size());
            std::ranges::copy(piece.first(count), out.begin());
            piece = piece.subspan(count);
            return count;
        });
        TRY(file(path, content));
    }
}

Result<> ArchiveReader::read_directory(const std::string& path) {
    Fd root = TRY(open_file(path, O_RDONLY | O_DIRECTORY), "OCI layout");
    std::vector<std::string> files{"oci-layout", "index.json", "manifest.json"};
    if (auto blobs = open_in_root(root.get(), std::string(blob_prefix), O_RDONLY | O_DIRECTORY)) {
        std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(blobs->get()), &::closedir);
        if (!stream) return fail_errno("OCI layout");
        (void)blobs->release();
        while (const dirent* entry = ::readdir(stream.get())) {
            if (entry->d_name[0] != '.') files.push_back(std::string(blob_prefix) + entry->d_name);
        }
    }
    for (const auto& name : files) {
        auto opened = open_in_root(root.get(), name, O_RDONLY | O_NONBLOCK);
        if (!opened && opened.error().code() == Code::not_found) continue;
        if (!opened) return std::unexpected(std::move(opened).error());
        ByteSource content = ByteSource::from_fd(std::move(*opened));
        TRY(file(name, content));
    }
    return {};
}

Result<> ArchiveReader::file(const std::string& path, ByteSource& content) {
    if (is_bookkeeping(path)) return {};
    std::string head = TRY(read_some(content, sniff_bytes), path);
    if (looks_like_layer(head)) {
        ByteSource whole = joined(std::move(head), content);
        return layer(path, whole);
    }
    if (!looks_like_json(head)) return {};
    std::string text = head + TRY(read_some(content, max_document_bytes), path);
    document_bytes_ += text.size();
    if (text.size() > max_document_bytes || document_bytes_ > max_all_documents_bytes) {
        return fail(Code::resource_exhausted, "image archive: its documents are too large");
    }
    documents_[path] = std::move(text);
    return {};
}

Result<> ArchiveReader::layer(const std::string& path, ByteSource& content) {
    std::string named;
    if (path.starts_with(blob_prefix)) named = "sha256:" + path.substr(blob_prefix.size());
    if (is_sha256_digest(named) && layers_.has(named)) {  // not compressed, and known
        LayerInfo known = TRY(layers_.info(named));
        keep_(known);
        if (layers_.has(named)) {
            diff_ids_[path] = named;
            return {};
        }
    }
    Sha256 hash;
    ByteSource hashing = ByteSource::from_function([&](std::span<std::byte> buffer) -> Result<std::size_t> {
        std::size_t count = TRY(content.read(buffer));
        hash.update(std::span<const std::byte>(buffer).first(count));
        return count;
    });
    AddLayerOptions options;
    options.limits = limits_;
    options.progress = progress_;
    options.progress_id = digest_hex(named.empty() ? path : named).substr(0, 12);
    options.progress_action = "Loading layer";
    auto added = layers_.add(hashing, options);
    if (!added) {
        // Not every blob is a layer, and not every layer is needed here.
        if (added.error().code() != Code::invalid_argument)
            return std::unexpected(std::move(added).error().context("layer " + path));
        broken_layers_[path] = added.error().describe();
        return {};
    }
    keep_(*added);
    if (added->fresh && progress_) {
        TRY(progress_({.id = std::string(digest_hex(added->diff_id).substr(0, 12)),
                       .action = options.progress_action,
                       .current_bytes = added->tar_bytes,
                       .total_bytes = added->tar_bytes}));
    }
    std::vector<std::byte> rest(64U << 10U);
    while (TRY(hashing.read(rest)) > 0) {
    }
    if (is_sha256_digest(named) && hash.finish_digest() != named)
        return fail(Code::data_loss, "blob " + named + " has other content than its name says");
    diff_ids_[path] = added->diff_id;
    return {};
}

std::string ArchiveReader::follow(std::string path) const {
    for (int i = 0; i < max_links; ++i) {
        auto link = links_.find(path);
        if (link == links_.end()) break;
        path = link->second;
    }
    return path;
}

Result<const std::string*> ArchiveReader::document(const std::string& path) const {
    auto found = documents_.find(follow(TRY(clean_path(path))));
    if (found == documents_.end()) return invalid("image archive: it has no " + path);
    return &found->second;
}

Result<std::string> ArchiveReader::diff_id_of(const std::string& path) const {
    std::string target = follow(TRY(clean_path(path)));
    if (auto broken = broken_layers_.find(target); broken != broken_layers_.end())
        return invalid("layer " + path + ": " + broken->second);
    auto found = diff_ids_.find(target);
    if (found == diff_ids_.end()) return invalid("image archive: it has no layer " + path);
    return found->second;
}

Result<> ArchiveReader::check(const ImageConfig& config, const std::vector<std::string>& layer_paths) const {
    if (config.diff_ids.size() != layer_paths.size()) {
        return invalid("invalid manifest, layers length mismatch: expected " + std::to_string(config.diff_ids.size()) +
                       ", got " + std::to_string(layer_paths.size()));
    }
    for (std::size_t i = 0; i < layer_paths.size(); ++i) {
        std::string diff_id = TRY(diff_id_of(layer_paths[i]));
        if (diff_id != config.diff_ids[i]) {
            return invalid("invalid diffID for layer " + std::to_string(i) + ": expected " + config.diff_ids[i] +
                           ", got " + diff_id);
        }
    }
    return {};
}

Result<std::vector<ArchiveImage>> ArchiveReader::images() const {
    if (auto manifests = documents_.find("manifest.json"); manifests != documents_.end())
        return docker_images(manifests->second);
    if (auto index = documents_.find("index.json"); index != documents_.end()) return oci_images(index->second);
    if (documents_.contains("repositories"))
        return invalid("image archive: written by a Docker older than 1.10, which is not supported");
    return invalid("not an image archive: it has neither manifest.json nor index.json");
}

Result<std::vector<ArchiveImage>> ArchiveReader::docker_images(std::string_view manifests) const {
    json::value parsed = TRY(parse_json(manifests), "manifest.json");
    if (!parsed.is_array()) return invalid("manifest.json: expected an array");
    std::vector<ArchiveImage> found;
    for (const auto& item : parsed.get_array()) {
        if (!item.is_object()) return invalid("manifest.json: expected objects");
        JsonReader reader(item.get_object(), "manifest.json");
        ArchiveImage image;
        image.config_json = *TRY(document(TRY(reader.required_string("Config"))));
        ImageConfig config = TRY(parse_image_config(image.config_json));
        TRY(check(config, TRY(reader.strings("Layers"))));
        for (const auto& tag : TRY(reader.strings("RepoTags")))
            image.names.push_back(TRY(parse_reference(tag), "RepoTags: " + tag).canonical());
        found.push_back(std::move(image));
    }
    return found;
}

Result<const std::string*> ArchiveReader::blob(const Descriptor& descriptor) const {
    const std::string* text = TRY(document(std::string(blob_prefix) + std::string(digest_hex(descriptor.digest))));
    if (sha256_digest(*text) != descriptor.digest)
        return fail(Code::data_loss, "blob " + descriptor.digest + " has other content than its name says");
    return text;
}

Result<std::vector<ArchiveImage>> ArchiveReader::oci_images(std::string_view index_text) const {
    Index index = TRY(parse_index(index_text), "index.json");
    std::vector<ArchiveImage> found;
    for (const auto& descriptor : index.manifests) {
        std::vector<std::string> names;
        for (const char* key : {"io.containerd.image.name", "org.opencontainers.image.ref.name"}) {
            auto annotation = descriptor.annotations.find(key);
            if (annotation == descriptor.annotations.end() || !names.empty()) continue;
            // The second may be a tag alone, which names nothing.
            if (annotation->second.find_first_of("/:") == std::string::npos) continue;
            if (auto reference = parse_reference(annotation->second)) names.push_back(reference->canonical());
        }
        TRY(oci_image(descriptor, std::move(names), 0, index.manifests.size() == 1, found));
    }
    if (found.empty()) return invalid("image archive: no image for " + platform_.os + "/" + platform_.architecture);
    return found;
}

// `only`: there is no choice, so another platform than the wanted one is taken too.
Result<> ArchiveReader::oci_image(const Descriptor& descriptor, std::vector<std::string> names, int depth, bool only,
                                  std::vector<ArchiveImage>& found) const {
    if (depth > max_index_depth) return invalid("image archive: indexes nest too deeply");
    bool attestation = descriptor.platform && descriptor.platform->os == "unknown";
    bool wanted =
        !descriptor.platform || descriptor.platform->os.empty() || platform_matches(platform_, *descriptor.platform);
    if (attestation || (!wanted && !only)) return {};
    const std::string* text = TRY(blob(descriptor));
    if (descriptor.media_type == media::oci_index || descriptor.media_type == media::docker_manifest_list) {
        Index index = TRY(parse_index(*text), "index " + descriptor.digest);
        std::size_t before = found.size();
        for (const auto& inner : index.manifests) {
            // One image of an index answers to its name; the rest of its platforms may not even be in the archive.
            if (found.size() == before) TRY(oci_image(inner, names, depth + 1, index.manifests.size() == 1, found));
        }
        return {};
    }
    Manifest manifest = TRY(parse_manifest(*text), "manifest " + descriptor.digest);
    ArchiveImage image;
    image.config_json = *TRY(blob(manifest.config));
    image.names = std::move(names);
    std::vector<std::string> paths;
    for (const auto& layer : manifest.layers)
        paths.push_back(std::string(blob_prefix) + std::string(digest_hex(layer.digest)));
    TRY(check(TRY(parse_image_config(image.config_json)), paths));
    auto same = std::ranges::find(found, image.config_json, &ArchiveImage::config_json);
    if (same == found.end()) {
        found.push_back(std::move(image));
    } else {
        same->names.insert(same->names.end(), image.names.begin(), image.names.end());
    }
    return {};
}

}  // namespace wherry::image
