// Connections of a supervisor: control connections that carry messages, and stdio streams.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "supervisor/event_loop.hpp"
#include "supervisor/frame.hpp"
#include "supervisor/input.hpp"
#include "supervisor/output.hpp"

namespace wherry::supervisor {

// Bytes that wait for a stream socket to take them.
class SendQueue {
  public:
    bool empty() const { return sent_ == bytes_.size(); }
    std::size_t size() const { return bytes_.size() - sent_; }
    void append(std::string_view bytes) { bytes_.append(bytes); }
    // Sends what the socket takes. False: the connection is broken.
    bool flush(int socket);

  private:
    std::string bytes_;
    std::size_t sent_ = 0;
};

class ControlConnection;

// Who answers the messages of control connections.
class MessageHandler {
  public:
    virtual ~MessageHandler() = default;
    virtual void on_message(ControlConnection& connection, Message message, std::vector<Fd> fds) = 0;
    virtual void on_closed(ControlConnection& connection) = 0;
};

class ControlConnection {
  public:
    // A peer that sends this much without reading its answers is cut off.
    static constexpr std::size_t max_unsent_bytes = 16U << 20U;

    static Result<std::unique_ptr<ControlConnection>> create(EventLoop& loop, MessageHandler& handler,
                                                             std::span<char> scratch, Fd socket, std::uint64_t id);

    std::uint64_t id() const { return id_; }
    void send(std::string_view frame);
    bool subscribed = false;
    bool greeted = false;
    bool closed() const { return closed_; }
    // Gives the socket away: what follows on it is no message. `rest` are bytes received already.
    Fd release(std::string& rest);

  private:
    ControlConnection(MessageHandler& handler, std::span<char> scratch, Fd socket, std::uint64_t id)
        : handler_(handler), scratch_(scratch), socket_(std::move(socket)), id_(id) {}
    void on_events(std::uint32_t events);
    void receive();
    void deliver();
    void close();

    MessageHandler& handler_;
    std::span<char> scratch_;
    Fd socket_;
    Watch watch_;
    std::uint64_t id_;
    FrameDecoder decoder_;
    std::deque<Fd> fds_;
    SendQueue unsent_;
    bool closed_ = false;
};

class StreamConnection final : public OutputClient {
  public:
    using ClosedCallback = std::function<void(StreamConnection&)>;

    static Result<std::unique_ptr<StreamConnection>> create(EventLoop& loop, std::span<char> scratch, Fd socket,
                                                            std::shared_ptr<OutputHub> hub,
                                                            std::shared_ptr<InputSink> input, ClosedCallback closed);
    ~StreamConnection() override;

    // The answer to the request goes first. With no output wanted the hub is left alone.
    StreamOffsets begin(const OutputInterest& interest);
    void send_raw(std::string_view bytes);       // before any frame
    void take_received(std::string_view bytes);  // bytes that came behind the request

    bool output_pending() const { return !closed_ && (!output_ended_ || !unsent_.empty()); }

    bool ready() const override { return unsent_.empty() && !closed_; }
    void send_output(LogStream stream, std::string_view bytes) override;
    void send_gap(LogStream stream, std::uint64_t lost_bytes) override;
    void send_end() override;

  private:
    StreamConnection(EventLoop& loop, std::span<char> scratch, Fd socket, std::shared_ptr<OutputHub> hub,
                     std::shared_ptr<InputSink> input, ClosedCallback closed);
    void on_events(std::uint32_t events);
    void receive(std::uint32_t events);
    bool parse(std::string_view bytes);
    void watch_socket();
    void update_interest();
    void flushed();
    void close();
    void send_frame(StreamFrame kind, std::string_view payload);

    EventLoop& loop_;
    std::span<char> scratch_;
    Fd socket_;
    Watch watch_;
    std::shared_ptr<OutputHub> hub_;
    std::shared_ptr<InputSink> input_;
    ClosedCallback closed_callback_;
    std::shared_ptr<const bool> alive_ = std::make_shared<const bool>(true);
    SendQueue unsent_;
    std::string header_;           // of the frame that is being received
    std::uint32_t remaining_ = 0;  // of its payload
    std::uint8_t kind_ = 0;
    bool input_paused_ = false;
    bool input_ended_ = false;
    bool peer_finished_ = false;  // it sends nothing any more
    bool output_ended_ = false;
    bool closed_ = false;
};

}  // namespace wherry::supervisor
