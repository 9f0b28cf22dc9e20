// The part of RegistryClient that is about people: tokens, logging in, searching.
#include <algorithm>

#include "base/encoding.hpp"
#include "base/json.hpp"
#include "http/message.hpp"
#include "image/registry/client.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t max_token_bytes = 1U << 20U;
constexpr std::string_view client_id = "wherry";

bool is_one_word(std::string_view text) {
    return std::ranges::none_of(text, [](char c) { return c <= ' ' || c > '~'; });
}

}  // namespace

std::string RegistryClient::authorization(const std::string& actions) {
    if (!options_.credentials.registry_token.empty()) return "Bearer " + options_.credentials.registry_token;
    std::lock_guard lock(lock_);
    for (const auto& [scope, value] : tokens_)
        if (scope == actions || scope == "*") return value;
    return {};
}

void RegistryClient::forget_tokens() {
    std::lock_guard lock(lock_);
    tokens_.clear();
}

Result<> RegistryClient::authenticate(const std::vector<Challenge>& challenges, const std::string& actions) {
    const RegistryCredentials& who = options_.credentials;
    for (const Challenge& challenge : challenges) {
        if (challenge.scheme == "basic") {
            if (who.username.empty()) continue;
            std::lock_guard lock(lock_);
            tokens_.clear();
            tokens_.emplace_back("*", "Basic " + base64_encode(who.username + ":" + who.password));
            return {};
        }
        if (challenge.scheme == "bearer" && !challenge.realm.empty()) return fetch_token(challenge, actions);
    }
    return fail(Code::unauthenticated, who.anonymous() ? "unauthorized: authentication required"
                                                       : "unauthorized: incorrect username or password");
}

Result<> RegistryClient::fetch_token(const Challenge& challenge, const std::string& actions) {
    const RegistryCredentials& who = options_.credentials;
    // The realm is a URL of the registry's choice: credentials go there over https only, or to where http was chosen
    // for the registry too.
    if (!challenge.realm.starts_with("https://") &&
        !(challenge.realm.starts_with("http://") && endpoint_.kind != http::Endpoint::Kind::tls))
        return fail(Code::permission_denied, "the registry asks for a token from \"" + challenge.realm.substr(0, 200) +
                                                 "\", which is not https");
    Target target = TRY(resolve({endpoint_, "/"}, challenge.realm));
    std::vector<std::string> scopes;
    if (!repository_.empty() && !actions.empty()) {
        scopes.push_back("repository:" + repository_ + ":" + actions);
        std::lock_guard lock(lock_);
        if (actions.contains("push"))
            for (const std::string& source : mount_sources_) scopes.push_back("repository:" + source + ":pull");
    } else if (!challenge.scope.empty()) {
        scopes.push_back(challenge.scope);
    }
    http::Query query;
    if (!challenge.service.empty()) query.add("service", challenge.service);
    http::ClientRequest request;
    if (!who.identity_token.empty()) {  // OAuth2 (RFC 6749 section 6), as distribution's token protocol has it
        std::string together;
        for (const std::string& scope : scopes) together += (together.empty() ? "" : " ") + scope;
        if (!together.empty()) query.add("scope", together);
        query.add("grant_type", "refresh_token");
        query.add("refresh_token", who.identity_token);
        query.add("client_id", client_id);
        request = {.method = "POST",
                   .target = target.path,
                   .body = query.encode(),
                   .content_type = "application/x-www-form-urlencoded"};
    } else {
        for (const std::string& scope : scopes) query.add("scope", scope);
        if (!who.username.empty()) {
            query.add("account", who.username);
            query.add("client_id", client_id);
            if (actions.empty()) query.add("offline_token", "true");
            request.headers.set("Authorization", "Basic " + base64_encode(who.username + ":" + who.password));
        }
        request.target = target.path + (target.path.contains('?') ? "&" : "?") + query.encode();
    }
    http::ClientResponse response = TRY(client_for(target.endpoint).send(request), "asking for a token");
    if (response.status() == 401 || response.status() == 403 || response.status() == 400)
        return fail(Code::unauthenticated, who.anonymous() ? "unauthorized: authentication required"
                                                           : "unauthorized: incorrect username or password");
    if (!response.ok())
        return fail(response.status() >= 500 || response.status() == 429 ? Code::unavailable : Code::permission_denied,
                    "the registry's token service answers " + std::to_string(response.status()));
    json::object object = TRY(parse_json_object(TRY(response.read_all(max_token_bytes), "token")), "token");
    JsonReader reader(object, "token");
    std::string token = TRY(reader.string_or("token", ""));
    if (token.empty()) token = TRY(reader.required_string("access_token"));
    std::string refresh = TRY(reader.string_or("refresh_token", ""));
    if (token.empty() || !is_one_word(token) || !is_one_word(refresh))
        return fail(Code::data_loss, "the registry's token is empty or holds a control character");
    std::lock_guard lock(lock_);
    std::erase_if(tokens_, [&](const auto& entry) { return entry.first == actions; });
    tokens_.emplace_back(actions, "Bearer " + token);
    if (!refresh.empty()) identity_token_ = std::move(refresh);
    return {};
}

Result<LoginOutcome> RegistryClient::login() {
    http::ClientResponse response = TRY(send("", {.target = location_.prefix + "/v2/"}, false));
    if (response.status() == 401) return fail(Code::unauthenticated, "unauthorized: incorrect username or password");
    if (!response.ok()) return std::unexpected(error_of(response, "login"));
    std::lock_guard lock(lock_);
    return LoginOutcome{.identity_token = identity_token_};
}

Result<std::vector<SearchHit>> RegistryClient::search(const std::string& term, std::size_t limit) {
    const std::string what = "search at " + location_.host;
    std::vector<SearchHit> hits;
    http::Query query;
    query.add("q", term);
    query.add("n", std::to_string(limit));
    http::ClientResponse response =
        TRY(send("", {.target = location_.prefix + "/v1/search?" + query.encode()}, true), what);
    if (response.ok()) {
        json::object object = TRY(parse_json_object(TRY(response.read_all(max_document_bytes), what)), what);
        for (const JsonReader& result : TRY(JsonReader(object).children("results"), what)) {
            if (hits.size() >= limit) break;
            SearchHit hit;
            hit.name = TRY(result.string_or("name", ""), what);
            hit.description = TRY(result.string_or("description", ""), what);
            hit.stars = TRY(result.integer_or("star_count", 0), what);
            hit.official = TRY(result.boolean_or("is_official", false), what);
            hit.automated = TRY(result.boolean_or("is_automated", false), what);
            hits.push_back(std::move(hit));
        }
        return hits;
    }
    if (response.status() != 404 && response.status() != 405 && response.status() != 501)
        return std::unexpected(error_of(response, what));
    // No index: among the names it lists, where it lists them.
    std::string path = location_.prefix + "/v2/_catalog?n=1000";
    for (int page = 0; page < 1000 && hits.size() < limit; ++page) {
        http::ClientResponse catalog = TRY(send("", {.target = path}, true), what);
        if (!catalog.ok())
            return fail(Code::unimplemented, what + ": this registry offers no search (it answers " +
                                                 std::to_string(catalog.status()) + " to its catalog)");
        json::object object = TRY(parse_json_object(TRY(catalog.read_all(max_document_bytes), what)), what);
        for (const std::string& name : TRY(JsonReader(object).strings("repositories"), what)) {
            if (hits.size() < limit && name.contains(term)) {
                SearchHit hit;
                hit.name = name;
                hits.push_back(std::move(hit));
            }
        }
        const std::string next = next_link(catalog.headers().get("Link"));
        if (next.empty()) break;
        Target target = TRY(resolve({endpoint_, path}, next), what);
        if (target.path == path) break;
        path = std::move(target.path);
    }
    return hits;
}

}  // namespace wherry::image
