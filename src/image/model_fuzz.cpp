// Documents of an image: whatever parses must be written such that it parses to the same again.
#include <cstdlib>

#include "image/model.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry;
    using namespace wherry::image;
    // SAFETY: bytes read as characters.
    std::string_view text(reinterpret_cast<const char*>(data), size);
    if (auto image = parse_image_config(text)) {
        auto again = parse_image_config(to_json(json::value(image::encode(*image))));
        if (!again || again->config != image->config || again->diff_ids != image->diff_ids) std::abort();
    }
    if (auto manifest = parse_manifest(text)) {
        auto again = parse_manifest(to_json(json::value(image::encode(*manifest))));
        if (!again || again->layers.size() != manifest->layers.size()) std::abort();
    }
    if (auto index = parse_index(text)) {
        auto again = parse_index(to_json(json::value(image::encode(*index))));
        if (!again || again->manifests.size() != index->manifests.size()) std::abort();
    }
    RunConfig config;
    (void)apply_change(config, text);
    return 0;
}
