// Image references as people write them, by the grammar of the distribution project's reference package.
#pragma once

#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::cli {

struct Reference {
    std::string domain;  // "docker.io" when none was written
    std::string path;    // "library/busybox"
    std::string tag;     // empty: none was written
    std::string digest;  // "sha256:…", empty: none

    // As people write it: "busybox", without Docker's default domain and "library/".
    std::string familiar_name() const;
    // familiar_name() with ":tag" (":latest" when neither tag nor digest) and "@digest".
    std::string familiar() const;
};

// Errors begin with "invalid reference format", as scripts expect.
Result<Reference> parse_reference(std::string_view text);

// "name[:tag]" for the queries repo= and tag=: {"name", "tag"}; both empty for empty text.
struct RepositoryTag {
    std::string repository;
    std::string tag;
};
Result<RepositoryTag> parse_repository_tag(std::string_view text);

}  // namespace wherry::cli
