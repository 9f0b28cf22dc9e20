// The standard input of one process: what its clients send, in order, into its pipe or terminal, with back-pressure.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "supervisor/event_loop.hpp"

namespace wherry::supervisor {

class InputSink : public std::enable_shared_from_this<InputSink> {
  public:
    static constexpr std::size_t high_water_bytes = 64U << 10U;

    // `once`: the first client that leaves ends the input. A terminal is never closed by an end of input.
    enum class Kind : unsigned char { pipe, terminal };
    InputSink(EventLoop& loop, Kind kind, bool once) : loop_(loop), kind_(kind), once_(once) {}

    // What is queued before goes first.
    Result<> open(Fd target);
    void write(std::string_view bytes);  // takes all; callers stop at full()
    bool full() const { return queue_.size() - sent_ >= high_water_bytes; }
    // Called once, when it is no longer full.
    void when_writable(std::function<void()> callback) { waiting_.push_back(std::move(callback)); }
    void end();  // closes once everything is written
    void client_left();
    void close();  // at once: the process is gone

  private:
    void flush();
    void wake();

    EventLoop& loop_;
    Kind kind_;
    bool once_;
    bool ending_ = false;
    bool closed_ = false;
    Fd target_;
    Watch watch_;
    std::string queue_;
    std::size_t sent_ = 0;
    std::vector<std::function<void()>> waiting_;
};

}  // namespace wherry::supervisor
