// SHA-256 (FIPS 180-4) of small texts, without OpenSSL: the static binaries would carry all of libcrypto for it, and
// its start-up asks the processor for features, which is dear under a hypervisor. For content digests use
// base/digest.hpp, which is many times faster per byte.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace wherry::confine {

std::array<std::byte, 32> small_sha256(std::string_view data);
std::string small_sha256_hex(std::string_view data);

}  // namespace wherry::confine
