// A gzip stream (RFC 1952) made by ISA-L, for layers that go to a registry: the same input gives the same bytes.
#pragma once

#include <memory>
#include <span>

#include "base/result.hpp"
#include "image/bytes.hpp"

namespace wherry::image {

class GzipWriter {
  public:
    explicit GzipWriter(ByteSink sink);
    ~GzipWriter();
    GzipWriter(const GzipWriter&) = delete;
    GzipWriter& operator=(const GzipWriter&) = delete;

    Result<> write(std::span<const std::byte> data);
    Result<> finish();

  private:
    struct State;
    Result<> deflate(std::span<const std::byte> data, bool last);
    std::unique_ptr<State> state_;
    ByteSink sink_;
};

}  // namespace wherry::image
