// Images by the names people give them. Internal; lives on the loop.
#pragma once

#include "engine/core.hpp"
#include "engine/images.hpp"

namespace wherry::engine {

class ImageService final : public Images {
  public:
    explicit ImageService(Core& core) : core_(core) {}

    asio::awaitable<Result<std::vector<ImageSummary>>> list(ImageListOptions options) override;
    asio::awaitable<Result<ImageView>> inspect(std::string reference) override;
    asio::awaitable<Result<std::vector<ImageHistory>>> history(std::string reference) override;
    asio::awaitable<Result<std::string>> import(Fd archive, ImportOptions options) override;
    asio::awaitable<Result<>> load(Fd archive, Progress progress) override;
    asio::awaitable<Result<>> save(Strings references, Fd archive) override;
    asio::awaitable<Result<>> tag(std::string reference, std::string repository, std::string tag) override;
    asio::awaitable<Result<std::vector<RemovedImage>>> remove(std::string reference,
                                                              ImageRemoveOptions options) override;
    asio::awaitable<Result<PruneResult>> prune(Filters filters) override;

    // At the daemon's start: names that point to nothing, images nobody was told of, layers of neither.
    asio::awaitable<Result<>> reconcile();

  private:
    ImageSummary summarize(const image::Image& image) const;
    // From now on the image is there for everybody, under these (canonical) names too.
    asio::awaitable<Result<>> adopt(std::string id, std::vector<std::string> names);
    asio::awaitable<Result<std::vector<RemovedImage>>> delete_image(std::string id);

    Core& core_;
    Mutex changes_;  // one removal, tag or load at a time
};

}  // namespace wherry::engine
