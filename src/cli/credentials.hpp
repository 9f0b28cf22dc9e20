// Who we are to registries: Docker's ~/.docker/config.json ($DOCKER_CONFIG) with its auths, and credential helpers
// (docker-credential-NAME, the protocol of docker-credential-helpers: a verb as the argument, one value on standard
// input, JSON on standard output).
#pragma once

#include <boost/json/object.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "cli/reference.hpp"
#include "http/client.hpp"

namespace wherry::cli {

struct Credentials {
    std::string username;
    std::string password;
    std::string identity_token;
    std::string registry_token;
    bool empty() const { return username.empty() && identity_token.empty() && registry_token.empty(); }
};

inline constexpr std::string_view default_server = "https://index.docker.io/v1/";

// The name a registry's credentials are kept under: Docker Hub's is default_server, another's its host.
std::string server_of(std::string_view domain);

class CredentialStore {
  public:
    // A missing file is an empty one. invalid_argument when it is no JSON object.
    static Result<CredentialStore> open();

    const std::string& path() const { return path_; }
    // Empty: there are none. An error of a helper names it.
    Result<Credentials> find(const std::string& server) const;
    // Returns whether they lie in the file, for everybody who reads it.
    enum class Kept : unsigned char { in_file, by_helper };
    Result<Kept> keep(const std::string& server, const Credentials& credentials);
    Result<> erase(const std::string& server);

  private:
    CredentialStore(std::string path, boost::json::object content)
        : path_(std::move(path)), content_(std::move(content)) {}
    std::string helper_for(const std::string& server) const;
    Result<> write() const;

    std::string path_;
    boost::json::object content_;
};

// The header X-Registry-Auth with what is kept for the reference's registry; without credentials: no header.
Result<> add_registry_auth(http::ClientRequest& request, const Reference& reference);
// Its value: base64, URL-safe.
std::string registry_auth(const std::string& server, const Credentials& credentials);

}  // namespace wherry::cli
