#include "image/image_store.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "image/archive.hpp"
#include "image/reference.hpp"

namespace wherry::image {

Lease::Lease(ImageStore* store) : store_(store) {
    std::lock_guard lock(store_->mutex_);
    ++store_->leases_;
}

Lease::Lease(Lease&& other) noexcept
    : store_(std::exchange(other.store_, nullptr)), held_(std::move(other.held_)), fresh_(std::move(other.fresh_)) {}

Lease::~Lease() {
    if (store_ == nullptr) return;
    std::lock_guard lock(store_->mutex_);
    --store_->leases_;
    for (const auto& digest : held_) {
        auto found = store_->held_.find(digest);
        if (--found->second == 0) store_->held_.erase(found);
    }
}

void Lease::hold(std::string digest) {
    std::lock_guard lock(store_->mutex_);
    ++store_->held_[digest];
    held_.push_back(std::move(digest));
}

void Lease::note_fresh(std::string diff_id) {
    std::lock_guard lock(lock_);
    fresh_.insert(std::move(diff_id));
}

void Lease::discard_fresh() {
    std::set<std::string> fresh;
    {
        std::lock_guard lock(lock_);
        fresh.swap(fresh_);
    }
    store_->discard(held_, fresh);
}

// An operation that adds layers and images: unless it succeeds, what it added goes again.
class ImageStore::Addition {
  public:
    explicit Addition(ImageStore& store) : store_(store), lease_(&store) {}
    Addition(const Addition&) = delete;
    Addition& operator=(const Addition&) = delete;
    ~Addition() {
        if (!done_) store_.discard(fresh_layers_, fresh_images_);
    }

    void keep(const LayerInfo& layer) {
        lease_.hold(layer.diff_id);
        if (layer.fresh) fresh_layers_.insert(layer.diff_id);
    }
    Result<std::string> image(std::string_view config_json, std::string_view parent = {}) {
        std::string id = sha256_digest(config_json);
        bool fresh = !store_.has(id);
        TRY(store_.add_image(config_json, parent));
        if (fresh) fresh_images_.push_back(id);
        return id;
    }
    void done() { done_ = true; }

  private:
    ImageStore& store_;
    Lease lease_;
    std::set<std::string> fresh_layers_;
    std::vector<std::string> fresh_images_;
    bool done_ = false;
};

ImageStore::~ImageStore() = default;

Result<std::unique_ptr<ImageStore>> ImageStore::open(ImageStoreOptions options) {
    std::unique_ptr<ImageStore> store(new ImageStore(std::move(options)));  // private constructor
    const ImageStoreOptions& chosen = store->options_;
    TRY(make_directories(chosen.data_root + "/images", 0700), "image store");
    store->content_ = TRY(ContentStore::open(chosen.data_root + "/content"), "image store");
    store->layers_ =
        TRY(open_overlay_layer_store({.data_root = chosen.data_root, .unpack_program = chosen.unpack_program}),
            "image store");
    TRY(store->read_records(), "image store");
    return store;
}

std::string ImageStore::record_path(std::string_view image_id) const {
    return options_.data_root + "/images/" + std::string(digest_hex(image_id)) + ".json";
}

Result<> ImageStore::read_records() {
    std::string folder = options_.data_root + "/images";
    std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(folder.c_str()), &::closedir);
    if (!stream) return fail_errno("list images");
    while (const dirent* entry = ::readdir(stream.get())) {
        std::string name = entry->d_name;
        if (name.contains(".json.tmp-")) ::unlink((folder + "/" + name).c_str());  // a crash left it half written
        if (!name.ends_with(".json")) continue;
        std::string id = "sha256:" + name.substr(0, name.size() - 5);
        auto load = [&]() -> Result<Record> {
            if (!is_sha256_digest(id)) return fail(Code::invalid_argument, "not an image id");
            json::object object = TRY(parse_json_object(TRY(read_file(folder + "/" + name, 64U << 10U))));
            Record record;
            record.parent = TRY(JsonReader(object).string_or("parent", ""));
            record.diff_ids = TRY(parse_image_config(TRY(content_->read(id)))).diff_ids;
            for (const auto& diff_id : record.diff_ids) (void)TRY(layers_->info(diff_id));
            return record;
        };
        auto record = load();
        if (record) {
            records_.emplace(std::move(id), std::move(*record));
        } else {
            log_error("image.lost", {{"id", id}, {"error", record.error()}});
            ::unlink((folder + "/" + name).c_str());
        }
    }
    return {};
}

bool ImageStore::has(std::string_view image_id) const {
    std::lock_guard lock(mutex_);
    return records_.contains(std::string(image_id));
}

Result<Image> ImageStore::describe(const std::string& image_id, const Record& record) const {
    Image image;
    image.id = image_id;
    image.parent = record.parent;
    image.config_json = TRY(content_->read(image_id));
    image.config = TRY(parse_image_config(image.config_json));
    for (const auto& diff_id : record.diff_ids) {
        image.layers.push_back(TRY(layers_->info(diff_id)));
        image.size_bytes += image.layers.back().size_bytes;
    }
    return image;
}

Result<Image> ImageStore::image(std::string_view image_id) const {
    Record record;
    {
        std::lock_guard lock(mutex_);
        auto found = records_.find(std::string(image_id));
        if (found == records_.end()) return fail(Code::not_found, "No such image: " + std::string(image_id));
        record = found->second;
    }
    return describe(std::string(image_id), record);
}

Result<std::vector<Image>> ImageStore::list() const {
    std::map<std::string, Record> records;
    {
        std::lock_guard lock(mutex_);
        records = records_;
    }
    std::vector<Image> images;
    for (const auto& [id, record] : records) {
        auto image = describe(id, record);
        if (image) {
            images.push_back(std::move(*image));
        } else if (has(id)) {  // else removed meanwhile
            return std::unexpected(std::move(image).error().context("image " + id));
        }
    }
    return images;
}

std::vector<std::string> ImageStore::ids_with_prefix(std::string_view prefix) const {
    std::vector<std::string> ids;
    if (!may_be_image_id_prefix(prefix)) return ids;
    std::string full = normalize_image_id(prefix);
    std::lock_guard lock(mutex_);
    for (auto it = records_.lower_bound(full); it != records_.end() && it->first.starts_with(full); ++it)
        ids.push_back(it->first);
    return ids;
}

Result<std::string> ImageStore::add_image(std::string_view config_json, std::string_view parent) {
    ImageConfig config = TRY(parse_image_config(config_json));
    BlobInfo blob = TRY(content_->put(config_json));
    std::lock_guard lock(mutex_);
    if (records_.contains(blob.digest)) return blob.digest;
    for (const auto& diff_id : config.diff_ids) (void)TRY(layers_->info(diff_id));
    // Again, under the lock: a removal of the same image may have just taken the blob.
    (void)TRY(content_->put(config_json));
    json::object record;
    record["parent"] = parent;
    TRY(write_file_atomic(record_path(blob.digest), to_json(json::value(record)), 0600, Durability::data));
    records_.emplace(blob.digest, Record{.parent = std::string(parent), .diff_ids = config.diff_ids});
    return blob.digest;
}

std::set<std::string> ImageStore::referenced_layers() const {
    std::set<std::string> used;
    for (const auto& [id, record] : records_) used.insert(record.diff_ids.begin(), record.diff_ids.end());
    return used;
}

std::vector<std::string> ImageStore::remove_unused(const std::set<std::string>& candidates,
                                                   const std::set<std::string>& layers_in_use) {
    std::set<std::string> used = referenced_layers();
    std::vector<std::string> removed;
    for (const auto& diff_id : candidates) {
        if (used.contains(diff_id) || layers_in_use.contains(diff_id) || held_.contains(diff_id) ||
            !layers_->has(diff_id))
            continue;
        if (remove_unused_layer(diff_id)) removed.push_back(diff_id);
    }
    return removed;
}

bool ImageStore::remove_unused_layer(const std::string& diff_id) {
    auto gone = layers_->remove(diff_id);
    if (!gone) log_warn("layer.remove", {{"id", diff_id}, {"error", gone.error()}});
    return gone.has_value();
}

void ImageStore::discard(const std::vector<std::string>& own_holds, const std::set<std::string>& fresh_layers) {
    std::lock_guard lock(mutex_);
    std::set<std::string> used = referenced_layers();
    for (const auto& diff_id : fresh_layers) {
        const auto own = std::ranges::count(own_holds, diff_id);
        auto held = held_.find(diff_id);
        const bool others = held != held_.end() && held->second > own;
        if (!others && !used.contains(diff_id)) remove_unused_layer(diff_id);
    }
}

void ImageStore::discard(const std::set<std::string>& fresh_layers, const std::vector<std::string>& fresh_images) {
    std::lock_guard lock(mutex_);
    for (const auto& id : fresh_images) {
        ::unlink(record_path(id).c_str());
        records_.erase(id);
        if (auto gone = content_->remove(id); !gone) log_warn("image.remove", {{"id", id}, {"error", gone.error()}});
    }
    // The operation's own hold is still there; another's would be a second one.
    std::set<std::string> alone;
    for (const auto& diff_id : fresh_layers) {
        auto held = held_.find(diff_id);
        if (held != held_.end() && held->second == 1) alone.insert(diff_id);
    }
    std::set<std::string> used = referenced_layers();
    for (const auto& diff_id : alone) {
        if (!used.contains(diff_id)) remove_unused_layer(diff_id);
    }
}

Result<std::vector<std::string>> ImageStore::remove(std::string_view image_id,
                                                    const std::set<std::string>& layers_in_use) {
    std::lock_guard lock(mutex_);
    auto found = records_.find(std::string(image_id));
    if (found == records_.end()) return fail(Code::not_found, "No such image: " + std::string(image_id));
    if (::unlink(record_path(image_id).c_str()) < 0 && errno != ENOENT) return fail_errno("remove image");
    std::set<std::string> candidates(found->second.diff_ids.begin(), found->second.diff_ids.end());
    records_.erase(found);
    if (!held_.contains(std::string(image_id))) TRY(content_->remove(image_id));
    return remove_unused(candidates, layers_in_use);
}

Result<std::uint64_t> ImageStore::collect_garbage(const std::set<std::string>& layers_in_use) {
    std::lock_guard lock(mutex_);
    if (leases_ > 0) return 0;
    std::set<std::string> candidates;
    std::map<std::string, std::uint64_t> sizes;
    for (const auto& layer : TRY(layers_->list())) {
        candidates.insert(layer.diff_id);
        sizes[layer.diff_id] = layer.size_bytes;
    }
    std::uint64_t freed = 0;
    for (const auto& diff_id : remove_unused(candidates, layers_in_use)) freed += sizes[diff_id];
    for (const auto& blob : TRY(content_->list())) {
        if (records_.contains(blob.digest)) continue;
        TRY(content_->remove(blob.digest));
        freed += blob.size_bytes;
    }
    return freed;
}

Result<> ImageStore::verify(std::string_view image_id, const std::function<bool()>& cancelled) const {
    TRY(content_->verify(image_id), "image " + std::string(image_id));
    Image found = TRY(image(image_id));
    for (const auto& layer : found.layers) TRY(layers_->verify(layer.diff_id, cancelled), "image " + found.id);
    return {};
}

Result<std::string> ImageStore::import_rootfs(ByteSource& source, const ImportOptions& options) {
    ImageConfig config;
    for (const auto& change : options.changes) TRY(apply_change(config.config, change), "change \"" + change + "\"");
    Addition addition(*this);
    AddLayerOptions layer_options;
    layer_options.limits = options_.limits;
    layer_options.progress = options.progress;
    layer_options.progress_action = "Importing";
    LayerInfo layer = TRY(layers_->add(source, layer_options));
    addition.keep(layer);
    config.created = format_rfc3339_short(wall_now());
    config.platform =
        options.platform.os.empty() && options.platform.architecture.empty() ? host_platform() : options.platform;
    config.diff_ids = {layer.diff_id};
    config.history.push_back(
        {.created = config.created, .comment = options.message.empty() ? "Imported from -" : options.message});
    std::string id = TRY(addition.image(to_json(json::value(encode(config)))));
    addition.done();
    return id;
}

namespace {

Result<std::vector<LoadedImage>> add_all(const std::vector<ArchiveImage>& images,
                                         const std::function<Result<std::string>(std::string_view)>& add) {
    std::vector<LoadedImage> loaded;
    for (const auto& image : images) loaded.push_back({.id = TRY(add(image.config_json)), .names = image.names});
    return loaded;
}

}  // namespace

Result<std::vector<LoadedImage>> ImageStore::load(ByteSource& source, const LoadOptions& options) {
    Addition addition(*this);
    ArchiveReader archive(*layers_, options_.limits, options.platform.os.empty() ? host_platform() : options.platform,
                          options.progress, [&](const LayerInfo& layer) { addition.keep(layer); });
    TRY(archive.read_tar(source));
    auto loaded = TRY(add_all(TRY(archive.images()), [&](std::string_view config) { return addition.image(config); }));
    addition.done();
    return loaded;
}

Result<std::vector<LoadedImage>> ImageStore::load_directory(const std::string& path, const LoadOptions& options) {
    Addition addition(*this);
    ArchiveReader archive(*layers_, options_.limits, options.platform.os.empty() ? host_platform() : options.platform,
                          options.progress, [&](const LayerInfo& layer) { addition.keep(layer); });
    TRY(archive.read_directory(path));
    auto loaded = TRY(add_all(TRY(archive.images()), [&](std::string_view config) { return addition.image(config); }));
    addition.done();
    return loaded;
}

Result<> ImageStore::save(const std::vector<SaveItem>& items, const ByteSink& sink) const {
    std::vector<ArchiveItem> archive;
    for (const auto& item : items) {
        Image found = TRY(image(item.image_id));
        archive.push_back(
            {.config_json = std::move(found.config_json), .layers = std::move(found.layers), .names = item.names});
    }
    return write_archive(archive, *layers_, sink);
}

Result<std::string> ImageStore::commit(const CommitOptions& options) {
    ImageConfig config;
    config.platform = host_platform();
    if (!options.parent_image_id.empty()) config = TRY(image(options.parent_image_id)).config;
    config.config = options.config;
    for (const auto& change : options.changes) TRY(apply_change(config.config, change), "change \"" + change + "\"");
    Addition addition(*this);
    // The child reads the pipe itself; this side only writes the tar into it.
    Pipe pipe = TRY(make_pipe());
    Result<> written;
    std::thread writer([&, output = std::move(pipe.write)]() mutable {
        sigset_t broken_pipe;
        ::sigemptyset(&broken_pipe);
        ::sigaddset(&broken_pipe, SIGPIPE);
        ::pthread_sigmask(SIG_BLOCK, &broken_pipe, nullptr);
        written = layers_->write_upper_tar(options.container_id, sink_to_fd(output.get()));
        output.reset();
    });
    ByteSource source = ByteSource::from_fd(std::move(pipe.read));
    auto layer = layers_->add(source, {.limits = options_.limits});
    source = ByteSource::from_string({});  // closes the pipe: the writer ends, whatever happened
    writer.join();
    if (layer) addition.keep(*layer);
    if (!layer && written) return std::unexpected(std::move(layer).error());
    TRY(std::move(written), "read the container's files");
    config.diff_ids.push_back(layer->diff_id);
    config.created = format_rfc3339_short(wall_now());
    if (!options.author.empty()) config.author = options.author;
    config.history.push_back({.created = config.created,
                              .created_by = options.created_by,
                              .author = options.author,
                              .comment = options.comment});
    std::string id = TRY(addition.image(to_json(json::value(encode(config))), options.parent_image_id));
    addition.done();
    return id;
}

}  // namespace wherry::image
