// Who we are to a registry: credentials and the challenges they answer (RFC 7617, RFC 6750, distribution's token
// protocol). Pure but for credential helpers' and docker's configuration, which live in the CLI.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace wherry::image {

// As X-Registry-Auth and docker's config.json carry them; all empty: anonymous.
struct RegistryCredentials {
    std::string username;
    std::string password;
    std::string identity_token;  // an OAuth2 refresh token
    std::string registry_token;  // a bearer token, sent as it is

    bool anonymous() const { return username.empty() && identity_token.empty() && registry_token.empty(); }
};

// The base64 (URL-safe or not) JSON of X-Registry-Auth; an empty header is anonymous.
Result<RegistryCredentials> parse_registry_auth(std::string_view header);
// invalid_argument when they hold what would end a header field.
Result<> check_credentials(const RegistryCredentials& credentials);

// One challenge of WWW-Authenticate (RFC 9110 section 11.6.1).
struct Challenge {
    std::string scheme;  // lower case
    std::string realm;
    std::string service;
    std::string scope;
    std::string error;
};
// All the challenges of a header value. What cannot be read is left out.
std::vector<Challenge> parse_challenges(std::string_view header);

// Retry-After (RFC 9110 section 10.2.3): seconds or a date, as time from now on; nullopt when there is none or it
// cannot be read.
std::optional<std::chrono::seconds> parse_retry_after(std::string_view header, WallTime now);

// The target of rel="next" in a Link header (RFC 8288); empty when there is none.
std::string next_link(std::string_view header);

}  // namespace wherry::image
