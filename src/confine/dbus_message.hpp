// D-Bus messages as bytes (D-Bus specification, "Message Protocol"), as much of them as talking to systemd takes.
// Internal to the room.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::confine::dbus {

inline constexpr std::size_t message_limit = 1U << 20U;

// Little-endian marshalling with D-Bus's alignment, which counts from the start of the message (or body: both are
// multiples of 8).
class Writer {
  public:
    void align(std::size_t to) { bytes_.resize((bytes_.size() + to - 1) / to * to, '\0'); }
    void byte(std::uint8_t value) { bytes_ += static_cast<char>(value); }
    void u32(std::uint32_t value) { number(value, 4); }
    void u64(std::uint64_t value) { number(value, 8); }
    void boolean(bool value) { u32(value ? 1 : 0); }
    void string(std::string_view text);     // also an object path
    void signature(std::string_view text);  // also the type of a variant
    // An array: begin, its elements, end(begin's value). `alignment` is that of an element.
    struct Array {
        std::size_t length_at;
        std::size_t start;
    };
    Array begin_array(std::size_t alignment);
    void end_array(Array array);
    const std::string& bytes() const { return bytes_; }

  private:
    void number(std::uint64_t value, std::size_t size);
    std::string bytes_;
};

// Every step is checked: false from then on when something does not fit.
class Reader {
  public:
    Reader(std::string_view bytes, bool big_endian) : bytes_(bytes), big_endian_(big_endian) {}
    bool align(std::size_t to);
    std::optional<std::uint8_t> byte();
    std::optional<std::uint32_t> u32();
    std::optional<std::string_view> string();
    std::optional<std::string_view> signature();
    std::size_t position() const { return at_; }
    bool skip(std::size_t count);

  private:
    std::string_view bytes_;
    std::size_t at_ = 0;
    bool big_endian_;
};

enum class MessageType : std::uint8_t { invalid = 0, method_call = 1, method_return = 2, error = 3, signal = 4 };

struct Message {
    MessageType type = MessageType::invalid;
    bool big_endian = false;
    std::uint32_t serial = 0;
    std::uint32_t reply_serial = 0;
    std::string path, interface, member, error_name, signature, body;
};

std::string method_call(std::uint32_t serial, std::string_view destination, std::string_view path,
                        std::string_view interface, std::string_view member, std::string_view signature,
                        std::string_view body);

// The length of the message that begins here; nullopt: not enough bytes to tell. invalid: data_loss.
Result<std::optional<std::size_t>> message_length(std::string_view bytes);
// One whole message. data_loss when its parts do not fit together.
Result<Message> parse_message(std::string_view bytes);

}  // namespace wherry::confine::dbus
