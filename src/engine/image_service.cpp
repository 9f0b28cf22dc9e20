#include "engine/image_service.hpp"

#include <fnmatch.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/json.hpp"
#include "base/log.hpp"
#include "engine/crash_point.hpp"
#include "engine/times.hpp"
#include "image/reference.hpp"
#include "image/registry/origins.hpp"

namespace wherry::engine {
namespace {

store::Record name_record(const std::string& name, const std::string& id) {
    store::Record record;
    record.kind = image_name_kind;
    record.key = name;
    record.spec = to_json(json::object{{"id", id}, {"tagged", wall_now().time_since_epoch().count()}});
    record.status = "{}";
    return record;
}

WallTime parse_time(const std::string& text) {
    const auto time = parse_rfc3339(text);
    return time ? *time : WallTime{};
}

Config to_config(const image::RunConfig& run) {
    Config config;
    config.user = run.user;
    config.env = run.env;
    config.entrypoint = run.entrypoint;
    config.cmd = run.cmd;
    config.working_dir = run.working_dir;
    config.exposed_ports = run.exposed_ports;
    config.volumes = run.volumes;
    config.labels = run.labels;
    config.stop_signal = run.stop_signal;
    if (run.stop_timeout_seconds) config.stop_timeout_seconds = static_cast<int>(*run.stop_timeout_seconds);
    if (!run.shell.empty()) config.shell = run.shell;
    config.on_build = run.on_build;
    config.args_escaped = run.args_escaped;
    if (run.healthcheck) {
        config.healthcheck = Healthcheck{.test = run.healthcheck->test,
                                         .interval_ns = run.healthcheck->interval_ns,
                                         .timeout_ns = run.healthcheck->timeout_ns,
                                         .start_period_ns = run.healthcheck->start_period_ns,
                                         .start_interval_ns = run.healthcheck->start_interval_ns,
                                         .retries = static_cast<int>(run.healthcheck->retries)};
    }
    return config;
}

// Docker's reference filter: a pattern for "name", "name:tag" or the last parts of the name.
bool reference_matches(const std::string& familiar, const std::string& pattern) {
    const std::string name = familiar.substr(0, familiar.rfind(':'));
    return ::fnmatch(pattern.c_str(), familiar.c_str(), FNM_PATHNAME) == 0 ||
           ::fnmatch(pattern.c_str(), name.c_str(), FNM_PATHNAME) == 0;
}

}  // namespace

ImageSummary ImageService::summarize(const image::Image& image) const {
    ImageSummary summary;
    summary.id = image.id;
    summary.parent_id = image.parent;
    summary.repo_tags = core_.names_of_image(image.id);
    summary.repo_digests = core_.digests_of_image(image.id);
    summary.created = parse_time(image.config.created);
    summary.size_bytes = static_cast<std::int64_t>(image.size_bytes);
    summary.labels = image.config.config.labels;
    for (const ContainerPtr& container : core_.containers.all())
        summary.containers += container->image_id == image.id ? 1 : 0;
    return summary;
}

asio::awaitable<Result<std::vector<ImageSummary>>> ImageService::list(ImageListOptions options) {
    Filters& filters = options.filters;
    CO_CHECK(check_filters(filters, {"before", "dangling", "label", "reference", "since", "until"}));
    CO_TRY(std::vector<image::Image> images, co_await core_.pool.run([this] { return core_.images->list(); }));
    std::optional<WallTime> before;
    std::optional<WallTime> since;
    for (const auto& [key, limit] : {std::pair{"before", &before}, std::pair{"since", &since}}) {
        const auto found = filters.find(key);
        if (found == filters.end() || found->second.empty()) continue;
        CO_TRY(const ImageView view, co_await inspect(found->second.front()));
        *limit = view.summary.created;
    }
    if (const auto found = filters.find("until"); found != filters.end() && !found->second.empty()) {
        CO_TRY(const WallTime until, parse_until(found->second.front()));
        before = before ? std::min(*before, until) : until;
    }
    std::vector<ImageSummary> result;
    for (const image::Image& image : images) {
        ImageSummary summary = summarize(image);
        if (before && summary.created >= *before) continue;
        if (since && summary.created <= *since) continue;
        if (filters.contains("label") && !labels_match(summary.labels, filters["label"])) continue;
        if (const auto found = filters.find("dangling"); found != filters.end() && !found->second.empty()) {
            const std::string& value = found->second.front();
            if (value != "true" && value != "false" && value != "1" && value != "0")
                co_return fail(Code::invalid_argument, "invalid filter 'dangling=" + value + "'");
            if ((value == "true" || value == "1") != summary.repo_tags.empty()) continue;
        }
        if (const auto found = filters.find("reference"); found != filters.end() && !found->second.empty()) {
            std::erase_if(summary.repo_tags, [&](const std::string& name) {
                return std::ranges::none_of(
                    found->second, [&](const std::string& pattern) { return reference_matches(name, pattern); });
            });
            if (summary.repo_tags.empty()) continue;
        }
        result.push_back(std::move(summary));
    }
    std::ranges::sort(result, [](const ImageSummary& a, const ImageSummary& b) {
        return std::tie(b.created, b.id) < std::tie(a.created, a.id);
    });
    co_return result;
}

asio::awaitable<Result<ImageView>> ImageService::inspect(std::string reference) {
    CO_TRY(const std::string id, core_.resolve_image(reference));
    CO_TRY(const image::Image image, co_await core_.pool.run([this, id] { return core_.images->image(id); }));
    ImageView view;
    view.summary = summarize(image);
    view.author = image.config.author;
    if (!image.config.history.empty()) view.comment = image.config.history.back().comment;
    view.architecture = image.config.platform.architecture;
    view.variant = image.config.platform.variant;
    view.os = image.config.platform.os;
    view.docker_version = image.config.docker_version;
    view.config = to_config(image.config.config);
    view.diff_ids = image.config.diff_ids;
    co_return view;
}

asio::awaitable<Result<std::vector<ImageHistory>>> ImageService::history(std::string reference) {
    CO_TRY(const std::string id, core_.resolve_image(reference));
    CO_TRY(const image::Image image, co_await core_.pool.run([this, id] { return core_.images->image(id); }));
    std::vector<ImageHistory> result;
    std::size_t layer = 0;
    for (const image::HistoryEntry& entry : image.config.history) {
        ImageHistory one;
        one.id = "<missing>";
        one.created = parse_time(entry.created);
        one.created_by = entry.created_by;
        one.comment = entry.comment;
        one.empty_layer = entry.empty_layer;
        if (!entry.empty_layer && layer < image.layers.size())
            one.size_bytes = static_cast<std::int64_t>(image.layers[layer++].size_bytes);
        result.push_back(std::move(one));
    }
    // Layers that no history speaks of.
    for (; layer < image.layers.size(); ++layer) {
        ImageHistory one;
        one.id = "<missing>";
        one.created = parse_time(image.config.created);
        one.size_bytes = static_cast<std::int64_t>(image.layers[layer].size_bytes);
        result.push_back(std::move(one));
    }
    if (result.empty())
        result.push_back(
            {.id = {}, .created = parse_time(image.config.created), .created_by = {}, .tags = {}, .comment = {}});
    std::ranges::reverse(result);
    result.front().id = id;
    result.front().tags = core_.names_of_image(id);
    co_return result;
}

asio::awaitable<Result<>> ImageService::adopt(std::string id, std::vector<std::string> names) {
    store::Transaction transaction;
    if (!core_.known_images.contains(id)) {
        store::Record record;
        record.kind = image_kind;
        record.key = id;
        record.spec = record.status = "{}";
        transaction.push_back(store::Put{std::move(record)});
    }
    for (const std::string& name : names) transaction.push_back(store::Put{name_record(name, id)});
    if (!transaction.empty()) CO_CHECK(co_await core_.journal->commit(std::move(transaction)));
    core_.known_images.insert(id);
    for (const std::string& name : names) core_.image_names[name] = id;
    co_return Result<>{};
}

asio::awaitable<Result<std::string>> ImageService::import(Fd archive, ImportOptions options) {
    std::string canonical;
    if (!options.reference.empty()) {
        CO_TRY(const image::Reference parsed, image::parse_reference(options.reference));
        if (!parsed.digest.empty()) co_return fail(Code::invalid_argument, "cannot import digest reference");
        canonical = parsed.canonical();
    }
    auto source = std::make_shared<image::ByteSource>(image::ByteSource::from_fd(std::move(archive)));
    image::ImportOptions import_options;
    import_options.message = options.message;
    import_options.changes = options.changes;
    if (!options.platform.empty()) {
        const std::size_t slash = options.platform.find('/');
        import_options.platform.os = options.platform.substr(0, slash);
        if (slash != std::string::npos) import_options.platform.architecture = options.platform.substr(slash + 1);
    }
    CO_TRY(std::string id, co_await transfers_.run([this, source, import_options] {
        return core_.images->import_rootfs(*source, import_options);
    }));
    crash_point("import.stored");
    const Mutex::Guard guard = co_await changes_.lock();
    std::vector<std::string> names;
    if (!canonical.empty()) names.push_back(canonical);
    CO_CHECK(co_await adopt(id, std::move(names)));
    core_.publish("image", "import", id,
                  {{"name", canonical.empty() ? id : image::parse_reference(canonical)->familiar()}});
    co_return id;
}

asio::awaitable<Result<>> ImageService::load(Fd archive, Progress progress, TransferFunction layers) {
    auto source = std::make_shared<image::ByteSource>(image::ByteSource::from_fd(std::move(archive)));
    auto steps = std::make_shared<std::vector<TransferStep>>();  // of the working thread, until it is done
    auto result = co_await transfers_.run([this, source, steps] {
        return core_.images->load(*source, {.progress = [steps](const image::Progress& step) -> Result<> {
                                                // Whole layers only: what is on its way has no length yet.
                                                if (step.total_bytes > 0)
                                                    steps->push_back({.id = step.id,
                                                                      .status = step.action,
                                                                      .current_bytes = step.current_bytes,
                                                                      .total_bytes = step.total_bytes,
                                                                      .pushed = {}});
                                                return {};
                                            },
                                            .platform = {}});
    });
    if (layers) {
        for (TransferStep& step : *steps) layers(std::move(step));
    }
    CO_TRY(const std::vector<image::LoadedImage> loaded, std::move(result));
    crash_point("load.stored");
    const Mutex::Guard guard = co_await changes_.lock();
    for (const image::LoadedImage& one : loaded) {
        std::vector<std::string> names;
        for (const std::string& name : one.names) {
            CO_TRY(const image::Reference parsed, image::parse_reference(name));
            names.push_back(parsed.canonical());
        }
        CO_CHECK(co_await adopt(one.id, names));
        for (const std::string& name : names) {
            if (progress) progress("Loaded image: " + image::parse_reference(name)->familiar());
        }
        if (one.names.empty() && progress) progress("Loaded image ID: " + one.id);
        core_.publish("image", "load", one.id, {{"name", one.id}});
    }
    co_return Result<>{};
}

asio::awaitable<Result<>> ImageService::save(Strings references, Fd archive) {
    std::vector<image::SaveItem> items;
    for (const std::string& reference : references) {
        image::SaveItem item;
        CO_TRY(item.image_id, core_.resolve_image(reference));
        if (const auto parsed = image::parse_reference(reference); parsed && !image::is_full_image_id(reference)) {
            if (core_.image_names.contains(parsed->canonical())) {
                item.names.push_back(parsed->canonical());
            } else if (const auto bare = image::parse_reference(reference, image::DefaultTag::none);
                       bare && bare->tag.empty()) {
                // a repository without a tag: all of its names
                for (const auto& [name, id] : core_.image_names) {
                    if (id == item.image_id && name.starts_with(bare->name() + ":")) item.names.push_back(name);
                }
            }
        }
        const auto same = std::ranges::find(items, item.image_id, &image::SaveItem::image_id);
        if (same == items.end()) {
            items.push_back(std::move(item));
        } else {
            same->names.insert(same->names.end(), item.names.begin(), item.names.end());
        }
    }
    if (items.empty()) co_return fail(Code::invalid_argument, "no images to save");
    auto out = std::make_shared<Fd>(std::move(archive));
    CO_CHECK(co_await transfers_.run([this, items, out]() -> Result<> {
        TRY(core_.images->save(items, image::sink_to_fd(out->get())));
        out->reset();
        return {};
    }));
    for (const image::SaveItem& item : items) core_.publish("image", "save", item.image_id, {{"name", item.image_id}});
    co_return Result<>{};
}

asio::awaitable<Result<>> ImageService::tag(std::string reference, std::string repository, std::string tag) {
    CO_TRY(const std::string id, core_.resolve_image(reference));
    if (repository.empty()) co_return fail(Code::invalid_argument, "repository name must have at least one component");
    CO_TRY(const image::Reference parsed, image::parse_reference(tag.empty() ? repository : repository + ":" + tag));
    if (!parsed.digest.empty())
        co_return fail(Code::invalid_argument, "refusing to create a tag with a digest reference");
    const Mutex::Guard guard = co_await changes_.lock();
    if (!core_.images->has(id)) co_return fail(Code::not_found, "No such image: " + reference);
    CO_CHECK(co_await adopt(id, {parsed.canonical()}));
    core_.publish("image", "tag", id, {{"name", parsed.familiar()}});
    co_return Result<>{};
}

asio::awaitable<Result<std::vector<RemovedImage>>> ImageService::delete_image(std::string id) {
    std::vector<RemovedImage> removed;
    crash_point("image.delete");
    CO_TRY(const std::vector<std::string> layers, co_await core_.pool.run([this, id, in_use = core_.layers_in_use()] {
        return core_.images->remove(id, in_use);
    }));
    removed.push_back({.untagged = {}, .deleted = id});
    for (const std::string& layer : layers) removed.push_back({.untagged = {}, .deleted = layer});
    core_.publish("image", "delete", id, {{"name", id}});
    co_return removed;
}

asio::awaitable<Result<std::vector<RemovedImage>>> ImageService::remove(std::string reference,
                                                                        ImageRemoveOptions options) {
    const Mutex::Guard guard = co_await changes_.lock();
    CO_TRY(const std::string id, core_.resolve_image(reference));
    const auto parsed = image::parse_reference(reference);
    std::string canonical;
    if (parsed && !image::is_full_image_id(reference) && core_.image_names.contains(parsed->canonical()))
        canonical = parsed->canonical();
    if (parsed && canonical.empty() && !parsed->digest.empty()) {
        const std::string digested = parsed->name() + "@" + parsed->digest;
        if (core_.image_names.contains(digested)) canonical = digested;
    }
    std::vector<std::string> names;
    for (const auto& [name, image] : core_.image_names) {
        if (image == id) names.push_back(name);
    }
    if (options.only_unnamed && !names.empty()) co_return fail(Code::conflict, "the image has a name by now");
    if (options.only_unused && std::ranges::any_of(core_.containers.all(), [&](const ContainerPtr& container) {
            return container->image_id == id;
        }))
        co_return fail(Code::conflict, "a container uses the image by now");
    const bool by_id = canonical.empty();
    std::vector<RemovedImage> removed;
    const auto repository = [](const std::string& name) {
        return name.substr(0, name.contains('@') ? name.find('@') : name.rfind(':'));
    };
    // With the last tag of a repository its digests go, too.
    std::vector<std::string> own{canonical};
    if (!by_id && !canonical.contains('@')) {
        const auto same = [&](const std::string& name) { return repository(name) == repository(canonical); };
        const bool last_tag = std::ranges::none_of(
            names, [&](const std::string& name) { return name != canonical && !name.contains('@') && same(name); });
        for (const std::string& name : names)
            if (last_tag && name.contains('@') && same(name)) own.push_back(name);
    }
    // One of several names: only that name goes.
    const bool only_untag = !by_id && names.size() > own.size();
    if (!only_untag) {
        const auto tags = std::ranges::count_if(names, [](const std::string& name) { return !name.contains('@'); });
        const bool one_repository = std::ranges::all_of(
            names, [&](const std::string& name) { return repository(name) == repository(names.front()); });
        if (by_id && (tags > 1 || !one_repository) && !options.force) {
            co_return fail(Code::conflict, "conflict: unable to delete " + id.substr(7, 12) +
                                               " (must be forced) - image is referenced in multiple repositories");
        }
        for (const ContainerPtr& container : core_.containers.all()) {
            if (container->image_id != id) continue;
            const std::string shown = by_id ? id.substr(7, 12) : parsed->familiar();
            if (container->is_alive()) {
                co_return fail(
                    Code::conflict,
                    (by_id ? "conflict: unable to delete " + shown +
                                 " (cannot be forced) - image is being used by running container "
                           : "conflict: unable to remove repository reference \"" + shown +
                                 "\" (must force) - container ") +
                        (by_id ? container->id.substr(0, 12)
                               : container->id.substr(0, 12) + " is using its referenced image " + id.substr(7, 12)));
            }
            if (!options.force) {
                co_return fail(Code::conflict,
                               by_id ? "conflict: unable to delete " + shown +
                                           " (must be forced) - image is being used by stopped container " +
                                           container->id.substr(0, 12)
                                     : "conflict: unable to remove repository reference \"" + shown +
                                           "\" (must force) - container " + container->id.substr(0, 12) +
                                           " is using its referenced image " + id.substr(7, 12));
            }
        }
    }
    const std::vector<std::string> to_untag = only_untag ? own : names;
    store::Transaction transaction;
    for (const std::string& name : to_untag)
        transaction.push_back(store::Remove{.kind = std::string(image_name_kind), .key = name});
    if (!only_untag && core_.known_images.contains(id))
        transaction.push_back(store::Remove{.kind = std::string(image_kind), .key = id});
    if (!transaction.empty()) CO_CHECK(co_await core_.journal->commit(std::move(transaction)));
    if (!only_untag) core_.known_images.erase(id);
    crash_point("image.untagged");
    for (const std::string& name : to_untag) {
        core_.image_names.erase(name);
        const auto shown = image::parse_reference(name);
        removed.push_back({.untagged = shown ? shown->familiar() : name, .deleted = {}});
        core_.publish("image", "untag", id, {{"name", id}});
    }
    if (!only_untag) {
        CO_TRY(std::vector<RemovedImage> deleted, co_await delete_image(id));
        std::ranges::move(deleted, std::back_inserter(removed));
    }
    co_return removed;
}

asio::awaitable<Result<>> ImageService::reconcile() {
    std::erase_if(core_.image_names, [&](const auto& entry) {
        if (core_.images->has(entry.second)) return false;
        log_warn("image.name_dropped", {{"name", entry.first}, {"id", entry.second}});
        core_.journal->post({store::Remove{.kind = std::string(image_name_kind), .key = entry.first}});
        return true;
    });
    std::erase_if(core_.known_images, [&](const std::string& id) {
        if (core_.images->has(id)) return false;
        core_.journal->post({store::Remove{.kind = std::string(image_kind), .key = id}});
        return true;
    });
    co_return co_await core_.pool.run([this, known = core_.known_images, in_use = core_.layers_in_use()]() -> Result<> {
        for (const image::Image& image : TRY(core_.images->list())) {
            if (known.contains(image.id)) continue;
            log_info("image.swept", {{"id", image.id}});
            TRY(core_.images->remove(image.id, in_use));
        }
        TRY(core_.images->collect_garbage(in_use));
        image::LayerOrigins(core_.options.data_root + "/origins").sweep([this](const std::string& diff_id) {
            return core_.images->layers().has(diff_id);
        });
        return {};
    });
}

}  // namespace wherry::engine
