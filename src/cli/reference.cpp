#include "cli/reference.hpp"

#include <algorithm>

namespace wherry::cli {

namespace {

bool lower_or_digit(char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}
bool letter_or_digit(char c) {
    return lower_or_digit(c) || (c >= 'A' && c <= 'Z');
}

// path-component := [a-z0-9]+ ((\.|_|__|-+) [a-z0-9]+)*
bool path_component(std::string_view text) {
    std::size_t i = 0;
    auto run = [&] {
        std::size_t start = i;
        while (i < text.size() && lower_or_digit(text[i])) ++i;
        return i > start;
    };
    if (!run()) return false;
    while (i < text.size()) {
        if (text[i] == '.') {
            ++i;
        } else if (text[i] == '_') {
            ++i;
            if (i < text.size() && text[i] == '_') ++i;
        } else if (text[i] == '-') {
            while (i < text.size() && text[i] == '-') ++i;
        } else {
            return false;
        }
        if (!run()) return false;
    }
    return true;
}

bool valid_path(std::string_view path) {
    while (true) {
        auto slash = path.find('/');
        if (!path_component(path.substr(0, slash))) return false;
        if (slash == std::string_view::npos) return true;
        path.remove_prefix(slash + 1);
    }
}

// domain := label ("." label)* [":" port], or an IPv6 address in brackets.
bool valid_domain(std::string_view domain) {
    std::string_view host = domain;
    if (host.starts_with('[')) {
        auto close = host.find(']');
        if (close == std::string_view::npos) return false;
        for (char c : host.substr(1, close - 1))
            if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F') || c == ':')) return false;
        host.remove_prefix(close + 1);
        if (host.empty()) return true;
        if (host.front() != ':') return false;
    } else {
        auto colon = host.find(':');
        std::string_view name = host.substr(0, colon);
        host.remove_prefix(colon == std::string_view::npos ? host.size() : colon);
        while (true) {
            auto dot = name.find('.');
            std::string_view label = name.substr(0, dot);
            if (label.empty() || !letter_or_digit(label.front()) || !letter_or_digit(label.back())) return false;
            for (char c : label)
                if (!letter_or_digit(c) && c != '-') return false;
            if (dot == std::string_view::npos) break;
            name.remove_prefix(dot + 1);
        }
        if (host.empty()) return true;
    }
    host.remove_prefix(1);
    return !host.empty() && std::ranges::all_of(host, [](char c) { return c >= '0' && c <= '9'; });
}

bool valid_tag(std::string_view tag) {
    if (tag.empty() || tag.size() > 128 || !(letter_or_digit(tag.front()) || tag.front() == '_')) return false;
    return std::ranges::all_of(tag, [](char c) { return letter_or_digit(c) || c == '_' || c == '.' || c == '-'; });
}

bool valid_digest(std::string_view digest) {
    auto colon = digest.find(':');
    if (colon == 0 || colon == std::string_view::npos) return false;
    std::string_view hexadecimal = digest.substr(colon + 1);
    if (digest.substr(0, colon) == "sha256" && hexadecimal.size() != 64) return false;
    if (hexadecimal.size() < 32) return false;
    return std::ranges::all_of(hexadecimal, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::unexpected<Error> invalid_format(std::string_view why = {}) {
    std::string text = "invalid reference format";
    if (!why.empty()) text += ": " + std::string(why);
    return fail(Code::invalid_argument, text);
}

}  // namespace

Result<Reference> parse_reference(std::string_view text) {
    if (text.empty()) return invalid_format();
    if (text.size() == 64 &&
        std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }))
        return fail(Code::invalid_argument,
                    "invalid repository name (" + std::string(text) + "), cannot specify 64-byte hexadecimal strings");
    Reference reference;
    std::string_view rest = text;
    if (auto at = rest.find('@'); at != std::string_view::npos) {
        reference.digest = std::string(rest.substr(at + 1));
        rest = rest.substr(0, at);
        if (!valid_digest(reference.digest)) return invalid_format();
    }
    auto slash = rest.find('/');
    auto first = rest.substr(0, slash);
    bool has_upper = std::ranges::any_of(first, [](char c) { return c >= 'A' && c <= 'Z'; });
    if (slash != std::string_view::npos && (first.find_first_of(".:") != std::string_view::npos ||
                                            first == "localhost" || has_upper || first.starts_with('['))) {
        reference.domain = std::string(first);
        rest.remove_prefix(slash + 1);
    } else {
        reference.domain = "docker.io";
    }
    if (reference.domain == "index.docker.io") reference.domain = "docker.io";
    if (auto colon = rest.rfind(':');
        colon != std::string_view::npos && rest.find('/', colon) == std::string_view::npos) {
        reference.tag = std::string(rest.substr(colon + 1));
        rest = rest.substr(0, colon);
        if (!valid_tag(reference.tag)) return invalid_format();
    }
    reference.path = std::string(rest);
    if (reference.domain == "docker.io" && reference.path.find('/') == std::string::npos)
        reference.path = "library/" + reference.path;
    if (std::ranges::any_of(reference.path, [](char c) { return c >= 'A' && c <= 'Z'; }))
        return invalid_format("repository name (" + reference.path + ") must be lowercase");
    if (rest.empty() || !valid_path(reference.path) || !valid_domain(reference.domain)) return invalid_format();
    if (reference.domain.size() + 1 + reference.path.size() > 255 + 1)
        return invalid_format("repository name must not be more than 255 characters");
    return reference;
}

std::string Reference::familiar_name() const {
    if (domain != "docker.io") return domain + "/" + path;
    std::string_view name = path;
    if (name.starts_with("library/") && name.find('/', 8) == std::string_view::npos) name.remove_prefix(8);
    return std::string(name);
}

std::string Reference::familiar() const {
    std::string text = familiar_name();
    if (!tag.empty())
        text += ":" + tag;
    else if (digest.empty())
        text += ":latest";
    if (!digest.empty()) text += "@" + digest;
    return text;
}

Result<RepositoryTag> parse_repository_tag(std::string_view text) {
    if (text.empty()) return RepositoryTag{};
    Reference reference = TRY(parse_reference(text));
    if (!reference.digest.empty()) return fail(Code::invalid_argument, "cannot import digest reference");
    return RepositoryTag{reference.familiar_name(), reference.tag.empty() ? "latest" : reference.tag};
}

}  // namespace wherry::cli
