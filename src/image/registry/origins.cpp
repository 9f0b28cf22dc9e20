#include "image/registry/origins.hpp"

#include <dirent.h>
#include <unistd.h>

#include <memory>

#include "base/digest.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "image/reference.hpp"

namespace wherry::image {

namespace {
constexpr std::size_t max_origins = 16;
}

std::vector<LayerOrigin> LayerOrigins::of(const std::string& diff_id) const {
    std::vector<LayerOrigin> origins;
    if (folder_.empty() || !is_sha256_digest(diff_id)) return origins;
    auto text = read_file(folder_ + "/" + std::string(digest_hex(diff_id)), 1U << 20U);
    if (!text) return origins;
    auto object = parse_json_object(*text);
    if (!object) return origins;
    auto entries = JsonReader(*object).children("origins");
    if (!entries) return origins;
    for (const JsonReader& entry : *entries) {
        auto blob = parse_descriptor(entry);
        auto registry = entry.required_string("registry");
        auto repository = entry.required_string("repository");
        if (blob && registry && repository)
            origins.push_back({std::move(*blob), std::move(*registry), std::move(*repository)});
    }
    return origins;
}

void LayerOrigins::add(const std::string& diff_id, const LayerOrigin& origin) const {
    if (folder_.empty() || !is_sha256_digest(diff_id)) return;
    std::lock_guard guard(lock_);
    std::vector<LayerOrigin> origins = of(diff_id);
    std::erase_if(origins, [&](const LayerOrigin& known) {
        return known.registry == origin.registry && known.repository == origin.repository;
    });
    origins.insert(origins.begin(), origin);
    if (origins.size() > max_origins) origins.resize(max_origins);
    json::array entries;
    for (const LayerOrigin& known : origins) {
        json::object entry = encode(known.blob);
        entry["registry"] = known.registry;
        entry["repository"] = known.repository;
        entries.emplace_back(std::move(entry));
    }
    auto write = [&]() -> Result<> {
        TRY(make_directories(folder_, 0700));
        return write_file_atomic(folder_ + "/" + std::string(digest_hex(diff_id)),
                                 wherry::to_json(json::object{{"origins", std::move(entries)}}), 0600,
                                 Durability::none);
    };
    if (auto result = write(); !result)
        log_warn("layer_origins.write_failed", {{"diff_id", diff_id}, {"error", result.error()}});
}

void LayerOrigins::sweep(const std::function<bool(const std::string& diff_id)>& is_here) const {
    std::lock_guard guard(lock_);
    std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(folder_.c_str()), &::closedir);
    if (!stream) return;  // nothing was ever kept
    while (const dirent* entry = ::readdir(stream.get())) {
        const std::string name = entry->d_name;
        if (name.starts_with('.')) continue;
        const std::string diff_id = "sha256:" + name;
        // Half-written files of a crash have other names.
        if (!is_sha256_digest(diff_id) || !is_here(diff_id)) ::unlink((folder_ + "/" + name).c_str());
    }
}

}  // namespace wherry::image
