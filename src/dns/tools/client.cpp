#include "dns/tools/client.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "dns/tools/query.hpp"

namespace wherry::dns::tools {

namespace {

using Deadline = std::int64_t;  // monotonic nanoseconds

Deadline deadline_after(std::chrono::milliseconds time) {
    return monotonic_ns() + std::chrono::nanoseconds(time).count();
}

std::uint16_t random_id() {
    std::uint16_t id = 0;
    // Two bytes never come short.
    if (::getrandom(&id, sizeof id, 0) != sizeof id) id = static_cast<std::uint16_t>(monotonic_ns());
    return id;
}

// True when the descriptor is ready before the deadline.
Result<> wait_for(int fd, short events, Deadline deadline) {
    while (true) {
        std::int64_t left = deadline - monotonic_ns();
        if (left <= 0) return fail(Code::deadline_exceeded, "no answer in time");
        pollfd one{.fd = fd, .events = events, .revents = 0};
        int count = ::poll(&one, 1, static_cast<int>((left + 999'999) / 1'000'000));
        if (count > 0) return {};
        if (count < 0 && errno != EINTR) return fail_errno("poll");
    }
}

Result<Fd> open_socket(const SocketAddress& server, int type) {
    Fd socket(::socket(server.family(), type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return fail_errno("socket");
    return socket;
}

// What refused or unreachable servers answer with, in words that name the server.
std::unexpected<Error> unreachable(const SocketAddress& server, int error) {
    return std::unexpected<Error>(fail_errno(error, server.to_text())
                                      .error()
                                      .clone()
                                      .with_code(error == ETIMEDOUT ? Code::deadline_exceeded : Code::unavailable));
}

Result<Answer> ask_udp(const SocketAddress& server, const Question& question, const QueryOptions& options) {
    std::vector<std::uint8_t> buffer(max_message_bytes);
    for (unsigned attempt = 0; attempt < std::max(1U, options.tries); ++attempt) {
        // A new socket and id for each try: a late answer of the last one can't be taken for this one's.
        Fd socket = TRY(open_socket(server, SOCK_DGRAM));
        if (::connect(socket.get(), server.raw(), server.size) < 0) return unreachable(server, errno);
        std::uint16_t id = random_id();
        auto query = TRY(make_query(question, options, id));
        std::int64_t sent = monotonic_ns();
        if (::send(socket.get(), query.data(), query.size(), 0) < 0) return unreachable(server, errno);
        Deadline deadline = deadline_after(options.timeout);
        while (true) {
            auto ready = wait_for(socket.get(), POLLIN, deadline);
            if (!ready) {
                if (ready.error().code() == Code::deadline_exceeded) break;
                return std::unexpected<Error>(std::move(ready).error());
            }
            ssize_t count = ::recv(socket.get(), buffer.data(), buffer.size(), 0);
            if (count < 0) {
                if (errno == EAGAIN || errno == EINTR) continue;
                return unreachable(server, errno);
            }
            auto packet = std::span(buffer).first(static_cast<std::size_t>(count));
            if (!answers(packet, question, id)) continue;  // not ours: somebody guesses
            return Answer{.packet = {packet.begin(), packet.end()},
                          .server = server,
                          .transport = Transport::udp,
                          .time = std::chrono::nanoseconds(monotonic_ns() - sent)};
        }
    }
    return fail(Code::deadline_exceeded, server.to_text() + ": no answer in " +
                                             std::to_string(options.timeout.count() * std::max(1U, options.tries)) +
                                             " ms");
}

std::string tls_problem() {
    unsigned long code = ERR_get_error();
    std::array<char, 256> text{};
    ERR_error_string_n(code, text.data(), text.size());
    return code == 0 ? "connection ended" : text.data();
}

// A connection with or without TLS, non-blocking below, with a deadline above.
class Stream {
  public:
    static Result<Stream> open(const SocketAddress& server, const QueryOptions& options, Deadline deadline) {
        Stream stream;
        stream.socket_ = TRY(open_socket(server, SOCK_STREAM));
        const int on = 1;
        (void)::setsockopt(stream.socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (::connect(stream.socket_.get(), server.raw(), server.size) < 0) {
            if (errno != EINPROGRESS) return unreachable(server, errno);
            TRY(wait_for(stream.socket_.get(), POLLOUT, deadline), server.to_text());
            int problem = 0;
            socklen_t size = sizeof problem;
            if (::getsockopt(stream.socket_.get(), SOL_SOCKET, SO_ERROR, &problem, &size) == 0 && problem != 0)
                return unreachable(server, problem);
        }
        if (options.transport == Transport::tls) TRY(stream.start_tls(server, options, deadline));
        return stream;
    }

    Result<> write(std::span<const std::uint8_t> data, Deadline deadline) {
        while (!data.empty()) {
            ssize_t count = 0;
            if (tls_) {
                ERR_clear_error();
                count = SSL_write(tls_.get(), data.data(), static_cast<int>(data.size()));
                if (count <= 0) {
                    TRY(wait_tls(static_cast<int>(count), deadline));
                    continue;
                }
            } else {
                count = ::send(socket_.get(), data.data(), data.size(), MSG_NOSIGNAL);
                if (count < 0) {
                    if (errno != EAGAIN && errno != EINTR) return fail_errno("send");
                    TRY(wait_for(socket_.get(), POLLOUT, deadline));
                    continue;
                }
            }
            data = data.subspan(static_cast<std::size_t>(count));
        }
        return {};
    }

    Result<> read(std::span<std::uint8_t> data, Deadline deadline) {
        while (!data.empty()) {
            ssize_t count = 0;
            if (tls_) {
                ERR_clear_error();
                count = SSL_read(tls_.get(), data.data(), static_cast<int>(data.size()));
                if (count <= 0) {
                    TRY(wait_tls(static_cast<int>(count), deadline));
                    continue;
                }
            } else {
                count = ::recv(socket_.get(), data.data(), data.size(), 0);
                if (count == 0) return fail(Code::data_loss, "the server closed the connection");
                if (count < 0) {
                    if (errno != EAGAIN && errno != EINTR) return fail_errno("recv");
                    TRY(wait_for(socket_.get(), POLLIN, deadline));
                    continue;
                }
            }
            data = data.subspan(static_cast<std::size_t>(count));
        }
        return {};
    }

    // One message behind its length (RFC 1035 section 4.2.2).
    Result<> write_message(std::span<const std::uint8_t> message, Deadline deadline) {
        std::vector<std::uint8_t> framed(2 + message.size());
        store_u16(framed.data(), static_cast<std::uint16_t>(message.size()));
        std::ranges::copy(message, framed.begin() + 2);
        return write(framed, deadline);
    }
    Result<std::vector<std::uint8_t>> read_message(Deadline deadline) {
        std::array<std::uint8_t, 2> length{};
        TRY(read(length, deadline));
        std::vector<std::uint8_t> message(load_u16(length.data()));
        TRY(read(message, deadline));
        return message;
    }

  private:
    struct FreeContext {
        void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
    };
    struct FreeConnection {
        void operator()(SSL* connection) const { SSL_free(connection); }
    };

    Result<> start_tls(const SocketAddress& server, const QueryOptions& options, Deadline deadline) {
        context_.reset(SSL_CTX_new(TLS_client_method()));
        if (!context_) return fail(Code::internal, "TLS: " + tls_problem());
        SSL_CTX_set_min_proto_version(context_.get(), TLS1_2_VERSION);
        SSL_CTX_set_mode(context_.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        if (!options.tls_name.empty()) {
            SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
            if (options.tls_authorities.empty()) {
                SSL_CTX_set_default_verify_paths(context_.get());
            } else if (SSL_CTX_load_verify_locations(context_.get(), options.tls_authorities.c_str(), nullptr) != 1) {
                return fail(Code::invalid_argument, options.tls_authorities + ": no certificates: " + tls_problem());
            }
        }
        tls_.reset(SSL_new(context_.get()));
        if (!tls_ || SSL_set_fd(tls_.get(), socket_.get()) != 1) return fail(Code::internal, "TLS: " + tls_problem());
        constexpr std::array<unsigned char, 4> protocols = {3, 'd', 'o', 't'};  // RFC 7858's ALPN name
        SSL_set_alpn_protos(tls_.get(), protocols.data(), protocols.size());
        if (!options.tls_name.empty()) {
            SSL_set_tlsext_host_name(tls_.get(), options.tls_name.c_str());
            SSL_set1_host(tls_.get(), options.tls_name.c_str());
        }
        while (true) {
            ERR_clear_error();
            int done = SSL_connect(tls_.get());
            if (done == 1) return {};
            if (long verdict = SSL_get_verify_result(tls_.get()); !options.tls_name.empty() && verdict != X509_V_OK)
                return fail(Code::unauthenticated, server.to_text() + ": certificate for " + options.tls_name + ": " +
                                                       X509_verify_cert_error_string(verdict));
            TRY(wait_tls(done, deadline), server.to_text() + ": TLS");
        }
    }

    Result<> wait_tls(int returned, Deadline deadline) {
        switch (SSL_get_error(tls_.get(), returned)) {
            case SSL_ERROR_WANT_READ:
                return wait_for(socket_.get(), POLLIN, deadline);
            case SSL_ERROR_WANT_WRITE:
                return wait_for(socket_.get(), POLLOUT, deadline);
            default:
                return fail(Code::data_loss, tls_problem());
        }
    }

    Fd socket_;
    std::unique_ptr<SSL_CTX, FreeContext> context_;
    std::unique_ptr<SSL, FreeConnection> tls_;
};

Transport stream_transport(const QueryOptions& options) {
    return options.transport == Transport::tls ? Transport::tls : Transport::tcp;
}

Result<Answer> ask_stream(const SocketAddress& server, const Question& question, const QueryOptions& options) {
    Deadline deadline = deadline_after(options.timeout);
    Stream stream = TRY(Stream::open(server, options, deadline));
    std::uint16_t id = random_id();
    auto query = TRY(make_query(question, options, id));
    std::int64_t sent = monotonic_ns();
    TRY(stream.write_message(query, deadline), server.to_text());
    auto packet = TRY(stream.read_message(deadline), server.to_text());
    if (!answers(packet, question, id)) return fail(Code::data_loss, server.to_text() + ": not an answer to the query");
    return Answer{.packet = std::move(packet),
                  .server = server,
                  .transport = stream_transport(options),
                  .time = std::chrono::nanoseconds(monotonic_ns() - sent)};
}

}  // namespace

Result<Answer> ask(const SocketAddress& server, const Question& question, const QueryOptions& options) {
    if (options.transport != Transport::udp) return ask_stream(server, question, options);
    Answer answer = TRY(ask_udp(server, question, options));
    auto reader = MessageReader::open(answer.packet);
    if (!reader || !reader->header().truncated || options.stay_with_udp) return answer;
    QueryOptions again = options;
    again.transport = Transport::tcp;
    return ask_stream(server, question, again);
}

Result<std::vector<Answer>> transfer(const SocketAddress& server, const Name& zone, const QueryOptions& options) {
    QueryOptions own = options;
    if (own.transport == Transport::udp) own.transport = Transport::tcp;
    Deadline deadline = deadline_after(own.timeout);
    Stream stream = TRY(Stream::open(server, own, deadline));
    Question question{.name = zone, .type = Type::AXFR};
    std::uint16_t id = random_id();
    own.recursion_desired = false;
    TRY(stream.write_message(TRY(make_query(question, own, id)), deadline), server.to_text());
    std::vector<Answer> messages;
    unsigned start_marks = 0;
    while (start_marks < 2) {
        std::int64_t began = monotonic_ns();
        // Each message has the whole time: a large zone takes long, a silent server does not.
        auto packet = TRY(stream.read_message(deadline_after(own.timeout)), server.to_text());
        auto reader = TRY(MessageReader::open(packet), server.to_text());
        if (!reader.header().response || reader.header().id != id)
            return fail(Code::data_loss, server.to_text() + ": not a part of the transfer");
        bool refused = reader.header().rcode != 0;
        for (unsigned i = 0; i < reader.header().questions; ++i) TRY(reader.read_question(), server.to_text());
        for (unsigned i = 0; i < reader.header().answers && start_marks < 2; ++i) {
            RecordView record = TRY(reader.read_record(), server.to_text());
            if (record.type == Type::SOA)
                ++start_marks;
            else if (start_marks == 0)
                return fail(Code::data_loss, server.to_text() + ": the transfer does not begin with a SOA");
        }
        if (reader.header().answers == 0 && !refused)
            return fail(Code::data_loss, server.to_text() + ": an empty message");
        messages.push_back({.packet = std::move(packet),
                            .server = server,
                            .transport = own.transport,
                            .time = std::chrono::nanoseconds(monotonic_ns() - began)});
        if (refused) break;
    }
    return messages;
}

}  // namespace wherry::dns::tools
