// Named and anonymous volumes. Internal; lives on the loop.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "engine/core.hpp"
#include "engine/volumes.hpp"

namespace wherry::engine {

class VolumeService final : public Volumes {
  public:
    explicit VolumeService(Core& core) : core_(core) {}

    asio::awaitable<Result<VolumeView>> create(VolumeCreate request) override;
    asio::awaitable<Result<std::vector<VolumeView>>> list(Filters filters) override;
    asio::awaitable<Result<VolumeView>> inspect(std::string name) override;
    asio::awaitable<Result<>> remove(std::string name, bool force) override;
    asio::awaitable<Result<PruneResult>> prune(Filters filters) override;

    enum class Made : std::uint8_t { now, before };
    // The volume, made when there is none: its directory, but not its record, which belongs into the transaction of
    // whoever needs the volume (take_unwritten). A directory without a record does not survive a restart.
    asio::awaitable<Result<Made>> ensure(Volume volume);
    // Adds the records that are still missing of these volumes.
    void take_unwritten(const std::vector<std::string>& names, store::Transaction& transaction);
    // Undoes an ensure() of now.
    asio::awaitable<void> forget(std::string name);
    std::vector<ContainerPtr> users(const std::string& name) const;
    // Directories of volumes without a record, left by a crash.
    asio::awaitable<void> sweep();

  private:
    VolumeView view(const Volume& volume) const;
    Core& core_;
};

// Copies what is at `path` in the image's root (a descriptor of it) into the empty directory `target`, as Docker fills
// a new volume: content, owner, mode and times. Nothing there: nothing done. Never leaves the root. Blocks.
Result<> populate_volume(int root, const std::string& path, const std::string& target);
Result<std::int64_t> tree_size(const std::string& path);

}  // namespace wherry::engine
