// The part of ImageService that speaks with registries.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <charconv>
#include <chrono>
#include <map>
#include <mutex>

#include "base/log.hpp"
#include "engine/crash_point.hpp"
#include "engine/image_service.hpp"
#include "image/registry/client.hpp"
#include "image/registry/pull.hpp"

namespace wherry::engine {
namespace {

constexpr std::chrono::milliseconds step_interval{100};
constexpr int default_search_limit = 25;
constexpr int most_search_hits = 100;

// Brings steps from the working threads to the loop, and not more of them than anybody can look at.
class StepRelay {
  public:
    StepRelay(asio::any_io_executor executor, TransferFunction function)
        : executor_(std::move(executor)), function_(std::move(function)) {}

    // One call at a time.
    void tell(const image::Progress& progress) {
        Last& last = last_[progress.id];
        const auto now = std::chrono::steady_clock::now();
        const bool whole = progress.current_bytes == progress.total_bytes;
        if (last.status == progress.action && !whole && now - last.time < step_interval) return;
        last = {.status = progress.action, .time = now};
        asio::post(executor_,
                   [function = function_, step = TransferStep{.id = progress.id,
                                                              .status = progress.action,
                                                              .current_bytes = progress.current_bytes,
                                                              .total_bytes = progress.total_bytes,
                                                              .pushed = {}}]() mutable { function(std::move(step)); });
    }

  private:
    struct Last {
        std::string status;
        std::chrono::steady_clock::time_point time;
    };
    asio::any_io_executor executor_;
    TransferFunction function_;
    std::map<std::string, Last> last_;
};

void tell(const TransferFunction& function, std::string status) {
    if (function) function({.id = {}, .status = std::move(status), .pushed = {}});
}

// "https://index.docker.io/v1/", "https://host:port", "host": the host as references have it.
std::string registry_host(std::string server) {
    if (const std::size_t scheme = server.find("://"); scheme != std::string::npos) server.erase(0, scheme + 3);
    server.resize(std::min(server.size(), server.find('/')));
    return server.empty() || server == "index.docker.io" || server == "registry-1.docker.io" ? "docker.io" : server;
}

}  // namespace

image::RegistryOptions ImageService::registry_options(const RegistryCredentials& credentials,
                                                      CancelFlag cancelled) const {
    image::RegistryOptions options;
    options.config = core_.options.registry;
    options.credentials = credentials;
    options.attempts = core_.options.max_download_attempts;
    options.cancelled = [closing = closing_, flag = std::move(cancelled)] { return *closing || (flag && *flag); };
    return options;
}

image::TransferOptions ImageService::transfer_options(const RegistryCredentials& credentials,
                                                      const CancelFlag& cancelled, TransferFunction progress) const {
    image::TransferOptions options;
    options.registry = registry_options(credentials, cancelled);
    options.limits.max_bytes = core_.options.max_layer_bytes;
    options.origins_folder = core_.options.data_root + "/origins";
    if (progress) {
        auto relay = std::make_shared<StepRelay>(core_.executor, std::move(progress));
        options.progress = [relay, stop = options.registry.cancelled](const image::Progress& step) -> Result<> {
            if (stop()) return fail(Code::cancelled, "cancelled");
            relay->tell(step);
            return {};
        };
    }
    return options;
}

asio::awaitable<Result<>> ImageService::pull(PullOptions options, TransferFunction progress) {
    CO_TRY(image::Reference reference, image::parse_reference(options.reference, image::DefaultTag::none));
    if (!options.platform.empty()) CO_CHECK(image::parse_platform_name(options.platform));
    if (!reference.tag.empty() || !reference.digest.empty())
        co_return co_await pull_one(std::move(reference), std::move(options), std::move(progress));
    image::TransferOptions transfer = transfer_options(options.credentials, options.cancelled, {});
    CO_TRY(const std::vector<std::string> tags, co_await transfers_.run([reference, transfer = std::move(transfer)] {
        return image::remote_tags(reference, transfer);
    }));
    if (tags.empty()) co_return fail(Code::not_found, "no tags in repository " + reference.familiar_name());
    for (const std::string& tag : tags) {
        image::Reference one = reference;
        one.tag = tag;
        CO_CHECK(co_await pull_one(std::move(one), options, progress));
    }
    co_return Result<>{};
}

asio::awaitable<Result<>> ImageService::pull_one(image::Reference reference, PullOptions options,
                                                 TransferFunction progress) {
    if (!reference.digest.empty()) reference.tag.clear();  // the digest says it all
    image::TransferOptions transfer = transfer_options(options.credentials, options.cancelled, progress);
    transfer.concurrent_layers = core_.options.max_concurrent_downloads;
    if (!options.platform.empty()) {
        CO_TRY(transfer.platform, image::parse_platform_name(options.platform));
    }
    const std::string canonical = reference.canonical();
    // Again only when the image was removed in the moment between.
    constexpr int attempts = 3;
    for (int attempt = 0; attempt < attempts; ++attempt) {
        auto lease = std::make_shared<image::Lease>(core_.images->lease());
        auto pulled = co_await transfers_.run([this, lease, reference, transfer] {
            auto result = image::pull_image(*core_.images, *lease, reference, transfer);
            if (!result) lease->discard_fresh();
            return result;
        });
        if (!pulled) {
            log_info("image.pull_failed", {{"image", reference.familiar()}, {"error", pulled.error()}});
            co_return std::unexpected(std::move(pulled).error());
        }
        crash_point("pull.stored");
        const Mutex::Guard guard = co_await changes_.lock();
        if (!core_.images->has(pulled->id)) continue;
        const auto before = core_.image_names.find(canonical);
        const bool known = before != core_.image_names.end() && before->second == pulled->id;
        std::vector<std::string> names{reference.name() + "@" + pulled->digest};
        if (reference.digest.empty()) names.push_back(canonical);
        if (!known || !core_.image_names.contains(names.front()))
            CO_CHECK(co_await adopt(pulled->id, std::move(names)));
        crash_point("pull.adopted");
        tell(progress, "Digest: " + pulled->digest);
        tell(progress, (known ? "Status: Image is up to date for " : "Status: Downloaded newer image for ") +
                           reference.familiar());
        core_.publish("image", "pull", reference.familiar(), {{"name", reference.familiar_name()}});
        co_return Result<>{};
    }
    co_return fail(Code::conflict, "the image is removed as often as it is pulled");
}

asio::awaitable<Result<>> ImageService::push(PushOptions options, TransferFunction progress) {
    CO_TRY(image::Reference reference, image::parse_reference(options.reference, image::DefaultTag::none));
    if (!reference.digest.empty()) co_return fail(Code::invalid_argument, "cannot push a digest reference");
    tell(progress, "The push refers to repository [" + reference.name() + "]");
    if (!reference.tag.empty()) co_return co_await push_one(std::move(reference), std::move(options), progress);
    std::vector<std::string> tags;
    for (const auto& [name, id] : core_.image_names)
        if (name.starts_with(reference.name() + ":")) tags.push_back(name.substr(reference.name().size() + 1));
    if (tags.empty())
        co_return fail(Code::not_found, "An image does not exist locally with the tag: " + reference.familiar_name());
    for (const std::string& tag : tags) {
        image::Reference one = reference;
        one.tag = tag;
        CO_CHECK(co_await push_one(std::move(one), options, progress));
    }
    co_return Result<>{};
}

asio::awaitable<Result<>> ImageService::push_one(image::Reference reference, PushOptions options,
                                                 TransferFunction progress) {
    const auto named = core_.image_names.find(reference.canonical());
    if (named == core_.image_names.end())
        co_return fail(Code::not_found, "An image does not exist locally with the tag: " + reference.familiar_name());
    const std::string id = named->second;
    image::TransferOptions transfer = transfer_options(options.credentials, options.cancelled, progress);
    transfer.concurrent_layers = core_.options.max_concurrent_uploads;
    CO_TRY(const image::PushedImage pushed, co_await transfers_.run([this, id, reference, transfer] {
        return image::push_image(*core_.images, id, reference, transfer);
    }));
    crash_point("push.sent");
    {
        const Mutex::Guard guard = co_await changes_.lock();
        if (core_.images->has(id)) CO_CHECK(co_await adopt(id, {reference.name() + "@" + pushed.digest}));
    }
    if (progress) {
        TransferStep step;
        step.status = reference.tag + ": digest: " + pushed.digest + " size: " + std::to_string(pushed.manifest_bytes);
        progress(step);
        step.status.clear();
        step.pushed = {.tag = reference.tag, .digest = pushed.digest, .size_bytes = pushed.manifest_bytes};
        progress(step);
    }
    core_.publish("image", "push", reference.familiar(), {{"name", reference.familiar_name()}});
    co_return Result<>{};
}

asio::awaitable<Result<std::string>> ImageService::login(std::string server, RegistryCredentials credentials) {
    image::RegistryOptions options = registry_options(credentials, {});
    options.attempts = 2;
    CO_TRY(const image::LoginOutcome outcome,
           co_await transfers_.run([host = registry_host(std::move(server)), options]() -> Result<image::LoginOutcome> {
               auto client = TRY(image::RegistryClient::create(image::own_location(host), "", options));
               return client->login();
           }));
    co_return outcome.identity_token;
}

asio::awaitable<Result<RemoteImageView>> ImageService::inspect_remote(std::string reference,
                                                                      RegistryCredentials credentials) {
    CO_TRY(const image::Reference parsed, image::parse_reference(reference));
    image::TransferOptions options = transfer_options(credentials, {}, {});
    CO_TRY(const image::RemoteImage remote,
           co_await transfers_.run([parsed, options] { return image::inspect_remote(parsed, options); }));
    RemoteImageView view;
    view.media_type = remote.descriptor.media_type;
    view.digest = remote.descriptor.digest;
    view.size_bytes = static_cast<std::int64_t>(remote.descriptor.size_bytes);
    for (const image::Platform& platform : remote.platforms)
        view.platforms.push_back({.architecture = platform.architecture,
                                  .os = platform.os,
                                  .os_version = platform.os_version,
                                  .variant = platform.variant});
    co_return view;
}

asio::awaitable<Result<std::vector<ImageSearchHit>>> ImageService::search(ImageSearchOptions options) {
    CO_CHECK(check_filters(options.filters, {"is-automated", "is-official", "stars"}));
    if (options.limit < 0 || options.limit > most_search_hits)
        co_return fail(Code::invalid_argument, "limit " + std::to_string(options.limit) +
                                                   " is outside the range of [1, " + std::to_string(most_search_hits) +
                                                   "]");
    if (options.term.empty() || options.term.contains("://"))
        co_return fail(Code::invalid_argument, "invalid search term: " + options.term);
    // "host/name" where the first part looks like a host.
    std::string host = "index.docker.io";
    std::string term = options.term;
    if (const std::size_t slash = term.find('/'); slash != std::string::npos) {
        const std::string first = term.substr(0, slash);
        if (first == "localhost" || first.find_first_of(".:") != std::string::npos) {
            if (first != "docker.io") host = first;
            term.erase(0, slash + 1);
        }
    }
    image::RegistryLocation location;
    location.host = host;
    const auto limit = static_cast<std::size_t>(options.limit == 0 ? default_search_limit : options.limit);
    image::RegistryOptions registry = registry_options(options.credentials, {});
    registry.attempts = 2;
    CO_TRY(const std::vector<image::SearchHit> found,
           co_await transfers_.run([location, registry, term, limit]() -> Result<std::vector<image::SearchHit>> {
               auto client = TRY(image::RegistryClient::create(location, "", registry));
               return client->search(term, limit);
           }));
    const auto wanted = [&](const char* key, bool value) {
        const auto filter = options.filters.find(key);
        return filter == options.filters.end() || filter->second.empty() ||
               (filter->second.front() == "true" || filter->second.front() == "1") == value;
    };
    std::int64_t least_stars = 0;
    if (const auto filter = options.filters.find("stars"); filter != options.filters.end() && !filter->second.empty()) {
        const std::string& text = filter->second.front();
        if (std::from_chars(text.data(), text.data() + text.size(), least_stars).ptr != text.data() + text.size())
            co_return fail(Code::invalid_argument, "invalid filter 'stars=" + text + "'");
    }
    std::vector<ImageSearchHit> hits;
    for (const image::SearchHit& hit : found) {
        if (!wanted("is-official", hit.official) || !wanted("is-automated", hit.automated) || hit.stars < least_stars)
            continue;
        hits.push_back({.name = host == "index.docker.io" ? hit.name : host + "/" + hit.name,
                        .description = hit.description,
                        .stars = hit.stars,
                        .official = hit.official,
                        .automated = hit.automated});
    }
    co_return hits;
}

asio::awaitable<Result<>> ImageService::verify(std::string reference, CancelFlag cancelled) {
    CO_TRY(const std::string id, core_.resolve_image(reference));
    co_return co_await transfers_.run([this, id, cancelled] {
        return core_.images->verify(id,
                                    [closing = closing_, cancelled] { return *closing || (cancelled && *cancelled); });
    });
}

}  // namespace wherry::engine
