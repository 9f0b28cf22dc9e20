#include "image/registry/client.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <thread>

#include "base/digest.hpp"
#include "base/encoding.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "http/message.hpp"

namespace wherry::image {

namespace {

constexpr int max_redirects = 5;
constexpr std::size_t max_token_bytes = 1U << 20U;
constexpr std::size_t chunk_bytes = 256U << 10U;
constexpr std::string_view manifest_types =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

bool is_passing(unsigned status) {
    return status == 429 || status == 408 || status >= 500;
}

bool is_passing(Code code) {
    return code == Code::unavailable || code == Code::data_loss || code == Code::deadline_exceeded;
}

std::string without_port(std::string_view host) {
    if (host.starts_with('['))
        return std::string(host.substr(1, host.find(']') == std::string_view::npos ? 0 : host.find(']') - 1));
    return std::string(host.substr(0, host.rfind(':')));
}

std::string endpoint_key(const http::Endpoint& endpoint) {
    return endpoint.describe() + (endpoint.kind == http::Endpoint::Kind::tls ? "+tls" : "");
}

}  // namespace

bool is_loopback_registry(std::string_view host) {
    std::string name = without_port(host);
    return name == "localhost" || name.starts_with("127.") || name == "::1";
}

RegistryClient::RegistryClient(std::string host, std::string repository, RegistryOptions options)
    : host_(std::move(host)), repository_(std::move(repository)), options_(std::move(options)) {}

Result<std::unique_ptr<RegistryClient>> RegistryClient::create(const std::string& host, std::string repository,
                                                               RegistryOptions options) {
    std::string real = host == "docker.io" || host == "index.docker.io" ? "registry-1.docker.io" : host;
    std::unique_ptr<RegistryClient> client(new RegistryClient(real, std::move(repository), std::move(options)));
    TRY(client->choose_scheme(), "registry " + host);
    return client;
}

Result<> RegistryClient::choose_scheme() {
    bool insecure =
        is_loopback_registry(host_) || std::ranges::any_of(options_.insecure_registries, [&](const std::string& entry) {
            return entry == host_ || entry == without_port(host_);
        });
    http::ClientTls tls;
    tls.verify_server = !insecure;
    if (!options_.certificates.empty()) {
        const std::string folder = options_.certificates + "/" + host_;
        if (path_exists(folder + "/ca.crt")) tls.certificate_authority = folder + "/ca.crt";
        if (path_exists(folder + "/client.cert")) tls.certificate = folder + "/client.cert";
        if (path_exists(folder + "/client.key")) tls.key = folder + "/client.key";
        if (!tls.certificate_authority.empty()) tls.verify_server = true;
    }
    endpoint_ = TRY(http::parse_endpoint("https://" + host_, tls));
    if (host_.find(':') == std::string::npos) endpoint_.port = 443;
    if (!insecure) return {};
    // An insecure registry may speak either. A TLS server that gets plain text closes or answers 400.
    http::Endpoint plain = TRY(http::parse_endpoint("http://" + host_));
    if (host_.find(':') == std::string::npos) plain.port = 80;
    http::Client probe(plain, {.connect_timeout = std::chrono::milliseconds(10'000),
                               .idle_timeout = std::chrono::milliseconds(10'000)});
    auto response = probe.send({.target = "/v2/"});
    if (response && response->status() != 400) {
        endpoint_ = plain;
        return {};
    }
    if (!response && response.error().code() == Code::unavailable && response.error().os_errno() == ECONNREFUSED)
        return std::unexpected(std::move(response).error());
    return {};
}

http::Client& RegistryClient::client_for(const http::Endpoint& endpoint) {
    std::lock_guard lock(lock_);
    std::string key = endpoint_key(endpoint);
    for (auto& [known, client] : clients_)
        if (known == key) return *client;
    clients_.emplace_back(
        key, std::make_unique<http::Client>(endpoint, http::ClientOptions{.idle_timeout = options_.idle_timeout}));
    return *clients_.back().second;
}

std::string RegistryClient::authorization(const std::string& scope_actions) {
    if (!options_.credentials.registry_token.empty()) return "Bearer " + options_.credentials.registry_token;
    std::lock_guard lock(lock_);
    for (const auto& [scope, value] : tokens_)
        if (scope == scope_actions || scope == "*") return value;
    return {};
}

Result<> RegistryClient::authenticate(const std::vector<Challenge>& challenges, const std::string& scope_actions) {
    const RegistryCredentials& who = options_.credentials;
    auto keep = [&](const std::string& scope, std::string value) {
        std::lock_guard lock(lock_);
        std::erase_if(tokens_, [&](const auto& entry) { return entry.first == scope; });
        tokens_.emplace_back(scope, std::move(value));
    };
    for (const Challenge& challenge : challenges) {
        if (challenge.scheme == "basic") {
            if (who.username.empty()) continue;
            keep("*", "Basic " + base64_encode(who.username + ":" + who.password));
            return {};
        }
        if (challenge.scheme != "bearer" || challenge.realm.empty()) continue;
        const std::string scope =
            challenge.scope.empty() ? "repository:" + repository_ + ":" + scope_actions : challenge.scope;
        // The realm is a URL of the registry's choice: credentials go there over https only, or to where http was
        // chosen for the registry too.
        if (!challenge.realm.starts_with("https://") &&
            !(challenge.realm.starts_with("http://") && endpoint_.kind != http::Endpoint::Kind::tls))
            return fail(Code::permission_denied, "the registry asks for a token from \"" +
                                                     challenge.realm.substr(0, 200) + "\", which is not https");
        Target target = TRY(resolve({endpoint_, "/"}, challenge.realm));
        http::Query query;
        if (!challenge.service.empty()) query.add("service", challenge.service);
        http::ClientRequest request;
        if (!who.identity_token.empty()) {
            query.add("scope", scope);
            query.add("grant_type", "refresh_token");
            query.add("refresh_token", who.identity_token);
            query.add("client_id", "wherry");
            request = {.method = "POST",
                       .target = target.path,
                       .body = query.encode(),
                       .content_type = "application/x-www-form-urlencoded"};
        } else {
            query.add("scope", scope);
            if (!who.username.empty()) query.add("account", who.username);
            request.target = target.path + (target.path.find('?') == std::string::npos ? "?" : "&") + query.encode();
            if (!who.username.empty())
                request.headers.set("Authorization", "Basic " + base64_encode(who.username + ":" + who.password));
        }
        http::ClientResponse response = TRY(client_for(target.endpoint).send(request), "asking for a token");
        if (!response.ok())
            return fail(response.status() == 401 ? Code::unauthenticated : Code::permission_denied,
                        "the registry's token service answers " + std::to_string(response.status()));
        json::object object = TRY(parse_json_object(TRY(response.read_all(max_token_bytes))), "token");
        JsonReader reader(object, "token");
        std::string token = TRY(reader.string_or("token", ""));
        if (token.empty()) token = TRY(reader.required_string("access_token"));
        if (std::ranges::any_of(token, [](char c) { return c <= ' ' || c > '~'; }))
            return fail(Code::data_loss, "the registry's token holds a control character");
        keep(scope_actions, "Bearer " + token);
        return {};
    }
    return fail(Code::unauthenticated,
                who.anonymous() ? "authentication required" : "unauthorized: incorrect username or password");
}

Result<RegistryClient::Target> RegistryClient::resolve(const Target& base, std::string_view location) const {
    if (location.size() > 8192 || std::ranges::any_of(location, [](char c) { return c <= ' ' || c > '~'; }))
        return fail(Code::data_loss, "the registry gives a location that is not a URL");
    if (location.starts_with('/') && !location.starts_with("//")) return Target{base.endpoint, std::string(location)};
    bool plain = location.starts_with("http://");
    if (!plain && !location.starts_with("https://"))
        return fail(Code::data_loss, "the registry gives a location that is not http");
    if (plain && endpoint_.kind == http::Endpoint::Kind::tls)
        return fail(Code::permission_denied, "the registry redirects from https to http");
    std::string_view rest = location.substr(plain ? 7 : 8);
    auto slash = rest.find_first_of("/?");
    std::string authority(rest.substr(0, slash));
    std::string path = slash == std::string_view::npos ? "/" : std::string(rest.substr(slash));
    if (path.starts_with('?')) path.insert(0, "/");
    if (auto fragment = path.find('#'); fragment != std::string::npos) path.resize(fragment);
    if (authority.empty() || authority.find('@') != std::string::npos)
        return fail(Code::data_loss, "the registry gives a location without a host");
    http::ClientTls tls = endpoint_.tls;
    if (authority != host_) tls = {};
    tls.verify_server = !is_loopback_registry(authority) && (authority == host_ ? endpoint_.tls.verify_server : true);
    http::Endpoint endpoint = plain ? TRY(http::parse_endpoint("http://" + authority))
                                    : TRY(http::parse_endpoint("https://" + authority, tls));
    const bool has_port = authority.starts_with('[') ? authority.find("]:") != std::string::npos
                                                     : authority.find(':') != std::string::npos;
    if (!has_port) endpoint.port = plain ? 80 : 443;
    return Target{std::move(endpoint), std::move(path)};
}

Result<http::ClientResponse> RegistryClient::follow(http::ClientResponse response, const http::ClientRequest& request) {
    Target at{endpoint_, request.target};
    for (int hop = 0; hop < max_redirects; ++hop) {
        unsigned status = response.status();
        if (status != 301 && status != 302 && status != 303 && status != 307 && status != 308) return response;
        Target next = TRY(resolve(at, response.headers().get("Location")));
        if (endpoint_key(next.endpoint) == endpoint_key(at.endpoint) && next.path == at.path) break;
        http::ClientRequest again{.method = request.method, .target = next.path, .headers = request.headers};
        // Credentials are for the registry alone.
        if (endpoint_key(next.endpoint) != endpoint_key(endpoint_)) again.headers.remove("Authorization");
        response = TRY(client_for(next.endpoint).send(again));
        at = std::move(next);
    }
    return fail(Code::data_loss, "the registry redirects in circles");
}

Result<http::ClientResponse> RegistryClient::send_once(const std::string& scope_actions,
                                                       const http::ClientRequest& request, bool follow_redirects) {
    for (int round = 0;; ++round) {
        http::ClientRequest attempt = request;
        if (std::string value = authorization(scope_actions); !value.empty())
            attempt.headers.set("Authorization", value);
        http::ClientResponse response = TRY(client_for(endpoint_).send(attempt));
        if (response.status() != 401 || round == 1)
            return follow_redirects ? follow(std::move(response), attempt)
                                    : Result<http::ClientResponse>(std::move(response));
        std::vector<Challenge> challenges;
        for (const auto& [name, value] : response.headers())
            if (http::equals_ignoring_case(name, "WWW-Authenticate"))
                std::ranges::move(parse_challenges(value), std::back_inserter(challenges));
        TRY(authenticate(challenges, scope_actions));
    }
}

Result<> RegistryClient::pause(unsigned attempt, const http::ClientResponse* response) const {
    auto time = options_.first_pause * (1U << std::min(attempt, 8U));
    if (response != nullptr) {
        unsigned seconds = 0;
        std::string_view after = response->headers().get("Retry-After");
        if (!after.empty() && std::from_chars(after.data(), after.data() + after.size(), seconds).ec == std::errc() &&
            seconds <= 60)
            time = std::chrono::seconds(seconds);
    }
    auto until = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < until) {
        if (is_cancelled()) return fail(Code::cancelled, "cancelled");
        std::this_thread::sleep_for(std::min<std::chrono::milliseconds>(time, std::chrono::milliseconds(50)));
    }
    return {};
}

Result<http::ClientResponse> RegistryClient::send(const std::string& scope_actions, http::ClientRequest request,
                                                  bool follow_redirects) {
    for (unsigned attempt = 0;; ++attempt) {
        if (is_cancelled()) return fail(Code::cancelled, "cancelled");
        auto response = send_once(scope_actions, request, follow_redirects);
        const bool last = attempt + 1 >= options_.attempts;
        if (response && (!is_passing(response->status()) || last)) return response;
        if (!response && (!is_passing(response.error().code()) || last)) return response;
        // Nobody listens: it will not pass within seconds.
        if (!response && response.error().os_errno() == ECONNREFUSED) return response;
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
    std::string detail;
    // {"errors":[{"code":"...","message":"..."}]}; anything else is left out.
    if (auto body = response.read_all(64U << 10U)) {
        if (auto object = parse_json_object(*body)) {
            if (auto errors = JsonReader(*object).children("errors"); errors && !errors->empty()) {
                if (auto text = errors->front().string_or("message", ""); text) detail = text->substr(0, 300);
            }
        }
    }
    std::string message(what);
    message += ": ";
    message += detail.empty()
                   ? "the registry answers " + std::to_string(status) + " " + std::string(http::reason_phrase(status))
                   : detail;
    return {code, std::move(message)};
}

Result<FetchedManifest> RegistryClient::manifest(const std::string& reference) {
    const std::string what = "manifest " + reference;
    http::ClientRequest request{.target = path("manifests/" + reference)};
    request.headers.set("Accept", std::string(manifest_types));
    http::ClientResponse response = TRY(send("pull", std::move(request), true), what);
    if (!response.ok()) {
        Error error = error_of(response, what);
        // Docker Hub and others answer 401 or 403 for what does not exist; say what docker says.
        if (error.code() != Code::not_found && error.code() != Code::unavailable &&
            error.code() != Code::resource_exhausted)
            return fail(Code::not_found,
                        "pull access denied for " + repository_ +
                            ", repository does not exist or may require 'docker login': " + error.describe());
        return std::unexpected(std::move(error));
    }
    FetchedManifest manifest;
    manifest.media_type = response.headers().get("Content-Type");
    if (auto semicolon = manifest.media_type.find(';'); semicolon != std::string::npos)
        manifest.media_type.resize(semicolon);
    manifest.bytes = TRY(response.read_all(max_document_bytes), what);
    manifest.digest = sha256_digest(manifest.bytes);
    if (is_sha256_digest(reference) && manifest.digest != reference)
        return fail(Code::data_loss, what + ": the registry sent " + manifest.digest);
    return manifest;
}

Result<> RegistryClient::read_blob(const Descriptor& blob, const ByteSink& sink) {
    const std::string what = "blob " + blob.digest;
    std::uint64_t offset = 0;
    std::vector<std::byte> buffer(chunk_bytes);
    for (unsigned attempt = 0;; ++attempt) {
        http::ClientRequest request{.target = path("blobs/" + blob.digest)};
        if (offset > 0)
            request.headers.set("Range", "bytes=" + std::to_string(offset) + "-" + std::to_string(blob.size_bytes - 1));
        auto response = send("pull", std::move(request), true);
        if (!response) return std::unexpected(std::move(response).error().context(what));
        if (!response->ok()) return std::unexpected(error_of(*response, what));
        std::uint64_t skip = response->status() == 206 ? 0 : offset;  // a registry without ranges begins again
        std::uint64_t before = offset;
        Result<> outcome{};
        while (offset < blob.size_bytes || skip > 0) {
            if (is_cancelled()) return fail(Code::cancelled, "cancelled");
            auto got = response->read_some(buffer);
            if (!got) {
                outcome = std::unexpected(std::move(got).error());
                break;
            }
            if (*got == 0) {
                outcome = fail(Code::data_loss, "ends after " + std::to_string(offset) + " of " +
                                                    std::to_string(blob.size_bytes) + " bytes");
                break;
            }
            std::span<const std::byte> data(buffer.data(), *got);
            if (skip > 0) {
                std::size_t drop = static_cast<std::size_t>(std::min<std::uint64_t>(skip, data.size()));
                skip -= drop;
                data = data.subspan(drop);
            }
            if (data.size() > blob.size_bytes - offset)
                return fail(Code::data_loss, what + " is longer than the " + std::to_string(blob.size_bytes) +
                                                 " bytes its manifest says");
            offset += data.size();
            if (!data.empty()) TRY(sink(data));
        }
        if (outcome) {
            // The end must be the end.
            auto rest = response->read_some(buffer);
            if (rest && *rest > 0)
                return fail(Code::data_loss, what + " is longer than the " + std::to_string(blob.size_bytes) +
                                                 " bytes its manifest says");
            return {};
        }
        if (offset > before) attempt = 0;  // it moves: go on as long as it does
        if (attempt + 1 >= options_.attempts || !is_passing(outcome.error().code()))
            return std::unexpected(std::move(outcome).error().context(what));
        log_debug("registry.resume", {{"blob", blob.digest}, {"offset", offset}, {"error", outcome.error()}});
        TRY(pause(attempt, nullptr));
    }
}

Result<std::string> RegistryClient::read_range(const Descriptor& blob, std::uint64_t offset, std::size_t size) {
    const std::string what = "blob " + blob.digest;
    for (unsigned attempt = 0;; ++attempt) {
        http::ClientRequest request{.target = path("blobs/" + blob.digest)};
        request.headers.set("Range", "bytes=" + std::to_string(offset) + "-" + std::to_string(offset + size - 1));
        auto response = send("pull", std::move(request), true);
        if (!response) return std::unexpected(std::move(response).error().context(what));
        if (response->status() == 200) return fail(Code::unimplemented, "the registry has no ranges");
        if (response->status() != 206) return std::unexpected(error_of(*response, what));
        auto piece = response->read_all(size);
        if (piece && piece->size() == size) return piece;
        Error error = piece ? Error(Code::data_loss, "a range ends early") : std::move(piece).error();
        if (attempt + 1 >= options_.attempts) return std::unexpected(std::move(error).context(what));
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
    http::Query query;
    query.add("mount", digest);
    query.add("from", from_repository);
    http::ClientResponse response =
        TRY(send("pull,push", {.method = "POST", .target = path("blobs/uploads/?" + query.encode())}, false));
    if (response.status() == 201) return true;
    // 202 began an upload instead; it is given up by not going on with it.
    if (response.status() == 202 || response.status() == 404) return false;
    return std::unexpected(error_of(response, "mount of blob " + digest));
}

Result<> RegistryClient::upload_blob(const std::string& digest, std::uint64_t size,
                                     const std::function<Result<ByteSource>()>& open,
                                     const std::function<void(std::uint64_t)>& sent) {
    const std::string what = "upload of blob " + digest;
    for (unsigned attempt = 0;; ++attempt) {
        auto outcome = [&]() -> Result<> {
            http::ClientResponse begun =
                TRY(send("pull,push", {.method = "POST", .target = path("blobs/uploads/")}, false));
            if (begun.status() != 202) return std::unexpected(error_of(begun, what));
            Target target = TRY(resolve({endpoint_, "/"}, begun.headers().get("Location")));
            target.path += target.path.find('?') == std::string::npos ? "?" : "&";
            target.path += "digest=" + http::percent_encode(digest);
            ByteSource source = TRY(open());
            std::uint64_t total = 0;
            http::ClientRequest request{
                .method = "PUT", .target = target.path, .content_type = "application/octet-stream"};
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
            if (response.status() != 201 && response.status() != 204) return std::unexpected(error_of(response, what));
            if (total != size) return fail(Code::internal, "the blob changed while it was sent");
            return {};
        }();
        if (outcome || attempt + 1 >= options_.attempts || !is_passing(outcome.error().code()))
            return outcome ? Result<>{} : Result<>(std::unexpected(std::move(outcome).error().context(what)));
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
