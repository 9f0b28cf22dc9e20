#include "supervisor/frame.hpp"

namespace wherry::supervisor {

void put_u32(char* target, std::uint32_t value) {
    for (unsigned i = 0; i < 4; ++i) target[i] = static_cast<char>(value >> (24U - 8U * i));
}

std::uint32_t get_u32(const char* source) {
    std::uint32_t value = 0;
    for (unsigned i = 0; i < 4; ++i) value = (value << 8U) | static_cast<unsigned char>(source[i]);
    return value;
}

Result<std::string> encode_frame(std::string_view payload) {
    if (payload.size() > max_frame_bytes)
        return fail(Code::resource_exhausted, "message of " + std::to_string(payload.size()) + " bytes is too large");
    std::string frame(frame_header_bytes + payload.size(), '\0');
    put_u32(frame.data(), static_cast<std::uint32_t>(payload.size()));
    payload.copy(frame.data() + frame_header_bytes, payload.size());
    return frame;
}

Result<> FrameDecoder::feed(std::string_view bytes) {
    buffer_.append(bytes);
    if (buffer_.size() >= frame_header_bytes && get_u32(buffer_.data()) > max_frame_bytes)
        return fail(Code::resource_exhausted, "frame is too large");
    return {};
}

std::optional<std::string> FrameDecoder::next() {
    if (buffer_.size() < frame_header_bytes) return std::nullopt;
    std::size_t length = get_u32(buffer_.data());
    // A length that feed() has not seen at the front yet is refused by the next feed(); it is never waited for here.
    if (buffer_.size() - frame_header_bytes < length) return std::nullopt;
    std::string payload = buffer_.substr(frame_header_bytes, length);
    buffer_.erase(0, frame_header_bytes + length);
    if (buffer_.empty()) std::string().swap(buffer_);
    return payload;
}

std::string FrameDecoder::take_rest() {
    return std::exchange(buffer_, {});
}

Result<Message> parse_message(std::string_view payload) {
    json::object object = TRY(parse_json_object(payload));
    Message message;
    {
        JsonReader reader(object);
        message.id = TRY(reader.unsigned_integer("id")).value_or(0);
        message.fd_count = TRY(reader.unsigned_integer("fds")).value_or(0);
        if (message.fd_count > max_message_fds) return reader.wrong("fds", "a smaller number");
        std::string_view body_key;
        if (reader.has("method")) {
            message.kind = Message::Kind::request;
            message.name = TRY(reader.required_string("method"));
            body_key = "params";
        } else if (reader.has("event")) {
            message.kind = Message::Kind::event;
            message.name = TRY(reader.required_string("event"));
            body_key = "params";
        } else if (reader.has("error")) {
            message.kind = Message::Kind::failure;
            body_key = "error";
        } else if (reader.has("result")) {
            message.kind = Message::Kind::answer;
            body_key = "result";
        } else {
            return fail(Code::invalid_argument, "neither a request, an answer nor an event");
        }
        json::value* body = object.if_contains(body_key);
        if (body != nullptr && !body->is_null()) {
            if (!body->is_object()) return reader.wrong(body_key, "an object");
            message.body = std::move(body->get_object());
        }
    }
    return message;
}

namespace {

// Answers larger than a frame can't happen with the limits on containers and execs; if one does, the caller is told.
std::string frame_of(json::object object, std::uint64_t id) {
    auto frame = encode_frame(to_json(std::move(object)));
    if (frame) return std::move(*frame);
    return encode_failure(id, frame.error());
}

}  // namespace

std::string encode_request(std::uint64_t id, std::string_view method, json::object params, std::size_t fd_count) {
    json::object object;
    object.emplace("id", id);
    object.emplace("method", json::string(method));
    object.emplace("params", std::move(params));
    if (fd_count != 0) object.emplace("fds", fd_count);
    auto frame = encode_frame(to_json(std::move(object)));
    return frame ? std::move(*frame) : std::string();
}

std::string encode_answer(std::uint64_t id, json::object result) {
    json::object object;
    object.emplace("id", id);
    object.emplace("result", std::move(result));
    return frame_of(std::move(object), id);
}

std::string encode_failure(std::uint64_t id, const Error& error) {
    json::object object;
    object.emplace("id", id);
    object.emplace("error", error_to_json(error));
    return encode_frame(to_json(std::move(object))).value_or(std::string());
}

std::string encode_event(std::string_view name, json::object params) {
    json::object object;
    object.emplace("event", json::string(name));
    object.emplace("params", std::move(params));
    return encode_frame(to_json(std::move(object))).value_or(std::string());
}

void put_stream_header(char* target, StreamFrame kind, std::uint32_t length) {
    target[0] = static_cast<char>(kind);
    target[1] = target[2] = target[3] = 0;
    put_u32(target + 4, length);
}

Result<StreamHeader> parse_stream_header(std::string_view bytes) {
    if (bytes.size() < stream_header_bytes) return fail(Code::invalid_argument, "short stream header");
    if (bytes[1] != 0 || bytes[2] != 0 || bytes[3] != 0) return fail(Code::invalid_argument, "damaged stream header");
    StreamHeader header{static_cast<std::uint8_t>(bytes[0]), get_u32(bytes.data() + 4)};
    if (header.length > max_stream_payload_bytes) return fail(Code::invalid_argument, "stream frame is too large");
    return header;
}

}  // namespace wherry::supervisor
