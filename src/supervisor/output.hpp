// The output of one process: reads its pipes or pty, writes the log, and feeds any number of clients, each at its own
// pace and from any offset.
//
// With a log, a client that is behind reads from the log file: it holds up nobody, and no byte is lost. Without one (an
// exec, or log driver none), what clients have not read waits in a bounded ring per stream, and a full ring stops
// reading from the process (back-pressure).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "supervisor/event_loop.hpp"
#include "supervisor/log_writer.hpp"
#include "supervisor/ring.hpp"

namespace wherry::supervisor {

// One reader of a process's output. The hub owns the bookkeeping; the implementation owns the transport.
class OutputClient {
  public:
    virtual ~OutputClient() = default;
    OutputClient() = default;
    OutputClient(const OutputClient&) = delete;
    OutputClient& operator=(const OutputClient&) = delete;

    virtual bool ready() const = 0;  // nothing unsent is waiting
    // Takes all of it; what the transport does not take at once makes it not ready.
    virtual void send_output(LogStream stream, std::string_view bytes) = 0;
    virtual void send_gap(LogStream stream, std::uint64_t lost_bytes) = 0;
    virtual void send_end() = 0;  // once; the hub forgets the client before

  private:
    friend class OutputHub;
    std::array<bool, 2> wants_{};
    StreamOffsets offsets_{};  // next byte it is to get; of an unwanted stream: ~0
    std::optional<LogCursor> cursor_;
};

struct OutputInterest {
    std::array<bool, 2> wanted{};
    std::array<std::optional<std::uint64_t>, 2> from;  // nullopt: from now on
};

class OutputHub : public std::enable_shared_from_this<OutputHub> {
  public:
    enum class WithoutClients : unsigned char { hold, discard };
    static constexpr std::size_t ring_bytes = 128U << 10U;
    static constexpr std::chrono::milliseconds leak_timeout{2000};

    // `scratch` is a read buffer shared by everything on the loop. `log` may be empty.
    OutputHub(EventLoop& loop, std::span<char> scratch, std::unique_ptr<LogWriter> log, WithoutClients policy);

    ~OutputHub();

    Result<> add_source(LogStream stream, Fd source);

    // Returns the offsets of the first bytes that will come.
    StreamOffsets add_client(OutputClient& client, const OutputInterest& interest);
    void remove_client(OutputClient& client);
    void client_ready(OutputClient& client);  // everything it was given is sent
    void discard();                           // from now on nothing is held for clients to come

    // The process is gone: reads what it left. `flushed` is called (not from within) once every stream has ended, or
    // leak_timeout has passed because somebody else still holds the pipe.
    void drain(std::function<void()> flushed);
    // Nobody will read on; streams end here.
    void close_sources();

    const StreamOffsets& totals() const { return totals_; }
    bool ended() const;
    LogWriter* log() { return log_.get(); }
    std::uint64_t log_entries() const { return log_ ? log_->entries() : 0; }
    // Called once, when the log has more than `after` entries or has ended. At the latest when the hub is destroyed.
    void wait_log(std::uint64_t after, std::function<void()> callback);

  private:
    struct Source {
        Fd fd;
        Watch watch;
        Ring ring{ring_bytes};
        bool open = false;
        bool paused = false;
    };
    struct LogWaiter {
        std::uint64_t after;
        std::function<void()> callback;
    };
    enum class ReadOutcome : unsigned char { data, nothing, blocked, end };

    ReadOutcome read_source(std::size_t index);
    void on_readable(std::size_t index);
    void end_source(std::size_t index);
    void distribute(std::size_t index, std::string_view bytes);
    void pump(OutputClient& client);
    bool pump_log(OutputClient& client);
    bool pump_rings(OutputClient& client);
    bool caught_up(const OutputClient& client) const;
    bool must_keep(std::size_t index) const;
    void release_ring(std::size_t index);
    void finish_clients();
    void notify_log_waiters();
    void finish_drain();

    EventLoop& loop_;
    std::span<char> scratch_;
    std::unique_ptr<LogWriter> log_;
    WithoutClients policy_;
    std::array<Source, 2> sources_;
    StreamOffsets totals_{};
    std::vector<OutputClient*> clients_;
    std::vector<LogWaiter> log_waiters_;
    Timer leak_timer_;
    std::function<void()> flushed_;
};

}  // namespace wherry::supervisor
