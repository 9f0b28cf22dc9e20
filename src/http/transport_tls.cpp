#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>

#include "http/transport.hpp"

namespace wherry::http {
namespace {

namespace ssl = asio::ssl;
using Socket = asio::generic::stream_protocol::socket;

std::unexpected<Error> tls_failure(const boost::system::error_code& error, std::string_view what) {
    if (error == asio::error::operation_aborted) return fail(Code::cancelled, std::string(what) + " was cancelled");
    if (error.category() == boost::system::system_category()) return fail_errno(error.value(), what);
    return fail(Code::unavailable, std::string(what) + ": " + error.message());
}

class TlsTransport final : public Transport {
  public:
    TlsTransport(const asio::any_io_executor& executor, ssl::context& context, Fd socket)
        : stream_(Socket(executor), context) {
        sockaddr_storage address{};
        socklen_t length = sizeof address;
        // SAFETY: the generic socket address of getsockname(2); sockaddr_storage fits every family.
        ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length);
        boost::system::error_code error;
        stream_.next_layer().assign(asio::generic::stream_protocol(address.ss_family, 0), socket.get(), error);
        if (!error) socket.release();
    }

    asio::awaitable<Result<>> handshake() override {
        auto [error] = co_await stream_.async_handshake(ssl::stream_base::server, as_result);
        if (error) co_return tls_failure(error, "TLS handshake");
        co_return Result<>{};
    }

    asio::awaitable<Result<std::size_t>> read_some(std::span<std::byte> buffer) override {
        auto [error, count] = co_await stream_.async_read_some(asio::buffer(buffer.data(), buffer.size()), as_result);
        if (error == asio::error::eof || error == ssl::error::stream_truncated) co_return std::size_t{0};
        if (error) co_return tls_failure(error, "read from client");
        co_return count;
    }

    asio::awaitable<Result<>> write(WriteParts parts) override {
        // One record for what belongs together.
        std::string joined;
        std::string_view data = parts[0];
        if (!parts[1].empty() || !parts[2].empty()) {
            joined.reserve(parts[0].size() + parts[1].size() + parts[2].size());
            for (std::string_view part : parts) joined += part;
            data = joined;
        }
        auto [error, count] = co_await asio::async_write(stream_, asio::buffer(data.data(), data.size()), as_result);
        if (error) co_return tls_failure(error, "write to client");
        co_return Result<>{};
    }

    asio::awaitable<Result<>> shutdown_write() override {
        // Sends close_notify and waits for the peer's: with TLS this is used at a connection's end only.
        auto [error] = co_await stream_.async_shutdown(as_result);
        if (error == asio::error::operation_aborted) co_return tls_failure(error, "TLS shutdown");
        co_return Result<>{};
    }

    asio::awaitable<Result<>> wait_closed() override {
        auto [error] = co_await stream_.next_layer().async_wait(asio::socket_base::wait_error, as_result);
        if (error) co_return tls_failure(error, "wait for the client's end");
        co_return Result<>{};
    }

    void cancel() override {
        boost::system::error_code error;
        stream_.next_layer().cancel(error);
    }

    void close() override {
        boost::system::error_code error;
        stream_.next_layer().close(error);
    }

    int native_fd() const override { return -1; }

    std::string client_certificate() const override {
        // SAFETY: native_handle() only lacks const; the name is copied out.
        SSL* native = const_cast<ssl::stream<Socket>&>(stream_).native_handle();
        X509* certificate = ::SSL_get1_peer_certificate(native);
        if (certificate == nullptr) return {};
        char name[256] = {};
        int length =
            ::X509_NAME_get_text_by_NID(::X509_get_subject_name(certificate), NID_commonName, name, sizeof name);
        ::X509_free(certificate);
        return length > 0 ? std::string(name, static_cast<std::size_t>(length)) : std::string();
    }

  private:
    ssl::stream<Socket> stream_;
};

class Context final : public TlsContext {
  public:
    Context() : context_(ssl::context::tls_server) {}
    ssl::context& native() { return context_; }
    std::unique_ptr<Transport> make_transport(const asio::any_io_executor& executor, Fd socket) override {
        return std::make_unique<TlsTransport>(executor, context_, std::move(socket));
    }

  private:
    ssl::context context_;
};

}  // namespace

Result<std::shared_ptr<TlsContext>> make_tls_context(const ServerTls& tls) {
    auto context = std::make_shared<Context>();
    ssl::context& native = context->native();
    boost::system::error_code error;
    native.set_options(ssl::context::default_workarounds | ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1, error);
    auto refuse = [&](std::string_view what, const std::string& path) {
        return fail(path_exists(path) ? Code::invalid_argument : Code::not_found,
                    std::string(what) + " " + path + ": " + error.message());
    };
    native.use_certificate_chain_file(tls.certificate, error);
    if (error) return refuse("TLS certificate", tls.certificate);
    native.use_private_key_file(tls.key, ssl::context::pem, error);
    if (error) return refuse("TLS key", tls.key);
    if (tls.verify_client) {
        native.load_verify_file(tls.certificate_authority, error);
        if (error) return refuse("TLS certificate authority", tls.certificate_authority);
        native.set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert, error);
        // Sessions resumed without a certificate's check are not wanted.
        ::SSL_CTX_set_session_cache_mode(native.native_handle(), SSL_SESS_CACHE_OFF);
    }
    return context;
}

}  // namespace wherry::http
