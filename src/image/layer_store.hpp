// Layers: file trees by the digest of their tar stream, and the writable layers of containers above them.
//
// A layer is there whole or not at all. It is unpacked by a confined child into a folder of its own, then renamed to
// its diff id; adding the same id twice at once does the work once. Removing renames first and deletes in the
// background. Thread-safe; functions block and belong on worker threads.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "image/bytes.hpp"

namespace wherry::image {

struct LayerInfo {
    std::string diff_id;           // sha256 of the uncompressed tar stream
    std::uint64_t tar_bytes = 0;   // length of that stream
    std::uint64_t size_bytes = 0;  // content of its files, as Docker counts a layer's size
    std::uint64_t entries = 0;
    bool fresh = false;  // add() made it, it was not there before
};

// Against archives made to fill the disk. resource_exhausted beyond.
struct UnpackLimits {
    std::uint64_t max_bytes = 256ULL << 30U;  // uncompressed stream, and apart from it the data written
    std::uint64_t max_entries = 4'000'000;
};

struct AddLayerOptions {
    // When known: an existing layer is returned without reading the source, and a stream that hashes to something else
    // is data_loss.
    std::string expected_diff_id;
    UnpackLimits limits;
    ProgressFunction progress;  // current_bytes counts the bytes of the source
    std::string progress_id;
    std::string progress_action = "Extracting";
};

// What the runtime needs to mount a container's root (overlayfs: lowerdir, upperdir, workdir); absolute paths.
struct RootFilesystem {
    std::vector<std::string> lowers;  // topmost first, the order of overlayfs
    std::string upper;
    std::string work;
};

enum class ChangeKind { modified = 0, added = 1, deleted = 2 };  // Docker's numbers
struct Change {
    ChangeKind kind = ChangeKind::modified;
    std::string path;  // absolute, in the container
};

enum class RootAccess { read_only, read_write };

class LayerStore {
  public:
    virtual ~LayerStore() = default;

    // Unpacks a layer's tar stream: plain, gzip or zstd, told apart by its first bytes.
    virtual Result<LayerInfo> add(ByteSource& source, const AddLayerOptions& options) = 0;
    virtual bool has(std::string_view diff_id) const = 0;
    virtual Result<LayerInfo> info(std::string_view diff_id) const = 0;
    virtual Result<std::vector<LayerInfo>> list() const = 0;
    // Whoever calls makes sure that nothing uses it (ImageStore does). Missing is fine.
    virtual Result<> remove(std::string_view diff_id) = 0;
    // Writes the uncompressed tar stream again, byte for byte; data_loss when the tree no longer gives its diff id.
    virtual Result<> write_tar(std::string_view diff_id, const ByteSink& sink) const = 0;
    // Whether the tree on disk is what its stream says: every file's content, kind, owner, mode, time, links and
    // attributes, nothing missing and nothing more. data_loss names the first difference.
    virtual Result<> verify(std::string_view diff_id, const std::function<bool()>& cancelled) const = 0;

    // Makes containers/<id>/upper and work above the given chain (diff ids, lowest layer first). already_exists.
    virtual Result<RootFilesystem> prepare(std::string_view container_id, const std::vector<std::string>& diff_ids) = 0;
    // The same for a container that is there already (after a restart).
    virtual Result<RootFilesystem> root_filesystem(std::string_view container_id,
                                                   const std::vector<std::string>& diff_ids) const = 0;
    // Removes the whole containers/<id>, at once for the caller. Missing is fine.
    virtual Result<> remove_container(std::string_view container_id) = 0;
    // Bytes in the files of the writable layer (Docker's SizeRw).
    virtual Result<std::uint64_t> upper_size(std::string_view container_id) const = 0;
    // Added, modified and deleted paths, sorted; without `made` (absolute paths), which were made for the container and
    // not by it.
    virtual Result<std::vector<Change>> changes(std::string_view container_id, const std::vector<std::string>& diff_ids,
                                                const std::set<std::string>& made) const = 0;
    // The writable layer as the tar stream of an OCI layer (whiteouts as .wh. files).
    virtual Result<> write_upper_tar(std::string_view container_id, const ByteSink& sink) const = 0;
    // The whole root, flattened (`export`).
    virtual Result<> write_root_tar(std::string_view container_id, const std::vector<std::string>& diff_ids,
                                    const ByteSink& sink) const = 0;
    // The root folder of the container's file system on a mount of its own that no namespace sees; gone with the
    // descriptor. read_write only while the container does not run.
    virtual Result<Fd> open_root(std::string_view container_id, const std::vector<std::string>& diff_ids,
                                 RootAccess access) const = 0;

    // Waits until the background has deleted everything set aside (tests, shutdown).
    virtual void drain() = 0;
};

struct LayerStoreOptions {
    std::string data_root;
    std::string unpack_program;  // path of wherry-unpack; empty: beside the running executable
};

// Layers as directories for overlayfs. Sweeps what a crash left half done. One process per data root.
Result<std::unique_ptr<LayerStore>> open_overlay_layer_store(LayerStoreOptions options);

}  // namespace wherry::image
