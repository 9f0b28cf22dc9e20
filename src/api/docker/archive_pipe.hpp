// Archives between an HTTP body and a descriptor the engine reads or writes on a thread of its own. Room-internal.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <memory>
#include <string>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "http/server.hpp"

namespace wherry::api::docker {

namespace asio = boost::asio;

// The daemon's end of a pipe, on the event loop. The other end is the engine's, and blocking.
class ArchivePipe {
  public:
    enum class Direction : unsigned char { to_engine, from_engine };
    static Result<ArchivePipe> create(const asio::any_io_executor& executor, Direction direction);
    ArchivePipe(ArchivePipe&&) noexcept;
    ArchivePipe& operator=(ArchivePipe&&) noexcept;
    ~ArchivePipe();

    Fd take_engine_end();
    // The request's body to the engine, to its end. When the body breaks off, the engine's reads end with ECONNRESET,
    // never with an end of file: half an archive is not taken for a whole one. unavailable when the engine closed its
    // end.
    asio::awaitable<Result<>> send_body(http::Exchange& exchange);
    // What the engine wrote, at most 64 KiB; empty at the end.
    asio::awaitable<Result<std::string>> read_some();
    void close();

  private:
    struct State;
    explicit ArchivePipe(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace wherry::api::docker
