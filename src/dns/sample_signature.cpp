#include "dns/sample_signature.hpp"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>
#include <span>

#include "base/id.hpp"

namespace wherry::dns {

std::string sample_signature(std::string_view secret, std::string_view sender, std::int64_t time,
                             std::string_view body) {
    const std::string text = std::string(sender) + "\n" + std::to_string(time) + "\n" + std::string(body);
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned size = 0;
    // SAFETY: text as bytes.
    HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
         reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data(), &size);
    return hex(std::as_bytes(std::span(digest).first(size)));
}

}  // namespace wherry::dns
