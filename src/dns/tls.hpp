// DNS over TLS (RFC 7858) on memory buffers: bytes from the socket in, plain bytes out, and the other way. OpenSSL is
// seen by tls.cpp alone.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "dns/rdata.hpp"

namespace wherry::dns {

// A certificate chain and its key; TLS 1.2 and later. Can be loaded again while connections go on.
class TlsContext {
  public:
    static Result<std::shared_ptr<TlsContext>> create(const std::string& certificate_path, const std::string& key_path);
    Result<> reload(const std::string& certificate_path, const std::string& key_path);

    class Session;
    Result<std::unique_ptr<Session>> accept() const;

  private:
    struct Native;
    TlsContext() = default;
    mutable std::mutex lock_;
    std::shared_ptr<Native> native_;
};

// One connection, server side. Not thread-safe.
class TlsContext::Session {
  public:
    ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    // Bytes of the socket; what they decrypt to is added to `plain`. False: the connection is broken.
    bool receive(std::span<const std::uint8_t> bytes, Bytes& plain);
    bool send(std::span<const std::uint8_t> plain);
    // What is to be written to the socket is added to `out`.
    void take_output(Bytes& out);
    bool ended() const { return ended_; }  // the client said close_notify

  private:
    friend class TlsContext;
    struct Native;
    explicit Session(std::unique_ptr<Native> native);
    std::unique_ptr<Native> native_;
    bool ended_ = false;
};

}  // namespace wherry::dns
