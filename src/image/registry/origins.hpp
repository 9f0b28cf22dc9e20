// Which blob of which registry a layer came from or went to: what lets a push name a layer by the digest the registry
// knows, without compressing it again, and mount it across repositories. A cache: losing it costs work, never
// correctness.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "image/model.hpp"

namespace wherry::image {

struct LayerOrigin {
    Descriptor blob;
    std::string registry;    // host
    std::string repository;  // path
};

class LayerOrigins {
  public:
    // `folder` is made when it is first written to; empty: nothing is kept.
    explicit LayerOrigins(std::string folder) : folder_(std::move(folder)) {}

    std::vector<LayerOrigin> of(const std::string& diff_id) const;
    void add(const std::string& diff_id, const LayerOrigin& origin) const;  // errors are logged
    // Forgets layers that are not here any more.
    void sweep(const std::function<bool(const std::string& diff_id)>& is_here) const;

  private:
    std::string folder_;
    mutable std::mutex lock_;
};

}  // namespace wherry::image
