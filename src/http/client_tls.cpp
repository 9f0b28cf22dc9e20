// OpenSSL under the blocking client. Touched only when an endpoint asks for TLS: nothing is initialised before.
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "http/client_connection.hpp"

namespace wherry::http::detail {
namespace {

std::string openssl_message() {
    unsigned long code = ::ERR_peek_last_error();
    ::ERR_clear_error();
    if (code == 0) return "unknown error";
    const char* reason = ::ERR_reason_error_string(code);
    return reason != nullptr ? reason : "error " + std::to_string(code);
}

// A socket BIO whose writes never raise SIGPIPE; OpenSSL's own uses write(2).
int bio_write(BIO* bio, const char* data, int size) {
    ::BIO_clear_retry_flags(bio);
    int fd = -1;
    ::BIO_get_fd(bio, &fd);
    ssize_t count = ::send(fd, data, static_cast<std::size_t>(size), MSG_NOSIGNAL);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) ::BIO_set_retry_write(bio);
    return static_cast<int>(count);
}

BIO_METHOD* quiet_socket_method() {
    static BIO_METHOD* const method = [] {
        BIO_METHOD* made = ::BIO_meth_new(BIO_TYPE_SOCKET, "socket without SIGPIPE");
        const BIO_METHOD* base = ::BIO_s_socket();
        ::BIO_meth_set_write(made, &bio_write);
        ::BIO_meth_set_read(made, ::BIO_meth_get_read(base));
        ::BIO_meth_set_ctrl(made, ::BIO_meth_get_ctrl(base));
        ::BIO_meth_set_create(made, ::BIO_meth_get_create(base));
        ::BIO_meth_set_destroy(made, ::BIO_meth_get_destroy(base));
        return made;
    }();
    return method;
}

class Tls final : public BlockingTls {
  public:
    Tls() = default;
    Tls(const Tls&) = delete;
    Tls& operator=(const Tls&) = delete;
    ~Tls() override {
        ::SSL_free(ssl_);
        ::SSL_CTX_free(context_);
    }

    Result<> open(int socket, const ClientTls& tls, const std::string& host, std::string_view peer) {
        peer_ = peer;
        context_ = ::SSL_CTX_new(::TLS_client_method());
        if (context_ == nullptr) return fail(Code::internal, "TLS: " + openssl_message());
        ::SSL_CTX_set_min_proto_version(context_, TLS1_2_VERSION);
        ::SSL_CTX_set_mode(context_, SSL_MODE_AUTO_RETRY | SSL_MODE_ENABLE_PARTIAL_WRITE);
        if (tls.verify_server) {
            ::SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
            int loaded = tls.certificate_authority.empty()
                             ? ::SSL_CTX_set_default_verify_paths(context_)
                             : ::SSL_CTX_load_verify_file(context_, tls.certificate_authority.c_str());
            if (loaded != 1)
                return fail(Code::invalid_argument,
                            "TLS certificate authority " + tls.certificate_authority + ": " + openssl_message());
            for (const std::string& authority : tls.more_authorities) {
                if (::SSL_CTX_load_verify_file(context_, authority.c_str()) != 1)
                    return fail(Code::invalid_argument,
                                "TLS certificate authority " + authority + ": " + openssl_message());
            }
        }
        if (!tls.certificate.empty()) {
            if (::SSL_CTX_use_certificate_chain_file(context_, tls.certificate.c_str()) != 1)
                return fail(Code::invalid_argument, "TLS certificate " + tls.certificate + ": " + openssl_message());
            if (::SSL_CTX_use_PrivateKey_file(context_, tls.key.c_str(), SSL_FILETYPE_PEM) != 1)
                return fail(Code::invalid_argument, "TLS key " + tls.key + ": " + openssl_message());
        }
        ssl_ = ::SSL_new(context_);
        if (ssl_ == nullptr) return fail(Code::internal, "TLS: " + openssl_message());
        std::array<std::byte, 16> address{};
        bool is_address = ::inet_pton(host.contains(':') ? AF_INET6 : AF_INET, host.c_str(), address.data()) == 1;
        if (tls.verify_server) {
            if (is_address)
                ::X509_VERIFY_PARAM_set1_ip_asc(::SSL_get0_param(ssl_), host.c_str());
            else
                ::SSL_set1_host(ssl_, host.c_str());
        }
        if (!is_address) ::SSL_set_tlsext_host_name(ssl_, host.c_str());
        BIO* bio = ::BIO_new(quiet_socket_method());
        if (bio == nullptr) return fail(Code::internal, "TLS: " + openssl_message());
        ::BIO_set_fd(bio, socket, BIO_NOCLOSE);
        ::SSL_set_bio(ssl_, bio, bio);
        if (::SSL_connect(ssl_) != 1) {
            long verified = ::SSL_get_verify_result(ssl_);
            if (verified != X509_V_OK)
                return fail(Code::unauthenticated, std::string("TLS: ") + ::X509_verify_cert_error_string(verified));
            return fail(Code::unavailable, "TLS handshake: " + openssl_message());
        }
        return {};
    }

    Result<std::size_t> read_some(std::span<std::byte> buffer) override {
        while (true) {
            std::size_t count = 0;
            ::ERR_clear_error();
            int status = ::SSL_read_ex(ssl_, buffer.data(), buffer.size(), &count);
            if (status == 1) return count;
            int error = ::SSL_get_error(ssl_, status);
            if (error == SSL_ERROR_ZERO_RETURN) return std::size_t{0};
            if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) continue;
            if (error == SSL_ERROR_SYSCALL && errno != 0) return fail_errno("read from " + peer_);
            return fail(Code::unavailable, "read from " + peer_ + ": " + openssl_message());
        }
    }

    Result<std::size_t> write_some(std::string_view data) override {
        while (true) {
            std::size_t count = 0;
            ::ERR_clear_error();
            int status = ::SSL_write_ex(ssl_, data.data(), data.size(), &count);
            if (status == 1) return count;
            int error = ::SSL_get_error(ssl_, status);
            if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) continue;
            if (error == SSL_ERROR_SYSCALL && errno != 0) return fail_errno("write to " + peer_);
            return fail(Code::unavailable, "write to " + peer_ + ": " + openssl_message());
        }
    }

    Result<> shutdown_write() override {
        ::SSL_shutdown(ssl_);
        return {};
    }

    bool has_pending() const override { return ::SSL_pending(ssl_) > 0; }

  private:
    std::string peer_;
    SSL_CTX* context_ = nullptr;
    SSL* ssl_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<BlockingTls>> start_tls(int socket, const ClientTls& tls, const std::string& host,
                                               std::string_view peer) {
    auto made = std::make_unique<Tls>();
    TRY(made->open(socket, tls, host, peer));
    return std::unique_ptr<BlockingTls>(std::move(made));
}

}  // namespace wherry::http::detail
