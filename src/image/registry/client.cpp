#include "image/registry/client.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <thread>

#include "base/digest.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "http/message.hpp"

namespace wherry::image {

namespace {

constexpr int max_redirects = 5;
constexpr std::size_t max_location_bytes = 8192;
constexpr std::string_view manifest_types =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

bool is_passing(unsigned status) {
    return status == 429 || status == 408 || (status >= 500 && status != 501);
}

bool is_passing(const Error& error) {
    // Nobody listens: it will not pass within seconds.
    if (error.os_errno() == ECONNREFUSED) return false;
    return error.code() == Code::unavailable || error.code() == Code::data_loss ||
           error.code() == Code::deadline_exceeded;
}

std::string endpoint_key(const http::Endpoint& endpoint) {
    return endpoint.describe() + (endpoint.kind == http::Endpoint::Kind::tls ? "+tls" : "");
}

bool is_redirect(unsigned status) {
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

// Code, message and detail of {"errors":[{"code":"...","message":"..."}]}; anything else is left out.
std::string registry_words(http::ClientResponse& response) {
    auto body = response.read_all(64U << 10U);
    if (!body) return {};
    auto object = parse_json_object(*body);
    if (!object) return {};
    auto errors = JsonReader(*object).children("errors");
    if (!errors || errors->empty()) return {};
    std::string words;
    auto code = errors->front().string_or("code", "");
    auto message = errors->front().string_or("message", "");
    if (code) {
        words = code->substr(0, 80);
        std::ranges::transform(words, words.begin(), [](char c) {
            return c == '_' ? ' ' : c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
        });
    }
    if (message && !message->empty()) words += (words.empty() ? "" : ": ") + message->substr(0, 300);
    // What a registry says is shown to people: no control characters.
    std::ranges::replace_if(words, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
    return words;
}

}  // namespace

Result<std::unique_ptr<RegistryClient>> RegistryClient::create(RegistryLocation location, std::string repository,
                                                               RegistryOptions options) {
    const std::string host = location.host;
    std::unique_ptr<RegistryClient> client(
        new RegistryClient(std::move(location), std::move(repository), std::move(options)));  // private constructor
    TRY(client->choose_scheme(), "registry " + host);
    return client;
}

Result<> RegistryClient::choose_scheme() {
    endpoint_ = TRY(secure_endpoint(options_.config, location_.host));
    const http::Endpoint plain = TRY(plain_endpoint(location_.host));
    if (location_.plain) {
        if (*location_.plain) endpoint_ = plain;
        return {};
    }
    if (!is_insecure_registry(options_.config, location_.host)) return {};
    // An insecure registry may speak either. A TLS server that gets plain text closes or answers 400. Nothing secret is
    // in the question.
    http::Client probe(plain, {.connect_timeout = options_.connect_timeout,
                               .idle_timeout = options_.idle_timeout,
                               .peer = "the registry",
                               .cancelled = options_.cancelled});
    auto response = probe.send({.target = location_.prefix + "/v2/"});
    if (response && response->status() != 400) {
        endpoint_ = plain;
        return {};
    }
    if (!response && (response.error().os_errno() == ECONNREFUSED || response.error().code() == Code::cancelled ||
                      response.error().code() == Code::deadline_exceeded))
        return std::unexpected(std::move(response).error());
    return {};
}

http::Client& RegistryClient::client_for(const http::Endpoint& endpoint) {
    std::lock_guard lock(lock_);
    std::string key = endpoint_key(endpoint);
    for (auto& [known, client] : clients_)
        if (known == key) return *client;
    clients_.emplace_back(
        key, std::make_unique<http::Client>(endpoint, http::ClientOptions{.connect_timeout = options_.connect_timeout,
                                                                          .idle_timeout = options_.idle_timeout,
                                                                          .peer = "the registry",
                                                                          .cancelled = options_.cancelled}));
    return *clients_.back().second;
}

Result<RegistryClient::Target> RegistryClient::resolve(const Target& base, std::string_view location) const {
    if (location.empty()) return fail(Code::data_loss, "the registry redirects without a location");
    if (location.size() > max_location_bytes ||
        std::ranges::any_of(location, [](char c) { return c <= ' ' || c > '~'; }))
        return fail(Code::data_loss, "the registry gives a location that is not a URL");
    if (auto fragment = location.find('#'); fragment != std::string_view::npos) location = location.substr(0, fragment);
    if (location.starts_with('/') && !location.starts_with("//")) return Target{base.endpoint, std::string(location)};
    bool plain = location.starts_with("http://");
    if (location.starts_with("//")) {
        plain = base.endpoint.kind != http::Endpoint::Kind::tls;
        location.remove_prefix(2);
    } else if (plain || location.starts_with("https://")) {
        location.remove_prefix(plain ? 7 : 8);
    } else if (location.substr(0, location.find_first_of("/?")).contains(':')) {
        return fail(Code::data_loss, "the registry gives a location that is not http");
    } else {  // relative to the folder of what was asked for
        std::string folder = base.path.substr(0, base.path.find('?'));
        folder.resize(folder.rfind('/') + 1);
        return Target{base.endpoint, folder + std::string(location)};
    }
    if (plain && endpoint_.kind == http::Endpoint::Kind::tls)
        return fail(Code::permission_denied, "the registry redirects from https to http");
    auto slash = location.find_first_of("/?");
    const std::string authority(location.substr(0, slash));
    std::string path = slash == std::string_view::npos ? "/" : std::string(location.substr(slash));
    if (path.starts_with('?')) path.insert(0, "/");
    if (authority.empty() || authority.contains('@'))
        return fail(Code::data_loss, "the registry gives a location without a host");
    http::Endpoint endpoint = plain ? TRY(plain_endpoint(authority)) : TRY(secure_endpoint(options_.config, authority));
    return Target{std::move(endpoint), std::move(path)};
}

Result<http::ClientResponse> RegistryClient::follow(http::ClientResponse response, const http::ClientRequest& request) {
    Target at{endpoint_, request.target};
    std::vector<std::string> seen{endpoint_key(at.endpoint) + at.path};
    for (int hop = 0; hop <= max_redirects; ++hop) {
        if (!is_redirect(response.status())) return response;
        Target next = TRY(resolve(at, response.headers().get("Location")));
        std::string key = endpoint_key(next.endpoint) + next.path;
        if (std::ranges::find(seen, key) != seen.end()) break;
        seen.push_back(std::move(key));
        http::ClientRequest again{.method = request.method, .target = next.path, .headers = request.headers};
        // Credentials are for the registry alone.
        if (endpoint_key(next.endpoint) != endpoint_key(endpoint_)) again.headers.remove("Authorization");
        response = TRY(client_for(next.endpoint).send(again), "redirected to " + next.endpoint.describe());
        at = std::move(next);
    }
    return fail(Code::out_of_range, "the registry redirects in circles");
}

Result<http::ClientResponse> RegistryClient::send_once(const std::string& actions, const http::ClientRequest& request,
                                                       bool follow_redirects) {
    for (int round = 0;; ++round) {
        http::ClientRequest attempt = request;
        if (std::string value = authorization(actions); !value.empty()) attempt.headers.set("Authorization", value);
        http::ClientResponse response = TRY(client_for(endpoint_).send(attempt));
        // Once: a registry that says no to what its own token service gave will say it again.
        if (response.status() != 401 || round == 1)
            return follow_redirects ? follow(std::move(response), attempt)
                                    : Result<http::ClientResponse>(std::move(response));
        std::vector<Challenge> challenges;
        for (const auto& [name, value] : response.headers())
            if (http::equals_ignoring_case(name, "WWW-Authenticate"))
                std::ranges::move(parse_challenges(value), std::back_inserter(challenges));
        TRY(authenticate(challenges, actions));
    }
}

Result<> RegistryClient::pause(unsigned attempt, const http::ClientResponse* response) const {
    using Clock = std::chrono::steady_clock;
    std::chrono::milliseconds time = options_.first_pause * (1U << std::min(attempt, 8U));
    time = std::min<std::chrono::milliseconds>(time, options_.longest_pause);
    if (response != nullptr) {
        if (auto asked = parse_retry_after(response->headers().get("Retry-After"), wall_now())) {
            if (*asked > options_.longest_pause)
                return fail(Code::resource_exhausted,
                            "the registry asks to come back in " + std::to_string(asked->count()) + " seconds");
            time = *asked;
        }
    }
    const Clock::time_point until = Clock::now() + time;
    while (Clock::now() < until) {
        if (is_cancelled()) return fail(Code::cancelled, "cancelled");
        std::this_thread::sleep_for(std::min<Clock::duration>(until - Clock::now(), std::chrono::milliseconds(50)));
    }
    return {};
}

Result<http::ClientResponse> RegistryClient::send(const std::string& actions, http::ClientRequest request,
                                                  bool follow_redirects) {
    for (unsigned attempt = 0;; ++attempt) {
        if (is_cancelled()) return fail(Code::cancelled, "cancelled");
        auto response = send_once(actions, request, follow_redirects);
        const bool last = attempt + 1 >= options_.attempts;
        if (response && (!is_passing(response->status()) || last)) return response;
        if (!response && (!is_passing(response.error()) || last)) return response;
        log_debug("registry.again", {{"target", request.target},
                                     {"status", response ? response->status() : 0},
                                     {"error", response ? "" : response.error().describe()}});
        TRY(pause(attempt, response ? &*response : nullptr));
    }
}

Error RegistryClient::error_of(http::ClientResponse& response, std::string_view what) const {
    unsigned status = response.status();
    Code code = status == 401   ? Code::unauthenticated
                : status == 403 ? Code::permission_denied
                : status == 404 ? Code::not_found
                : status == 429 ? Code::resource_exhausted
                : status >= 500 ? Code::unavailable
                                : Code::invalid_argument;
    std::string words = registry_words(response);
    std::string message(what);
    message += message.empty() ? "" : ": ";
    message += words.empty()
                   ? "the registry answers " + std::to_string(status) + " " + std::string(http::reason_phrase(status))
                   : words;
    return {code, std::move(message)};
}

Result<FetchedManifest> RegistryClient::manifest(const std::string& reference) {
    const std::string what = "manifest " + reference;
    http::ClientRequest request{.target = path("manifests/" + reference)};
    request.headers.set("Accept", std::string(manifest_types));
    std::optional<Error> broken;
    for (unsigned attempt = 0; attempt < options_.attempts; ++attempt) {
        http::ClientResponse response = TRY(send("pull", request, true), what);
        if (!response.ok()) return std::unexpected(error_of(response, ""));
        FetchedManifest manifest;
        manifest.media_type = response.headers().get("Content-Type");
        if (auto semicolon = manifest.media_type.find(';'); semicolon != std::string::npos)
            manifest.media_type.resize(semicolon);
        auto bytes = response.read_all(max_document_bytes);
        if (!bytes && is_passing(bytes.error())) {  // broke off
            broken = std::move(bytes).error();
            TRY(pause(attempt, nullptr));
            continue;
        }
        manifest.bytes = TRY(std::move(bytes), what);
        manifest.digest = sha256_digest(manifest.bytes);
        if (is_sha256_digest(reference) && manifest.digest != reference)
            return fail(Code::data_loss, what + ": the registry sent " + manifest.digest);
        return manifest;
    }
    return std::unexpected(std::move(*broken).context(what));
}

Result<std::vector<std::string>> RegistryClient::tags() {
    constexpr std::size_t most_tags = 10'000;
    std::vector<std::string> tags;
    Target at{endpoint_, path("tags/list")};
    std::vector<std::string> seen;
    while (true) {
        if (std::ranges::find(seen, at.path) != seen.end() || seen.size() > most_tags)
            return fail(Code::out_of_range, "tags: the registry's pages go in circles");
        seen.push_back(at.path);
        http::ClientResponse response = TRY(send("pull", {.target = at.path}, true), "tags");
        if (!response.ok()) return std::unexpected(error_of(response, ""));
        json::object object = TRY(parse_json_object(TRY(response.read_all(max_document_bytes), "tags")), "tags");
        for (std::string& tag : TRY(JsonReader(object, "tags").strings("tags"))) {
            if (tags.size() >= most_tags) return fail(Code::resource_exhausted, "the repository has too many tags");
            tags.push_back(std::move(tag));
        }
        const std::string next = next_link(response.headers().get("Link"));
        if (next.empty()) return tags;
        Target target = TRY(resolve(at, next), "tags");
        if (endpoint_key(target.endpoint) != endpoint_key(endpoint_))
            return fail(Code::data_loss, "tags: the next page is at another registry");
        at = std::move(target);
    }
}

Result<std::string> RegistryClient::document(const Descriptor& blob) {
    const std::string what = "blob " + blob.digest;
    if (blob.size_bytes > max_document_bytes) return fail(Code::resource_exhausted, what + " is larger than 8 MiB");
    std::optional<Error> broken;
    for (unsigned attempt = 0; attempt < options_.attempts; ++attempt) {
        http::ClientResponse response = TRY(open_blob(blob, 0));
        auto bytes = response.read_all(static_cast<std::size_t>(blob.size_bytes));
        if (!bytes && is_passing(bytes.error())) {
            broken = std::move(bytes).error();
            TRY(pause(attempt, nullptr));
            continue;
        }
        if (!bytes && bytes.error().code() == Code::resource_exhausted)
            return fail(Code::data_loss,
                        what + " is longer than the " + std::to_string(blob.size_bytes) + " bytes its manifest says");
        if (!bytes) return std::unexpected(std::move(bytes).error().context(what));
        if (bytes->size() != blob.size_bytes || sha256_digest(*bytes) != blob.digest)
            return fail(Code::data_loss, what + ": the registry sent other bytes");
        return bytes;
    }
    return std::unexpected(std::move(*broken).context(what));
}

Result<http::ClientResponse> RegistryClient::open_blob(const Descriptor& blob, std::uint64_t offset) {
    const std::string what = "blob " + blob.digest;
    http::ClientRequest request{.target = path("blobs/" + blob.digest)};
    if (offset > 0)
        request.headers.set("Range", "bytes=" + std::to_string(offset) + "-" + std::to_string(blob.size_bytes - 1));
    http::ClientResponse response = TRY(send("pull", std::move(request), true), what);
    if (response.status() != 200 && (response.status() != 206 || offset == 0))
        return std::unexpected(error_of(response, what));
    return response;
}

Result<std::string> RegistryClient::read_range(const Descriptor& blob, std::uint64_t offset, std::size_t size) {
    const std::string what = "blob " + blob.digest;
    const std::string range = std::to_string(offset) + "-" + std::to_string(offset + size - 1);
    for (unsigned attempt = 0;; ++attempt) {
        http::ClientRequest request{.target = path("blobs/" + blob.digest)};
        request.headers.set("Range", "bytes=" + range);
        auto response = send("pull", std::move(request), true);
        if (!response) return std::unexpected(std::move(response).error().context(what));
        if (response->status() == 200) return fail(Code::unimplemented, "the registry has no ranges");
        if (response->status() != 206) return std::unexpected(error_of(*response, what));
        std::string_view told = response->headers().get("Content-Range");
        if (!told.empty() && !told.starts_with("bytes " + range + "/"))
            return fail(Code::data_loss, what + ": the registry sent another range than was asked for");
        auto piece = response->read_all(size);
        if (piece && piece->size() == size) return piece;
        Error error = piece ? Error(Code::data_loss, "a range ends early") : std::move(piece).error();
        if (attempt + 1 >= options_.attempts || !is_passing(error))
            return std::unexpected(std::move(error).context(what));
        TRY(pause(attempt, nullptr));
    }
}

Result<bool> RegistryClient::has_blob(const std::string& digest) {
    http::ClientResponse response = TRY(send("pull,push", {.method = "HEAD", .target = path("blobs/" + digest)}, true));
    if (response.ok()) return true;
    if (response.status() == 404) return false;
    return std::unexpected(error_of(response, "blob " + digest));
}

Result<bool> RegistryClient::mount_blob(const std::string& digest, const std::string& from_repository) {
    {
        std::lock_guard lock(lock_);
        if (std::ranges::find(mount_sources_, from_repository) == mount_sources_.end()) {
            mount_sources_.push_back(from_repository);
            // A token so far says nothing of that repository. Basic authentication needs no other.
            std::erase_if(tokens_, [](const auto& entry) { return entry.second.starts_with("Bearer "); });
        }
    }
    http::Query query;
    query.add("mount", digest);
    query.add("from", from_repository);
    http::ClientResponse response =
        TRY(send("pull,push", {.method = "POST", .target = path("blobs/uploads/?" + query.encode())}, false));
    if (response.status() == 201) return true;
    // 202 began an upload instead; it is given up by not going on with it. No right to read there is no reason to fail.
    if (response.status() == 202 || response.status() == 404 || response.status() == 401 || response.status() == 403 ||
        response.status() == 405)
        return false;
    return std::unexpected(error_of(response, "mount of blob " + digest));
}

Result<> RegistryClient::upload_once(const std::string& digest, std::uint64_t size,
                                     const std::function<Result<ByteSource>()>& open,
                                     const std::function<void(std::uint64_t)>& sent) {
    http::ClientResponse begun = TRY(send("pull,push", {.method = "POST", .target = path("blobs/uploads/")}, false));
    if (begun.status() != 202) return std::unexpected(error_of(begun, ""));
    Target target = TRY(resolve({endpoint_, path("blobs/uploads/")}, begun.headers().get("Location")));
    target.path += target.path.find('?') == std::string::npos ? "?" : "&";
    target.path += "digest=" + http::percent_encode(digest);
    ByteSource source = TRY(open());
    std::uint64_t total = 0;
    http::ClientRequest request{.method = "PUT", .target = target.path, .content_type = "application/octet-stream"};
    request.body_length = size;
    request.body_source = [&](std::span<std::byte> buffer) -> Result<std::size_t> {
        if (is_cancelled()) return fail(Code::cancelled, "cancelled");
        std::size_t got = TRY(source.read(buffer));
        total += got;
        if (sent) sent(total);
        return got;
    };
    if (std::string value = authorization("pull,push");
        !value.empty() && endpoint_key(target.endpoint) == endpoint_key(endpoint_))
        request.headers.set("Authorization", value);
    http::ClientResponse response = TRY(client_for(target.endpoint).send(request));
    if (response.status() == 401) forget_tokens();  // it ran out while the bytes were on their way
    if (response.status() != 201 && response.status() != 204) return std::unexpected(error_of(response, ""));
    std::string_view made = response.headers().get("Docker-Content-Digest");
    if (is_sha256_digest(made) && made != digest)
        return fail(Code::data_loss, "the registry says it stored " + std::string(made));
    return {};
}

Result<> RegistryClient::upload_blob(const std::string& digest, std::uint64_t size,
                                     const std::function<Result<ByteSource>()>& open,
                                     const std::function<void(std::uint64_t)>& sent) {
    bool expired = false;
    for (unsigned attempt = 0;; ++attempt) {
        auto outcome = upload_once(digest, size, open, sent);
        if (outcome) return {};
        const bool once_more = outcome.error().code() == Code::unauthenticated && !std::exchange(expired, true);
        if (!once_more && (attempt + 1 >= options_.attempts || !is_passing(outcome.error())))
            return std::unexpected(std::move(outcome).error().context("upload of blob " + digest));
        TRY(pause(attempt, nullptr));
    }
}

Result<> RegistryClient::put_manifest(const std::string& reference, const std::string& media_type,
                                      const std::string& bytes) {
    http::ClientResponse response = TRY(send(
        "pull,push",
        {.method = "PUT", .target = path("manifests/" + reference), .body = bytes, .content_type = media_type}, false));
    if (response.ok()) return {};
    return std::unexpected(error_of(response, "manifest " + reference));
}

}  // namespace wherry::image
