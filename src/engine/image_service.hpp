// Images by the names people give them. Internal; lives on the loop.
#pragma once

#include "engine/core.hpp"
#include "engine/images.hpp"
#include "engine/long_work.hpp"
#include "image/reference.hpp"
#include "image/registry/pull.hpp"

namespace wherry::engine {

class ImageService final : public Images {
  public:
    explicit ImageService(Core& core) : core_(core) {}

    asio::awaitable<Result<std::vector<ImageSummary>>> list(ImageListOptions options) override;
    asio::awaitable<Result<ImageView>> inspect(std::string reference) override;
    asio::awaitable<Result<std::vector<ImageHistory>>> history(std::string reference) override;
    asio::awaitable<Result<std::string>> import(Fd archive, ImportOptions options) override;
    asio::awaitable<Result<std::string>> commit(CommitRequest request) override;
    asio::awaitable<Result<>> load(Fd archive, Progress progress, TransferFunction layers) override;
    asio::awaitable<Result<>> save(Strings references, Fd archive) override;
    asio::awaitable<Result<>> tag(std::string reference, std::string repository, std::string tag) override;
    asio::awaitable<Result<std::vector<RemovedImage>>> remove(std::string reference,
                                                              ImageRemoveOptions options) override;
    asio::awaitable<Result<PruneResult>> prune(Filters filters) override;

    asio::awaitable<Result<>> pull(PullOptions options, TransferFunction progress) override;
    asio::awaitable<Result<>> push(PushOptions options, TransferFunction progress) override;
    asio::awaitable<Result<std::string>> login(std::string server, RegistryCredentials credentials) override;
    asio::awaitable<Result<RemoteImageView>> inspect_remote(std::string reference,
                                                            RegistryCredentials credentials) override;
    asio::awaitable<Result<std::vector<ImageSearchHit>>> search(ImageSearchOptions options) override;
    asio::awaitable<Result<>> verify(std::string reference, CancelFlag cancelled) override;

    // Pulls and pushes under way end soon, with `cancelled`.
    void close() { closing_->store(true); }

    // All images, with what of each is shared with others.
    asio::awaitable<Result<std::vector<ImageSummary>>> usage();

    // At the daemon's start: names that point to nothing, images nobody was told of, layers of neither.
    asio::awaitable<Result<>> reconcile();

  private:
    struct LayerUse {
        std::map<std::string, std::int64_t> size_bytes;  // by diff id
        std::map<std::string, int> images;               // how many have it
        std::map<std::string, std::vector<std::string>> layers_of;
    };
    asio::awaitable<Result<LayerUse>> layer_use();
    ImageSummary summarize(const image::Image& image) const;
    // From now on the image is there for everybody, under these (canonical) names too.
    asio::awaitable<Result<>> adopt(std::string id, std::vector<std::string> names);
    asio::awaitable<Result<std::vector<RemovedImage>>> delete_image(std::string id);

    asio::awaitable<Result<>> pull_one(image::Reference reference, PullOptions options, TransferFunction progress);
    asio::awaitable<Result<>> push_one(image::Reference reference, PushOptions options, TransferFunction progress);
    image::RegistryOptions registry_options(const RegistryCredentials& credentials, CancelFlag cancelled) const;
    image::TransferOptions transfer_options(const RegistryCredentials& credentials, const CancelFlag& cancelled,
                                            TransferFunction progress) const;

    Core& core_;
    Mutex changes_;  // one removal, tag or load at a time
    CancelFlag closing_ = std::make_shared<std::atomic<bool>>(false);
    LongWork transfers_;  // last: its threads use the rest
};

}  // namespace wherry::engine
