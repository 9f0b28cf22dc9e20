// One repository of a registry, by the OCI distribution specification 1.1 (and Docker's registry API v2, which it came
// from).
//
// http for registries on loopback and those named insecure, https otherwise. Anonymous, basic and bearer
// authentication; redirects of blobs; broken downloads go on by range; what may pass by itself (5xx, 429, a lost
// connection) is tried again with growing pauses. Everything a registry says is checked: lengths, digests, locations,
// types.
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

namespace wherry::image {

struct RegistryOptions {
    RegistryCredentials credentials;
    std::vector<std::string> insecure_registries;  // "host", "host:port": http, or https without verification
    std::string certificates;  // folder as /etc/docker/certs.d: <host>/ca.crt, client.cert, client.key
    unsigned attempts = 5;
    std::chrono::milliseconds first_pause{200};  // doubled each time
    std::chrono::milliseconds idle_timeout{60'000};
    // Asked between chunks and before pauses; true ends the operation with `cancelled`.
    std::function<bool()> cancelled;
};

struct FetchedManifest {
    std::string media_type;
    std::string digest;  // of bytes
    std::string bytes;
};

class RegistryClient {
  public:
    // `host` is a reference's domain ("docker.io" becomes registry-1.docker.io), `repository` its path.
    static Result<std::unique_ptr<RegistryClient>> create(const std::string& host, std::string repository,
                                                          RegistryOptions options);

    const std::string& repository() const { return repository_; }

    // By tag or digest; with a digest the bytes must have it. not_found, unauthenticated, permission_denied.
    Result<FetchedManifest> manifest(const std::string& reference);
    // GET of a blob from `offset`, whole and in order, to the sink; its digest is the caller's to check (what streams
    // away cannot be taken back). A lost connection goes on where it stopped. data_loss when the length is not the
    // descriptor's.
    Result<> read_blob(const Descriptor& blob, const ByteSink& sink);
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

  private:
    struct Target {
        http::Endpoint endpoint;
        std::string path;  // with query
    };
    RegistryClient(std::string host, std::string repository, RegistryOptions options);

    Result<> choose_scheme();
    Result<http::ClientResponse> send(const std::string& scope_actions, http::ClientRequest request,
                                      bool follow_redirects);
    Result<http::ClientResponse> send_once(const std::string& scope_actions, const http::ClientRequest& request,
                                           bool follow_redirects);
    Result<http::ClientResponse> follow(http::ClientResponse response, const http::ClientRequest& request);
    Result<Target> resolve(const Target& base, std::string_view location) const;
    Result<> authenticate(const std::vector<Challenge>& challenges, const std::string& scope_actions);
    std::string authorization(const std::string& scope_actions);
    http::Client& client_for(const http::Endpoint& endpoint);
    Result<> pause(unsigned attempt, const http::ClientResponse* response) const;
    bool is_cancelled() const { return options_.cancelled && options_.cancelled(); }
    Error error_of(http::ClientResponse& response, std::string_view what) const;
    std::string path(std::string_view rest) const { return "/v2/" + repository_ + "/" + std::string(rest); }

    std::string host_;
    std::string repository_;
    RegistryOptions options_;
    http::Endpoint endpoint_;
    std::mutex lock_;                                          // guards the two below
    std::vector<std::pair<std::string, std::string>> tokens_;  // scope -> Authorization value
    std::vector<std::pair<std::string, std::unique_ptr<http::Client>>> clients_;
};

// Whether plain http is spoken to a host without being told: localhost, 127.0.0.0/8, ::1, with or without a port.
bool is_loopback_registry(std::string_view host);

}  // namespace wherry::image
