// SHA-256 content digests, "sha256:<64 hex>", as OCI names content (image-spec, descriptor.md).
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry {

// Incremental SHA-256 (OpenSSL, with the processor's SHA instructions).
class Sha256 {
  public:
    Sha256();
    ~Sha256();
    Sha256(Sha256&&) noexcept;
    Sha256& operator=(Sha256&&) noexcept;
    Sha256(const Sha256&) = delete;
    Sha256& operator=(const Sha256&) = delete;

    void update(std::span<const std::byte> data);
    void update(std::string_view data);
    std::array<std::byte, 32> finish();  // once
    std::string finish_digest();         // "sha256:...", once

  private:
    struct State;
    std::unique_ptr<State> state_;
};

std::string sha256_digest(std::string_view data);  // "sha256:<hex>"
std::string sha256_hex(std::string_view data);
// "sha256:" and 64 lower-case hexadecimal digits; anything else is refused (it becomes a file name).
bool is_sha256_digest(std::string_view text);

}  // namespace wherry
