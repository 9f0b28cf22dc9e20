// The engine's view of images: everything by image id (the digest of the configuration). Names and tags belong to the
// engine's records; load and import only report the names they found. Thread-safe; functions block.
//
//     auto store = TRY(ImageStore::open({.data_root = "/var/lib/wherry"}));
//     auto source = ByteSource::from_fd(TRY(open_file("rootfs.tar.zst", O_RDONLY)));
//     std::string id = TRY(store->import_rootfs(source, {.changes = {"CMD [\"sh\"]"}}));
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "image/bytes.hpp"
#include "image/content_store.hpp"
#include "image/layer_store.hpp"
#include "image/model.hpp"

namespace wherry::image {

struct ImageStoreOptions {
    std::string data_root;
    std::string unpack_program;  // empty: wherry-unpack beside the running executable
    UnpackLimits limits;
};

struct Image {
    std::string id;      // "sha256:..."
    std::string parent;  // image id it was committed from, or empty
    ImageConfig config;
    std::string config_json;        // the bytes the id is the digest of
    std::uint64_t size_bytes = 0;   // of all its layers' files
    std::vector<LayerInfo> layers;  // lowest first
};

struct ImportOptions {
    std::string message;               // the history's comment; empty: "Imported from -"
    std::vector<std::string> changes;  // Dockerfile instructions
    Platform platform;                 // empty: the host's
    ProgressFunction progress;
};

struct LoadedImage {
    std::string id;
    std::vector<std::string> names;  // canonical references with tags; may be empty
};

struct LoadOptions {
    ProgressFunction progress;
    Platform platform;  // which one of an index to take; empty: the host's, or else the only one there
};

struct SaveItem {
    std::string image_id;
    std::vector<std::string> names;  // familiar or canonical references with tags
};

struct CommitOptions {
    std::string container_id;
    std::string parent_image_id;  // whose layers the container stands on; may be empty
    std::string author;
    std::string comment;
    std::string created_by;            // history: what ran
    RunConfig config;                  // of the new image, changes already merged
    std::vector<std::string> changes;  // applied on top
};

class ImageStore;

// Keeps layers and blobs that no image refers to yet from being removed while a pull, load or build works with them.
class Lease {
  public:
    Lease(Lease&& other) noexcept;
    Lease& operator=(Lease&&) = delete;
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease();  // what is still unreferenced then may be removed by the next collection

    void hold(std::string digest);  // a diff id or a blob
    // A held layer that this operation brought.
    void note_fresh(std::string diff_id);
    // The operation failed: what it brought goes now, unless another lease holds it or an image has it.
    void discard_fresh();

  private:
    friend class ImageStore;
    explicit Lease(ImageStore* store);
    ImageStore* store_;  // nullptr: moved from
    std::vector<std::string> held_;
    std::mutex lock_;  // guards fresh_: layers arrive on several threads
    std::set<std::string> fresh_;
};

class ImageStore {
  public:
    static Result<std::unique_ptr<ImageStore>> open(ImageStoreOptions options);
    ~ImageStore();

    // A root file system's tar (plain, gzip, zstd) becomes an image of one layer. Returns its id.
    Result<std::string> import_rootfs(ByteSource& source, const ImportOptions& options);
    // A `docker save` archive (either layout) or an OCI layout, as a tar, plain or compressed. All or nothing.
    Result<std::vector<LoadedImage>> load(ByteSource& source, const LoadOptions& options);
    // An OCI layout that is a folder.
    Result<std::vector<LoadedImage>> load_directory(const std::string& path, const LoadOptions& options);
    // One archive that both `docker load` (old and new) and readers of OCI layouts understand.
    Result<> save(const std::vector<SaveItem>& items, const ByteSink& sink) const;
    // The container's writable layer on top of its image. Returns the new image's id.
    Result<std::string> commit(const CommitOptions& options);
    // An image from a configuration whose layers are there already (pull, build). Idempotent.
    Result<std::string> add_image(std::string_view config_json, std::string_view parent = {});

    bool has(std::string_view image_id) const;
    Result<Image> image(std::string_view image_id) const;  // not_found: "No such image: ..."
    Result<std::vector<Image>> list() const;
    // Full ids whose hexadecimal part starts so; with or without "sha256:".
    std::vector<std::string> ids_with_prefix(std::string_view prefix) const;
    // Forgets the image and removes layers and blobs that no other image, lease or `layers_in_use` (diff ids of
    // containers) needs. Returns the diff ids removed.
    Result<std::vector<std::string>> remove(std::string_view image_id, const std::set<std::string>& layers_in_use);
    // Removes every layer and blob nobody refers to; nothing while there are leases. Returns the bytes freed.
    Result<std::uint64_t> collect_garbage(const std::set<std::string>& layers_in_use);
    // Reads configuration and layers again, content and attributes; data_loss names what was changed.
    Result<> verify(std::string_view image_id, const std::function<bool()>& cancelled = {}) const;

    Lease lease() { return Lease(this); }
    LayerStore& layers() { return *layers_; }
    ContentStore& content() { return *content_; }

  private:
    friend class Lease;
    explicit ImageStore(ImageStoreOptions options) : options_(std::move(options)) {}

    struct Record {
        std::string parent;
        std::vector<std::string> diff_ids;
    };
    class Addition;
    Result<> read_records();
    std::string record_path(std::string_view image_id) const;
    Result<Image> describe(const std::string& image_id, const Record& record) const;
    std::set<std::string> referenced_layers() const;
    // Of the candidates, those nobody needs are removed. The lock is held.
    std::vector<std::string> remove_unused(const std::set<std::string>& candidates,
                                           const std::set<std::string>& layers_in_use);
    // Whether it is gone; a failure is logged. The lock is held.
    bool remove_unused_layer(const std::string& diff_id);
    // The layers that only a failed operation with these holds needs.
    void discard(const std::vector<std::string>& own_holds, const std::set<std::string>& fresh_layers);
    // Takes back what a failed operation added.
    void discard(const std::set<std::string>& fresh_layers, const std::vector<std::string>& fresh_images);

    ImageStoreOptions options_;
    std::unique_ptr<ContentStore> content_;
    std::unique_ptr<LayerStore> layers_;
    mutable std::mutex mutex_;               // guards what follows
    std::map<std::string, Record> records_;  // by image id
    std::map<std::string, int> held_;        // by digest: how many leases
    int leases_ = 0;
};

}  // namespace wherry::image
