#include "image/reference.hpp"

#include <algorithm>

#include "base/digest.hpp"

namespace wherry::image {

namespace {

constexpr std::string_view default_domain = "docker.io";
constexpr std::string_view official_prefix = "library/";
constexpr std::size_t max_name_length = 255;
constexpr std::size_t max_tag_length = 128;

bool is_lower(char c) {
    return c >= 'a' && c <= 'z';
}
bool is_upper(char c) {
    return c >= 'A' && c <= 'Z';
}
bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_alphanumeric(char c) {
    return is_lower(c) || is_upper(c) || is_digit(c);
}
bool is_lower_hex(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f');
}
bool is_path_character(char c) {
    return is_lower(c) || is_digit(c);
}

bool has_upper(std::string_view text) {
    return std::ranges::any_of(text, is_upper);
}

std::unexpected<Error> bad_format() {
    return fail(Code::invalid_argument, "invalid reference format");
}

// alphanumeric runs joined by ".", "_", "__" or any number of "-".
bool is_path_component(std::string_view text) {
    std::size_t i = 0;
    for (;;) {
        std::size_t start = i;
        while (i < text.size() && is_path_character(text[i])) ++i;
        if (i == start) return false;
        if (i == text.size()) return true;
        std::size_t separator = i;
        while (i < text.size() && !is_path_character(text[i])) ++i;
        std::string_view between = text.substr(separator, i - separator);
        bool dashes = std::ranges::all_of(between, [](char c) { return c == '-'; });
        if (!dashes && between != "." && between != "_" && between != "__") return false;
    }
}

template <class Predicate>
bool all_components(std::string_view text, char separator, Predicate accept) {
    for (;;) {
        std::size_t end = text.find(separator);
        if (!accept(text.substr(0, end))) return false;
        if (end == std::string_view::npos) return true;
        text.remove_prefix(end + 1);
    }
}

bool is_domain_component(std::string_view text) {
    return !text.empty() && is_alphanumeric(text.front()) && is_alphanumeric(text.back()) &&
           std::ranges::all_of(text, [](char c) { return is_alphanumeric(c) || c == '-'; });
}

bool is_domain(std::string_view text) {
    std::size_t host_end = 0;
    if (text.starts_with('[')) {  // an IPv6 address
        std::size_t close = text.find(']');
        if (close == std::string_view::npos || close == 1) return false;
        bool address = std::ranges::all_of(
            text.substr(1, close - 1), [](char c) { return is_lower_hex(c) || (c >= 'A' && c <= 'F') || c == ':'; });
        if (!address) return false;
        host_end = close + 1;
    } else {
        host_end = std::min(text.find(':'), text.size());
        if (!all_components(text.substr(0, host_end), '.', is_domain_component)) return false;
    }
    if (host_end == text.size()) return true;
    std::string_view port = text.substr(host_end + 1);
    return text[host_end] == ':' && !port.empty() && std::ranges::all_of(port, is_digit);
}

bool is_tag(std::string_view tag) {
    return !tag.empty() && tag.size() <= max_tag_length && (is_alphanumeric(tag.front()) || tag.front() == '_') &&
           std::ranges::all_of(tag, [](char c) { return is_alphanumeric(c) || c == '_' || c == '.' || c == '-'; });
}

bool is_hex_identifier(std::string_view text) {
    return text.size() == 64 && std::ranges::all_of(text, is_lower_hex);
}

std::string_view without_algorithm(std::string_view text) {
    if (text.starts_with("sha256:")) text.remove_prefix(7);
    return text;
}

}  // namespace

std::string Reference::name() const {
    return domain + "/" + path;
}

std::string Reference::canonical() const {
    return name() + (tag.empty() ? "" : ":" + tag) + (digest.empty() ? "" : "@" + digest);
}

std::string Reference::familiar_name() const {
    if (domain != default_domain) return name();
    std::string_view rest = path;
    // "library/a/b" keeps its prefix: without it, it would be read as another repository.
    if (rest.starts_with(official_prefix) && rest.find('/', official_prefix.size()) == std::string_view::npos) {
        rest.remove_prefix(official_prefix.size());
    }
    // A short form that would be read back as something else is no name for people to copy.
    std::string_view first = rest.substr(0, rest.find('/'));
    bool reads_as_host =
        first.size() < rest.size() && (first.find('.') != std::string_view::npos || first == "localhost");
    if (reads_as_host || is_hex_identifier(rest)) return name();
    return std::string(rest);
}

std::string Reference::familiar() const {
    return familiar_name() + (tag.empty() ? "" : ":" + tag) + (digest.empty() ? "" : "@" + digest);
}

Result<Reference> parse_reference(std::string_view text, DefaultTag default_tag) {
    if (is_hex_identifier(text)) {
        return fail(Code::invalid_argument,
                    "invalid repository name (" + std::string(text) + "), cannot specify 64-byte hexadecimal strings");
    }
    Reference reference;
    std::string_view rest = text;
    std::size_t slash = text.find('/');
    std::string_view first = text.substr(0, slash);
    // The first part is a host when it could not be a repository's name: a dot, a port, an upper-case letter,
    // localhost.
    if (slash == std::string_view::npos ||
        (first.find_first_of(".:") == std::string_view::npos && first != "localhost" && !has_upper(first))) {
        reference.domain = default_domain;
    } else {
        reference.domain = first == "index.docker.io" ? default_domain : first;
        rest = text.substr(slash + 1);
    }
    std::size_t at = rest.find('@');
    if (at != std::string_view::npos) {
        std::string_view digest = rest.substr(at + 1);
        if (digest.starts_with("sha256:") && !is_sha256_digest(digest)) {
            return fail(Code::invalid_argument,
                        digest.size() == 71 ? "invalid reference format" : "invalid checksum digest length");
        }
        if (!is_sha256_digest(digest)) return bad_format();
        reference.digest = digest;
        rest = rest.substr(0, at);
    }
    std::size_t colon = rest.find(':');
    if (colon != std::string_view::npos) {
        reference.tag = rest.substr(colon + 1);
        rest = rest.substr(0, colon);
        if (!is_tag(reference.tag)) return bad_format();
    }
    bool official = reference.domain == default_domain && rest.find('/') == std::string_view::npos;
    reference.path = (official ? std::string(official_prefix) : std::string()) + std::string(rest);
    if (has_upper(reference.path)) {
        return fail(Code::invalid_argument,
                    "invalid reference format: repository name (" + reference.path + ") must be lowercase");
    }
    if (!is_domain(reference.domain) || !all_components(reference.path, '/', is_path_component)) return bad_format();
    if (reference.path.size() > max_name_length) {
        return fail(Code::invalid_argument, "repository name must not be more than 255 characters");
    }
    if (reference.tag.empty() && reference.digest.empty() && default_tag == DefaultTag::latest)
        reference.tag = "latest";
    return reference;
}

Result<> check_tag(std::string_view tag) {
    if (!is_tag(tag)) return fail(Code::invalid_argument, "invalid tag format");
    return {};
}

bool is_full_image_id(std::string_view text) {
    return is_hex_identifier(without_algorithm(text));
}

bool may_be_image_id_prefix(std::string_view text) {
    text = without_algorithm(text);
    return !text.empty() && text.size() <= 64 && std::ranges::all_of(text, is_lower_hex);
}

std::string normalize_image_id(std::string_view text) {
    return "sha256:" + std::string(without_algorithm(text));
}

}  // namespace wherry::image
