// Image references: "name[:tag][@digest]", the grammar of the distribution project (reference/grammar), with Docker's
// defaults (docker.io, library/, latest) and its error messages. Pure functions.
//
//     Reference r = TRY(parse_reference("busybox"));
//     r.canonical();  // "docker.io/library/busybox:latest"
//     r.familiar();   // "busybox:latest"
#pragma once

#include <compare>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::image {

struct Reference {
    std::string domain;  // "docker.io", "localhost:5000"
    std::string path;    // "library/busybox"
    std::string tag;     // empty when there is a digest alone
    std::string digest;  // "sha256:..." or empty

    std::string name() const;           // domain/path
    std::string canonical() const;      // domain/path[:tag][@digest]
    std::string familiar_name() const;  // what people see: no docker.io/, no library/
    std::string familiar() const;       // familiar_name[:tag][@digest]
    auto operator<=>(const Reference&) const = default;
};

enum class DefaultTag { latest, none };  // what to do when there is neither tag nor digest

// invalid_argument with Docker's words: "invalid reference format", "repository name must be lowercase", ...
Result<Reference> parse_reference(std::string_view text, DefaultTag default_tag = DefaultTag::latest);
// id).
Result<> check_tag(std::string_view tag);  // [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}

// What a user may mean by a word: an image id ("sha256:<64 hex>" or 64 hex), or possibly a prefix of one.
bool is_full_image_id(std::string_view text);           // 64 hex, with or without "sha256:"
bool may_be_image_id_prefix(std::string_view text);     // 1-64 lower-case hex, with or without "sha256:"
std::string normalize_image_id(std::string_view text);  // with "sha256:"
inline std::string_view digest_hex(std::string_view digest) {
    return digest.substr(digest.find(':') + 1);
}

}  // namespace wherry::image
