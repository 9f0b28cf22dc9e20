// Pulling and pushing whole images: a RegistryClient, the content store and the layer store together.
//
// A pull reads the manifest (of the wanted platform, where there is a list), the configuration, and then all missing
// layers at once, each hashed while it streams, inflated in this process and unpacked into its own folder. What is
// there is not read again. Nothing is visible before everything is there: on any error the leases end and garbage
// collection takes what came.
#pragma once

#include <functional>
#include <string>

#include "image/image_store.hpp"
#include "image/reference.hpp"
#include "image/registry/client.hpp"

namespace wherry::image {

struct TransferOptions {
    RegistryOptions registry;
    Platform platform;               // empty: the host's
    unsigned concurrent_layers = 3;  // Docker's --max-concurrent-downloads and -uploads
    std::string origins_folder;      // where LayerOrigins are kept; empty: nowhere
    // Called from several threads, one call at a time. id is the short digest, or the tag for the whole.
    ProgressFunction progress;
};

struct PulledImage {
    std::string id;
    std::string digest;  // of what the reference named: a list's or a manifest's
    bool up_to_date = false;
};

// not_found, unauthenticated, unavailable, data_loss (what the registry sent is not what it promised), cancelled.
Result<PulledImage> pull_image(ImageStore& store, const Reference& reference, const TransferOptions& options);

// Returns the digest of the manifest the registry has then. Layers are sent with gzip; what the registry has is not
// sent.
Result<std::string> push_image(ImageStore& store, std::string_view image_id, const Reference& reference,
                               const TransferOptions& options);

}  // namespace wherry::image
