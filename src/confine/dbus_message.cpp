#include "confine/dbus_message.hpp"

namespace wherry::confine::dbus {

namespace {

constexpr std::size_t fixed_header = 16;  // up to and with the length of the array of fields

enum Field : std::uint8_t {
    path = 1,
    interface = 2,
    member = 3,
    error_name = 4,
    reply_serial = 5,
    destination = 6,
    signature = 8
};

void field(Writer& out, Field code, std::string_view type, std::string_view value) {
    if (value.empty()) return;
    out.align(8);
    out.byte(code);
    out.signature(type);
    if (type == "g") {
        out.signature(value);
    } else {
        out.string(value);
    }
}

std::unexpected<Error> damaged(const char* what) {
    return fail(Code::data_loss, std::string("D-Bus message: ") + what);
}

}  // namespace

void Writer::number(std::uint64_t value, std::size_t size) {
    align(size);
    for (std::size_t i = 0; i < size; ++i) bytes_ += static_cast<char>(value >> (8 * i) & 0xffU);
}

void Writer::string(std::string_view text) {
    u32(static_cast<std::uint32_t>(text.size()));
    bytes_ += text;
    bytes_ += '\0';
}

void Writer::signature(std::string_view text) {
    byte(static_cast<std::uint8_t>(text.size()));
    bytes_ += text;
    bytes_ += '\0';
}

Writer::Array Writer::begin_array(std::size_t alignment) {
    u32(0);
    std::size_t length_at = bytes_.size() - 4;
    align(alignment);
    return {length_at, bytes_.size()};
}

void Writer::end_array(Array array) {
    std::size_t length = bytes_.size() - array.start;
    for (std::size_t i = 0; i < 4; ++i) bytes_[array.length_at + i] = static_cast<char>(length >> (8 * i) & 0xffU);
}

bool Reader::align(std::size_t to) {
    std::size_t aligned = (at_ + to - 1) / to * to;
    if (aligned > bytes_.size()) return false;
    at_ = aligned;
    return true;
}

bool Reader::skip(std::size_t count) {
    if (count > bytes_.size() - at_) return false;
    at_ += count;
    return true;
}

std::optional<std::uint8_t> Reader::byte() {
    if (at_ >= bytes_.size()) return std::nullopt;
    return static_cast<std::uint8_t>(bytes_[at_++]);
}

std::optional<std::uint32_t> Reader::u32() {
    if (!align(4) || bytes_.size() - at_ < 4) return std::nullopt;
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < 4; ++i) {
        auto part = static_cast<std::uint32_t>(static_cast<std::uint8_t>(bytes_[at_ + i]));
        value |= part << (8 * (big_endian_ ? 3 - i : i));
    }
    at_ += 4;
    return value;
}

std::optional<std::string_view> Reader::string() {
    auto length = u32();
    if (!length || *length >= bytes_.size() - at_) return std::nullopt;
    std::string_view text = bytes_.substr(at_, *length);
    if (bytes_[at_ + *length] != '\0' || text.find('\0') != std::string_view::npos) return std::nullopt;
    at_ += *length + 1;
    return text;
}

std::optional<std::string_view> Reader::signature() {
    auto length = byte();
    if (!length || *length >= bytes_.size() - at_) return std::nullopt;
    std::string_view text = bytes_.substr(at_, *length);
    if (bytes_[at_ + *length] != '\0') return std::nullopt;
    at_ += *length + 1U;
    return text;
}

std::string method_call(std::uint32_t serial, std::string_view destination_name, std::string_view object,
                        std::string_view interface_name, std::string_view member_name, std::string_view body_signature,
                        std::string_view body) {
    Writer out;
    out.byte('l');  // little endian
    out.byte(static_cast<std::uint8_t>(MessageType::method_call));
    out.byte(0);  // flags
    out.byte(1);  // protocol version
    out.u32(static_cast<std::uint32_t>(body.size()));
    out.u32(serial);
    Writer::Array fields = out.begin_array(8);
    field(out, path, "o", object);
    field(out, interface, "s", interface_name);
    field(out, member, "s", member_name);
    field(out, destination, "s", destination_name);
    field(out, signature, "g", body_signature);
    out.end_array(fields);
    out.align(8);
    return out.bytes() + std::string(body);
}

Result<std::optional<std::size_t>> message_length(std::string_view bytes) {
    if (bytes.size() < fixed_header) return std::nullopt;
    if (bytes[0] != 'l' && bytes[0] != 'B') return damaged("no byte order");
    if (bytes[3] != 1) return damaged("another protocol version");
    Reader reader(bytes.substr(0, fixed_header), bytes[0] == 'B');
    reader.skip(4);
    std::size_t body = reader.u32().value_or(0);
    reader.u32();
    std::size_t fields = reader.u32().value_or(0);
    if (body > message_limit || fields > message_limit) return damaged("too long");
    return fixed_header + (fields + 7) / 8 * 8 + body;
}

Result<Message> parse_message(std::string_view bytes) {
    auto length = TRY(message_length(bytes));
    if (!length || *length != bytes.size()) return damaged("cut");
    Message message;
    message.big_endian = bytes[0] == 'B';
    auto type = static_cast<std::uint8_t>(bytes[1]);
    if (type >= 1 && type <= 4) message.type = static_cast<MessageType>(type);
    Reader reader(bytes, message.big_endian);
    reader.skip(4);
    std::size_t body = reader.u32().value_or(0);
    message.serial = reader.u32().value_or(0);
    std::size_t fields_end = fixed_header + reader.u32().value_or(0);
    while (reader.position() < fields_end) {
        if (!reader.align(8)) return damaged("fields");
        auto code = reader.byte();
        auto kind = reader.signature();
        if (!code || !kind) return damaged("field");
        if (*kind == "u") {
            auto number = reader.u32();
            if (!number) return damaged("field");
            if (*code == reply_serial) message.reply_serial = *number;
            continue;
        }
        std::optional<std::string_view> text;
        if (*kind == "s" || *kind == "o") text = reader.string();
        if (*kind == "g") text = reader.signature();
        if (!text) return damaged("field of an unknown type");
        switch (*code) {
            case path:
                message.path = *text;
                break;
            case interface:
                message.interface = *text;
                break;
            case member:
                message.member = *text;
                break;
            case error_name:
                message.error_name = *text;
                break;
            case signature:
                message.signature = *text;
                break;
            default:
                break;
        }
    }
    if (reader.position() != fields_end) return damaged("fields");
    message.body = bytes.substr(bytes.size() - body);
    return message;
}

}  // namespace wherry::confine::dbus
