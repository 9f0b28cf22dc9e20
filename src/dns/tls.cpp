#include "dns/tls.hpp"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <array>

namespace wherry::dns {

namespace {

std::unexpected<Error> fail_tls(const std::string& what) {
    std::array<char, 200> text{};
    ERR_error_string_n(ERR_get_error(), text.data(), text.size());
    ERR_clear_error();
    return fail(Code::invalid_argument, what + ": " + text.data());
}

// RFC 7858 section 3.2 wants no name; RFC 9103 for transfers does. A client that offers another protocol only is not
// for us.
int choose_protocol(SSL*, const unsigned char** chosen, unsigned char* chosen_size, const unsigned char* offered,
                    unsigned offered_size, void*) {
    static constexpr std::array<unsigned char, 4> dot{3, 'd', 'o', 't'};
    unsigned char* out = nullptr;
    if (SSL_select_next_proto(&out, chosen_size, dot.data(), dot.size(), offered, offered_size) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *chosen = out;
    return SSL_TLSEXT_ERR_OK;
}

}  // namespace

struct TlsContext::Native {
    std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context{nullptr, SSL_CTX_free};
};

struct TlsContext::Session::Native {
    std::shared_ptr<TlsContext::Native> context;
    std::unique_ptr<SSL, decltype(&SSL_free)> ssl{nullptr, SSL_free};
    BIO* in = nullptr;  // owned by ssl
    BIO* out = nullptr;
};

Result<std::shared_ptr<TlsContext>> TlsContext::create(const std::string& certificate_path,
                                                       const std::string& key_path) {
    std::shared_ptr<TlsContext> made(new TlsContext());
    TRY(made->reload(certificate_path, key_path));
    return made;
}

Result<> TlsContext::reload(const std::string& certificate_path, const std::string& key_path) {
    auto native = std::make_shared<Native>();
    native->context.reset(SSL_CTX_new(TLS_server_method()));
    SSL_CTX* context = native->context.get();
    if (context == nullptr) return fail_tls("TLS");
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE);
    SSL_CTX_set_alpn_select_cb(context, choose_protocol, nullptr);
    if (SSL_CTX_use_certificate_chain_file(context, certificate_path.c_str()) != 1)
        return fail_tls("certificate " + certificate_path);
    if (SSL_CTX_use_PrivateKey_file(context, key_path.c_str(), SSL_FILETYPE_PEM) != 1)
        return fail_tls("key " + key_path);
    if (SSL_CTX_check_private_key(context) != 1) return fail_tls("key " + key_path);
    std::lock_guard lock(lock_);
    native_ = std::move(native);
    return {};
}

Result<std::unique_ptr<TlsContext::Session>> TlsContext::accept() const {
    auto native = std::make_unique<Session::Native>();
    {
        std::lock_guard lock(lock_);
        native->context = native_;
    }
    native->ssl.reset(SSL_new(native->context->context.get()));
    native->in = BIO_new(BIO_s_mem());
    native->out = BIO_new(BIO_s_mem());
    if (!native->ssl || native->in == nullptr || native->out == nullptr) {
        BIO_free(native->in);
        BIO_free(native->out);
        return fail_tls("TLS session");
    }
    SSL_set_bio(native->ssl.get(), native->in, native->out);
    SSL_set_accept_state(native->ssl.get());
    return std::unique_ptr<Session>(new Session(std::move(native)));
}

TlsContext::Session::Session(std::unique_ptr<Native> native) : native_(std::move(native)) {}
TlsContext::Session::~Session() = default;

bool TlsContext::Session::receive(std::span<const std::uint8_t> bytes, Bytes& plain) {
    if (!bytes.empty() && BIO_write(native_->in, bytes.data(), static_cast<int>(bytes.size())) <= 0) return false;
    std::array<std::uint8_t, 16384> buffer;
    while (true) {
        ERR_clear_error();
        int got = SSL_read(native_->ssl.get(), buffer.data(), static_cast<int>(buffer.size()));
        if (got > 0) {
            plain.insert(plain.end(), buffer.begin(), buffer.begin() + got);
            continue;
        }
        int error = SSL_get_error(native_->ssl.get(), got);
        if (error == SSL_ERROR_ZERO_RETURN) {
            ended_ = true;
            (void)SSL_shutdown(native_->ssl.get());
            return true;
        }
        return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
    }
}

bool TlsContext::Session::send(std::span<const std::uint8_t> plain) {
    while (!plain.empty()) {
        ERR_clear_error();
        int sent = SSL_write(native_->ssl.get(), plain.data(),
                             static_cast<int>(std::min<std::size_t>(plain.size(), 1U << 20U)));
        if (sent <= 0) return false;
        plain = plain.subspan(static_cast<std::size_t>(sent));
    }
    return true;
}

void TlsContext::Session::take_output(Bytes& out) {
    char* data = nullptr;
    long size = BIO_get_mem_data(native_->out, &data);
    if (size <= 0) return;
    std::size_t before = out.size();
    out.resize(before + static_cast<std::size_t>(size));
    int got = BIO_read(native_->out, out.data() + before, static_cast<int>(size));
    out.resize(before + static_cast<std::size_t>(std::max(got, 0)));
}

}  // namespace wherry::dns
