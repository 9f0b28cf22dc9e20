#include "http/websocket.hpp"

#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <optional>

#include "base/encoding.hpp"

namespace wherry::http {
namespace {

constexpr std::size_t largest_control_bytes = 125;  // section 5.5
constexpr std::uint8_t final_bit = 0x80;
constexpr std::uint8_t mask_bit = 0x80;

std::uint8_t as_uint8(std::byte byte) {
    return static_cast<std::uint8_t>(byte);
}

bool is_control(WebsocketOpcode opcode) {
    return static_cast<std::uint8_t>(opcode) >= 8;
}

std::unexpected<Error> broken(const char* how) {
    return fail(Code::invalid_argument, std::string("websocket: ") + how);
}

}  // namespace

std::string websocket_accept(std::string_view key) {
    std::string text(key);
    text += "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    std::array<char, SHA_DIGEST_LENGTH> digest{};
    // SAFETY: chars as the unsigned ones OpenSSL takes.
    SHA1(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
    return base64_encode({digest.data(), digest.size()});
}

Result<> check_websocket_request(const Request& request) {
    if (!request.headers.lists("Connection", "upgrade") || !request.headers.lists("Upgrade", "websocket"))
        return fail(Code::invalid_argument, "this needs a WebSocket connection (Upgrade: websocket)");
    if (request.headers.get("Sec-WebSocket-Version") != "13")
        return fail(Code::invalid_argument, "WebSocket version 13 is needed");
    const auto key = base64_decode(request.headers.get("Sec-WebSocket-Key"));
    if (!key || key->size() != 16) return fail(Code::invalid_argument, "Sec-WebSocket-Key must be 16 bytes in base64");
    return {};
}

void append_websocket_head(std::string& out, WebsocketOpcode opcode, std::uint64_t size) {
    out += static_cast<char>(final_bit | static_cast<std::uint8_t>(opcode));
    int bytes = 0;
    if (size <= largest_control_bytes) {
        out += static_cast<char>(size);
    } else if (size <= 0xffff) {
        out += static_cast<char>(126);
        bytes = 2;
    } else {
        out += static_cast<char>(127);
        bytes = 8;
    }
    while (bytes-- > 0) out += static_cast<char>(size >> (8U * static_cast<unsigned>(bytes)));
}

// 0: not all of the head is there.
Result<std::size_t> WebsocketReader::read_head(std::span<const std::byte> input) {
    if (input.size() < 2) return 0;
    const std::uint8_t first = as_uint8(input[0]);
    const std::uint8_t second = as_uint8(input[1]);
    const bool is_final = (first & final_bit) != 0;
    if ((first & 0x70U) != 0) return broken("reserved bits are set");
    if ((second & mask_bit) == 0) return broken("a client's frame must be masked");
    const auto opcode = static_cast<WebsocketOpcode>(first & 0x0fU);
    std::uint64_t size = second & 0x7fU;
    if (is_control(opcode)) {
        if (opcode > WebsocketOpcode::pong) return broken("unknown opcode");
        if (!is_final || size > largest_control_bytes) return broken("a control frame is long or in fragments");
    } else if (opcode == WebsocketOpcode::continuation) {
        if (!message_open_) return broken("a continuation of nothing");
    } else {
        if (opcode > WebsocketOpcode::binary) return broken("unknown opcode");
        if (message_open_) return broken("a message begins inside of another");
    }
    std::size_t at = 2;
    const std::size_t length_bytes = size == 126 ? 2 : size == 127 ? 8 : 0;
    if (input.size() < at + length_bytes + mask_.size()) return 0;
    if (length_bytes > 0) {
        size = 0;
        for (std::size_t i = 0; i < length_bytes; ++i) size = (size << 8U) | as_uint8(input[at + i]);
        at += length_bytes;
        if ((size >> 63U) != 0) return broken("a length over 63 bits");
        if (size <= largest_control_bytes || (length_bytes == 8 && size <= 0xffff))
            return broken("a length in too many bytes");
    }
    std::copy_n(input.begin() + static_cast<std::ptrdiff_t>(at), mask_.size(), mask_.begin());
    at += mask_.size();
    mask_position_ = 0;
    left_ = size;
    opcode_ = opcode;
    in_payload_ = true;
    if (is_control(opcode))
        control_.clear();
    else
        message_open_ = !is_final;
    return at;
}

Result<WebsocketReader::Step> WebsocketReader::read(std::span<const std::byte> input, std::span<std::byte> out) {
    Step step;
    if (!in_payload_) {
        step.consumed = TRY(read_head(input));
        if (step.consumed == 0) return step;
        input = input.subspan(step.consumed);
    }
    const bool control = is_control(opcode_);
    std::size_t count = std::min<std::uint64_t>(left_, input.size());
    if (!control) count = std::min(count, out.size());
    for (std::size_t i = 0; i < count; ++i) {
        const std::byte byte = input[i] ^ mask_[mask_position_++ % mask_.size()];
        if (control)
            control_ += static_cast<char>(byte);
        else
            out[i] = byte;
    }
    step.consumed += count;
    if (!control) step.produced = count;
    left_ -= count;
    if (left_ > 0) return step;
    in_payload_ = false;
    if (opcode_ == WebsocketOpcode::ping) step.event = Event::ping;
    if (opcode_ == WebsocketOpcode::close) step.event = Event::close;
    return step;
}

namespace {

class WebsocketStream final : public Stream {
  public:
    explicit WebsocketStream(std::unique_ptr<Stream> below) : below_(std::move(below)) {}

    asio::awaitable<Result<std::size_t>> read_some(std::span<std::byte> buffer) override {
        while (!ended_) {
            const auto waiting = std::as_bytes(std::span(input_)).subspan(input_offset_);
            auto step = reader_.read(waiting, buffer);
            if (!step) {
                ended_ = true;
                // The client hears why; whether that arrives changes nothing.
                static_cast<void>(co_await send_close(WebsocketClose::protocol_error));
                co_return std::unexpected(std::move(step).error());
            }
            input_offset_ += step->consumed;
            if (step->event == WebsocketReader::Event::ping) {
                CO_CHECK(co_await send(WebsocketOpcode::pong, reader_.control()));
            } else if (step->event == WebsocketReader::Event::close) {
                ended_ = true;
                break;
            }
            if (step->produced > 0) co_return step->produced;
            if (step->consumed > 0) continue;
            input_.erase(0, input_offset_);
            input_offset_ = 0;
            std::array<std::byte, 16384> piece;
            CO_TRY(const std::size_t count, co_await below_->read_some(piece));
            if (count == 0) {
                ended_ = true;
                break;
            }
            // SAFETY: bytes as chars.
            input_.append(reinterpret_cast<const char*>(piece.data()), count);
        }
        co_return std::size_t{0};
    }

    asio::awaitable<Result<>> write(std::string_view data) override {
        if (data.empty()) co_return Result<>{};
        co_return co_await send(WebsocketOpcode::binary, data);
    }

    asio::awaitable<Result<>> shutdown_write() override {
        CO_CHECK(co_await send_close(WebsocketClose::normal));
        co_return co_await below_->shutdown_write();
    }

    // A close frame is the client's last word: that is being gone altogether.
    asio::awaitable<Result<>> wait_closed() override { co_return Result<>{}; }
    void cancel() override { below_->cancel(); }
    void close() override { below_->close(); }
    int native_fd() const override { return -1; }

  private:
    asio::awaitable<Result<>> send_close(WebsocketClose code) {
        if (close_sent_) co_return Result<>{};
        close_sent_ = true;
        const auto number = static_cast<std::uint16_t>(code);
        const std::array<char, 2> payload = {static_cast<char>(number >> 8U), static_cast<char>(number)};
        co_return co_await send(WebsocketOpcode::close, std::string_view(payload.data(), payload.size()), true);
    }

    // One frame at a time: the reader's pongs come between the writer's messages, never inside one.
    asio::awaitable<Result<>> send(WebsocketOpcode opcode, std::string_view payload, bool last = false) {
        std::string frame;
        frame.reserve(payload.size() + 10);
        append_websocket_head(frame, opcode, payload.size());
        frame += payload;
        if (!free_) free_.emplace(co_await asio::this_coro::executor, asio::steady_timer::time_point::max());
        while (sending_) co_await free_->async_wait(asio::as_tuple(asio::use_awaitable));
        if (close_sent_ && !last) co_return Result<>{};  // nothing follows a close frame
        sending_ = true;
        auto result = co_await below_->write(frame);
        sending_ = false;
        free_->cancel();
        co_return result;
    }

    std::unique_ptr<Stream> below_;
    WebsocketReader reader_;
    std::string input_;
    std::size_t input_offset_ = 0;
    bool ended_ = false;
    bool close_sent_ = false;
    bool sending_ = false;
    std::optional<asio::steady_timer> free_;
};

}  // namespace

asio::awaitable<Result<std::unique_ptr<Stream>>> accept_websocket(Exchange& exchange) {
    CO_CHECK(check_websocket_request(exchange.request()));
    exchange.set_header("Sec-WebSocket-Accept", websocket_accept(exchange.request().headers.get("Sec-WebSocket-Key")));
    CO_TRY(auto below, co_await exchange.hijack({}));
    co_return make_websocket_stream(std::move(below));
}

std::unique_ptr<Stream> make_websocket_stream(std::unique_ptr<Stream> below) {
    return std::make_unique<WebsocketStream>(std::move(below));
}

}  // namespace wherry::http
