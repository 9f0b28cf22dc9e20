#include "image/registry/auth.hpp"

#include <algorithm>
#include <charconv>
#include <ctime>

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
    TRY(check_credentials(credentials), "X-Registry-Auth");
    return credentials;
}

Result<> check_credentials(const RegistryCredentials& credentials) {
    for (const std::string* text :
         {&credentials.username, &credentials.password, &credentials.identity_token, &credentials.registry_token})
        for (char c : *text)
            if (c == '\r' || c == '\n' || c == '\0')
                return fail(Code::invalid_argument, "credentials hold a control character");
    return {};
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

std::optional<std::chrono::seconds> parse_retry_after(std::string_view header, WallTime now) {
    while (header.ends_with(' ')) header.remove_suffix(1);
    if (header.empty()) return std::nullopt;
    std::int64_t seconds = 0;
    auto [end, error] = std::from_chars(header.data(), header.data() + header.size(), seconds);
    if (error == std::errc() && end == header.data() + header.size())
        return seconds < 0 ? std::nullopt : std::optional(std::chrono::seconds(seconds));
    // "Wed, 21 Oct 2015 07:28:00 GMT": the one form that is not obsolete.
    std::tm parts{};
    const std::string text(header);
    const char* rest = ::strptime(text.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    if (rest == nullptr || *rest != '\0') return std::nullopt;
    const auto then = std::chrono::sys_seconds(std::chrono::seconds(::timegm(&parts)));
    const auto left = std::chrono::duration_cast<std::chrono::seconds>(then - now) + std::chrono::seconds(1);
    return std::max(left, std::chrono::seconds(0));
}

std::string next_link(std::string_view header) {
    std::size_t at = 0;
    while (true) {
        const std::size_t open = header.find('<', at);
        if (open == std::string_view::npos) return {};
        const std::size_t close = header.find('>', open);
        if (close == std::string_view::npos) return {};
        const std::string_view target = header.substr(open + 1, close - open - 1);
        // Parameters up to the next link; a comma inside quotes does not end them.
        std::size_t end = close + 1;
        for (bool quoted = false; end < header.size() && (quoted || header[end] != ','); ++end)
            if (header[end] == '"') quoted = !quoted;
        std::string parameters = lower(header.substr(close + 1, end - close - 1));
        std::erase_if(parameters, [](char c) { return c == ' ' || c == '\t' || c == '"'; });
        for (std::string_view left = parameters; !left.empty();) {
            const std::size_t semicolon = left.find(';');
            if (left.substr(0, semicolon) == "rel=next") return std::string(target);
            left = semicolon == std::string_view::npos ? std::string_view() : left.substr(semicolon + 1);
        }
        at = end;
    }
}

}  // namespace wherry::image
