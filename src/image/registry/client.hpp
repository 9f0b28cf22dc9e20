// One repository of a registry, by the OCI distribution specification 1.1 (and Docker's registry API v2, which it came
// from).
//
// http for registries on loopback and those named insecure, https otherwise. Anonymous, basic and bearer
// authentication; redirects of blobs; what may pass by itself (5xx, 429, a lost connection) is tried again with growing
// pauses. Everything a registry says is checked: lengths, digests, locations, types.
//
// Threading: a client may be shared by the threads of one pull or push.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "http/client.hpp"
#include "image/bytes.hpp"
#include "image/model.hpp"
#include "image/registry/auth.hpp"
#include "image/registry/location.hpp"

namespace wherry::image {

struct RegistryOptions {
    RegistryConfig config;
    RegistryCredentials credentials;
    unsigned attempts = 5;                       // Docker's max-download-attempts
    std::chrono::milliseconds first_pause{200};  // doubled each time
    std::chrono::seconds longest_pause{60};      // a registry that asks for more (Retry-After) is given up
    std::chrono::milliseconds idle_timeout{60'000};
    std::chrono::milliseconds connect_timeout{10'000};
    // Asked between chunks, while waiting and before pauses, from any thread; true ends the operation with `cancelled`.
    std::function<bool()> cancelled;
};

struct FetchedManifest {
    std::string media_type;
    std::string digest;  // of bytes
    std::string bytes;
};

struct LoginOutcome {
    std::string identity_token;  // instead of the password from now on; empty: none is given
};

struct SearchHit {
    std::string name;
    std::string description;
    std::int64_t stars = 0;
    bool official = false;
    bool automated = false;
};

class RegistryClient {
  public:
    // `repository` is a reference's path; empty for what concerns the registry as a whole.
    static Result<std::unique_ptr<RegistryClient>> create(RegistryLocation location, std::string repository,
                                                          RegistryOptions options);

    const std::string& repository() const { return repository_; }
    const RegistryOptions& options() const { return options_; }

    // By tag or digest; with a digest the bytes must have it. not_found, unauthenticated, permission_denied.
    Result<FetchedManifest> manifest(const std::string& reference);
    // Every tag, page by page (Link headers).
    Result<std::vector<std::string>> tags();
    // A small blob, whole and right.
    Result<std::string> document(const Descriptor& blob);
    // GET of a blob from `offset` on, redirects followed, a status of 200 or 206; the body is the caller's to read.
    Result<http::ClientResponse> open_blob(const Descriptor& blob, std::uint64_t offset);
    // One piece [offset, offset + size) of a blob, for parallel downloads; unimplemented when the registry has no
    // ranges.
    Result<std::string> read_range(const Descriptor& blob, std::uint64_t offset, std::size_t size);

    Result<bool> has_blob(const std::string& digest);
    // True when the registry took it over from another repository of its own; false when the bytes are wanted.
    Result<bool> mount_blob(const std::string& digest, const std::string& from_repository);
    // Uploads `size` bytes of a source that can be started again.
    Result<> upload_blob(const std::string& digest, std::uint64_t size, const std::function<Result<ByteSource>()>& open,
                         const std::function<void(std::uint64_t)>& sent);
    Result<> put_manifest(const std::string& reference, const std::string& media_type, const std::string& bytes);

    // Whether the credentials are good. unauthenticated when not.
    Result<LoginOutcome> login();
    // By the index protocol of Docker Hub where the registry has it, or among the names of its catalog.
    // unimplemented when it offers neither.
    Result<std::vector<SearchHit>> search(const std::string& term, std::size_t limit);

    // Waits before the given try (the first is 0), or as long as the response asks. cancelled; resource_exhausted when
    // it asks for too long.
    Result<> pause(unsigned attempt, const http::ClientResponse* response) const;
    bool is_cancelled() const { return options_.cancelled && options_.cancelled(); }

  private:
    struct Target {
        http::Endpoint endpoint;
        std::string path;  // with query
    };
    RegistryClient(RegistryLocation location, std::string repository, RegistryOptions options)
        : location_(std::move(location)), repository_(std::move(repository)), options_(std::move(options)) {}

    Result<> choose_scheme();
    // `actions` of this repository ("pull", "pull,push") a token is asked for; empty: as the registry says.
    Result<http::ClientResponse> send(const std::string& actions, http::ClientRequest request, bool follow_redirects);
    Result<http::ClientResponse> send_once(const std::string& actions, const http::ClientRequest& request,
                                           bool follow_redirects);
    Result<http::ClientResponse> follow(http::ClientResponse response, const http::ClientRequest& request);
    Result<> upload_once(const std::string& digest, std::uint64_t size, const std::function<Result<ByteSource>()>& open,
                         const std::function<void(std::uint64_t)>& sent);
    Result<Target> resolve(const Target& base, std::string_view location) const;
    Result<> authenticate(const std::vector<Challenge>& challenges, const std::string& actions);
    Result<> fetch_token(const Challenge& challenge, const std::string& actions);
    std::string authorization(const std::string& actions);
    void forget_tokens();
    http::Client& client_for(const http::Endpoint& endpoint);
    Error error_of(http::ClientResponse& response, std::string_view what) const;
    std::string path(std::string_view rest) const {
        return location_.prefix + "/v2/" + repository_ + "/" + std::string(rest);
    }

    RegistryLocation location_;
    std::string repository_;
    RegistryOptions options_;
    http::Endpoint endpoint_;
    std::vector<std::string> mount_sources_;                   // repositories that tokens are to read from, too
    std::string identity_token_;                               // the last a token service gave
    std::mutex lock_;                                          // guards all below, and the two above
    std::vector<std::pair<std::string, std::string>> tokens_;  // actions -> Authorization value
    std::vector<std::pair<std::string, std::unique_ptr<http::Client>>> clients_;
};

}  // namespace wherry::image
