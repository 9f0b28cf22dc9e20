// What images take on the disk, alone and together, and getting it back.
#include <algorithm>

#include "engine/crash_point.hpp"
#include "engine/image_service.hpp"
#include "engine/times.hpp"

namespace wherry::engine {

asio::awaitable<Result<ImageService::LayerUse>> ImageService::layer_use() {
    CO_TRY(const std::vector<image::Image> images, co_await core_.pool.run([this] { return core_.images->list(); }));
    LayerUse use;
    for (const image::Image& image : images) {
        std::set<std::string> seen;  // an image may have the same layer twice
        for (const image::LayerInfo& layer : image.layers) {
            if (!seen.insert(layer.diff_id).second) continue;
            use.size_bytes[layer.diff_id] = static_cast<std::int64_t>(layer.size_bytes);
            ++use.images[layer.diff_id];
            use.layers_of[image.id].push_back(layer.diff_id);
        }
    }
    co_return use;
}

asio::awaitable<Result<std::vector<ImageSummary>>> ImageService::usage() {
    CO_TRY(std::vector<ImageSummary> images, co_await list({}));
    CO_TRY(LayerUse use, co_await layer_use());
    for (ImageSummary& image : images) {
        image.shared_size_bytes = 0;
        for (const std::string& layer : use.layers_of[image.id]) {
            if (use.images[layer] > 1) image.shared_size_bytes += use.size_bytes[layer];
        }
    }
    co_return images;
}

asio::awaitable<Result<PruneResult>> ImageService::prune(Filters filters) {
    CO_CHECK(check_filters(filters, {"dangling", "label", "label!", "until"}));
    bool only_dangling = true;
    if (const auto found = filters.find("dangling"); found != filters.end() && !found->second.empty()) {
        const std::string& value = found->second.front();
        if (value != "true" && value != "false" && value != "1" && value != "0")
            co_return fail(Code::invalid_argument, "invalid filter 'dangling=" + value + "'");
        only_dangling = value == "true" || value == "1";
    }
    std::optional<WallTime> until;
    if (const auto found = filters.find("until"); found != filters.end() && !found->second.empty()) {
        CO_TRY(until, parse_until(found->second.front()));
    }
    CO_TRY(const std::vector<ImageSummary> images, co_await list({}));
    CO_TRY(LayerUse use, co_await layer_use());
    PruneResult result;
    for (const ImageSummary& image : images) {
        if (image.containers > 0 || (only_dangling && !(image.repo_tags.empty() && image.repo_digests.empty())))
            continue;
        if (until && image.created > *until) continue;
        if (!matches_label_filters(image.labels, filters)) continue;
        crash_point("prune.image");
        auto removed = co_await remove(image.id, {.force = true, .only_unused = true, .only_unnamed = only_dangling});
        if (!removed) continue;
        for (const RemovedImage& one : *removed) {
            result.deleted.push_back(one.untagged.empty() ? one.deleted : one.untagged);
            // Only what went with it: layers that others have stay.
            if (const auto layer = use.size_bytes.find(one.deleted); layer != use.size_bytes.end())
                result.space_reclaimed_bytes += layer->second;
        }
    }
    core_.publish("image", "prune", "", {{"reclaimed", std::to_string(result.space_reclaimed_bytes)}});
    co_return result;
}

}  // namespace wherry::engine
