// Layers as directories for overlayfs, below a data root:
//   layers/<hex of diff id>/diff       the tree, a lower layer
//                          /recipe     how to write its tar stream again (unpack/recipe.hpp)
//                          /replaced   content the recipe needs that is not in the tree; only when there is some
//                          /layer.json sizes; on which boot it was made
//                          /durable    there once everything was synced
//   layers/tmp-<random>/   being unpacked
//   containers/<id>/upper, work
//   empty                   the lower layer of images that have none
//   trash/<random>         set aside, being deleted
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "image/layer_store.hpp"
#include "image/layers/background.hpp"

namespace wherry::image {

class OverlayLayerStore final : public LayerStore {
  public:
    explicit OverlayLayerStore(LayerStoreOptions options) : options_(std::move(options)) {}

    Result<> start();

    Result<LayerInfo> add(ByteSource& source, const AddLayerOptions& options) override;
    bool has(std::string_view diff_id) const override;
    Result<LayerInfo> info(std::string_view diff_id) const override;
    Result<std::vector<LayerInfo>> list() const override;
    Result<> remove(std::string_view diff_id) override;
    Result<> write_tar(std::string_view diff_id, const ByteSink& sink) const override;
    Result<> verify(std::string_view diff_id, const std::function<bool()>& cancelled) const override;

    Result<RootFilesystem> prepare(std::string_view container_id, const std::vector<std::string>& diff_ids) override;
    Result<RootFilesystem> root_filesystem(std::string_view container_id,
                                           const std::vector<std::string>& diff_ids) const override;
    Result<> remove_container(std::string_view container_id) override;
    Result<std::uint64_t> upper_size(std::string_view container_id) const override;
    Result<std::vector<Change>> changes(std::string_view container_id, const std::vector<std::string>& diff_ids,
                                        const std::set<std::string>& made) const override;
    Result<> write_upper_tar(std::string_view container_id, const ByteSink& sink) const override;
    Result<> write_root_tar(std::string_view container_id, const std::vector<std::string>& diff_ids,
                            const ByteSink& sink) const override;
    Result<Fd> open_root(std::string_view container_id, const std::vector<std::string>& diff_ids,
                         RootAccess access) const override;
    void drain() override { background_.drain(); }

  private:
    struct Stored {
        LayerInfo info;
        bool root_opaque = false;  // hides every layer below it
    };

    Result<> read_layers();
    Result<Stored> read_layer(const std::string& folder) const;
    Result<LayerInfo> unpack(ByteSource& source, const AddLayerOptions& options);
    Result<LayerInfo> publish(const std::string& workspace, LayerInfo layer, bool root_opaque);
    void set_aside(const std::string& path);
    void sync_later(const std::string& diff_id);
    Result<std::string> container_folder(std::string_view container_id) const;
    Result<std::vector<std::string>> lowers(const std::vector<std::string>& diff_ids) const;
    std::string layer_folder(std::string_view diff_id) const;

    LayerStoreOptions options_;
    std::string boot_id_;
    mutable std::mutex mutex_;  // guards the two below and publishing
    std::map<std::string, Stored, std::less<>> layers_;
    std::set<std::string, std::less<>> arriving_;  // known diff ids being unpacked
    std::condition_variable arrived_;
    Background background_;  // last: its jobs use the rest
};

}  // namespace wherry::image
