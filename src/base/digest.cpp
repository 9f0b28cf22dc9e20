#include "base/digest.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <cstdlib>

#include "base/id.hpp"

namespace wherry {

struct Sha256::State {
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    State() {
        if (context == nullptr || EVP_DigestInit_ex(context, EVP_sha256(), nullptr) != 1) std::abort();
    }
    ~State() { EVP_MD_CTX_free(context); }
    State(const State&) = delete;
    State& operator=(const State&) = delete;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> data) {
    EVP_DigestUpdate(state_->context, data.data(), data.size());
}
void Sha256::update(std::string_view data) {
    EVP_DigestUpdate(state_->context, data.data(), data.size());
}

std::array<std::byte, 32> Sha256::finish() {
    std::array<std::byte, 32> value{};
    unsigned size = 0;
    // SAFETY: OpenSSL writes the 32 bytes of the digest as unsigned char.
    EVP_DigestFinal_ex(state_->context, reinterpret_cast<unsigned char*>(value.data()), &size);
    return value;
}

std::string Sha256::finish_digest() {
    return "sha256:" + hex(finish());
}

std::string sha256_hex(std::string_view data) {
    Sha256 hash;
    hash.update(data);
    return hex(hash.finish());
}

std::string sha256_digest(std::string_view data) {
    return "sha256:" + sha256_hex(data);
}

bool is_sha256_digest(std::string_view text) {
    return text.size() == 71 && text.starts_with("sha256:") && std::all_of(text.begin() + 7, text.end(), [](char c) {
               return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
           });
}

}  // namespace wherry
