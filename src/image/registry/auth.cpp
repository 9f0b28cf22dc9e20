#include "image/registry/auth.hpp"

#include <algorithm>

#include "base/encoding.hpp"
#include "base/json.hpp"

namespace wherry::image {

Result<RegistryCredentials> parse_registry_auth(std::string_view header) {
    RegistryCredentials credentials;
    if (header.empty()) return credentials;
    std::string text = TRY(base64_decode(header), "X-Registry-Auth");
    if (text.empty() || text == "null") return credentials;
    json::object object = TRY(parse_json_object(text), "X-Registry-Auth");
    JsonReader reader(object);
    credentials.username = TRY(reader.string_or("username", ""));
    credentials.password = TRY(reader.string_or("password", ""));
    credentials.identity_token = TRY(reader.string_or("identitytoken", ""));
    credentials.registry_token = TRY(reader.string_or("registrytoken", ""));
    // docker's config.json keeps "user:password" in base64 under "auth".
    if (std::string auth = TRY(reader.string_or("auth", "")); !auth.empty() && credentials.username.empty()) {
        std::string pair = TRY(base64_decode(auth), "X-Registry-Auth");
        auto colon = pair.find(':');
        if (colon == std::string::npos)
            return fail(Code::invalid_argument, "X-Registry-Auth: auth is not user:password");
        credentials.username = pair.substr(0, colon);
        credentials.password = pair.substr(colon + 1);
    }
    for (char c : credentials.username + credentials.password + credentials.identity_token + credentials.registry_token)
        if (c == '\r' || c == '\n' || c == '\0')
            return fail(Code::invalid_argument, "X-Registry-Auth: credentials hold a control character");
    return credentials;
}

namespace {

bool is_token_char(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           std::string_view("!#$%&'*+-.^_`|~").contains(c);
}

std::string lower(std::string_view text) {
    std::string copy(text);
    std::ranges::transform(copy, copy.begin(),
                           [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    return copy;
}

}  // namespace

std::vector<Challenge> parse_challenges(std::string_view header) {
    std::vector<Challenge> challenges;
    std::size_t at = 0;
    auto skip = [&](std::string_view what) {
        while (at < header.size() && what.contains(header[at])) ++at;
    };
    auto token = [&] {
        std::size_t start = at;
        while (at < header.size() && is_token_char(header[at])) ++at;
        return header.substr(start, at - start);
    };
    while (true) {
        skip(" \t,");
        std::string_view word = token();
        if (word.empty()) return challenges;
        skip(" \t");
        if (at >= header.size() || header[at] != '=') {
            challenges.push_back({.scheme = lower(word)});
            continue;
        }
        ++at;
        skip(" \t");
        std::string value;
        if (at < header.size() && header[at] == '"') {
            for (++at; at < header.size() && header[at] != '"'; ++at) {
                if (header[at] == '\\' && at + 1 < header.size()) ++at;
                value += header[at];
            }
            if (at >= header.size()) return challenges;
            ++at;
        } else {
            value = token();
        }
        if (challenges.empty()) return challenges;
        Challenge& current = challenges.back();
        std::string name = lower(word);
        if (name == "realm")
            current.realm = std::move(value);
        else if (name == "service")
            current.service = std::move(value);
        else if (name == "scope")
            current.scope = std::move(value);
        else if (name == "error")
            current.error = std::move(value);
    }
}

}  // namespace wherry::image
