// Pulling and pushing whole images: a RegistryClient, the content store and the layer store together.
//
// A pull reads the manifest (of the wanted platform, where there is a list), the configuration, and then all missing
// layers at once, each hashed while it streams, inflated in this process's children and unpacked into its own folder.
// What is there is not read again. Nothing is visible before everything is there: on any error what came goes again.
//
// Functions block; progress comes from several threads, one call at a time.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "image/image_store.hpp"
#include "image/reference.hpp"
#include "image/registry/client.hpp"

namespace wherry::image {

struct TransferOptions {
    RegistryOptions registry;
    Platform platform;               // empty: the host's
    unsigned concurrent_layers = 3;  // Docker's max-concurrent-downloads and -uploads
    UnpackLimits limits;
    std::string origins_folder;  // where LayerOrigins are kept; empty: nowhere
    // id is the short digest, or the tag for the whole.
    ProgressFunction progress;
};

struct PulledImage {
    std::string id;
    std::string digest;  // of what the reference named: a list's or a manifest's
    bool up_to_date = false;
};

// not_found, unauthenticated, permission_denied, unavailable, data_loss (what the registry sent is not what it
// promised), resource_exhausted (too large, no room), cancelled. Mirrors are asked first; what they lack or spoil comes
// from the registry. The lease keeps the layers until the caller has made the image known.
Result<PulledImage> pull_image(ImageStore& store, Lease& lease, const Reference& reference,
                               const TransferOptions& options);

struct PushedImage {
    std::string digest;  // of the manifest the registry has then
    std::uint64_t manifest_bytes = 0;
};

// Layers are sent with gzip, or as the registry has them already; what it has is not sent.
Result<PushedImage> push_image(ImageStore& store, std::string_view image_id, const Reference& reference,
                               const TransferOptions& options);

// What a reference names at its registry, without fetching it.
struct RemoteImage {
    Descriptor descriptor;  // of the list or manifest
    std::vector<Platform> platforms;
};
Result<RemoteImage> inspect_remote(const Reference& reference, const TransferOptions& options);

// Every tag of the repository, from the registry itself.
Result<std::vector<std::string>> remote_tags(const Reference& repository, const TransferOptions& options);

}  // namespace wherry::image
