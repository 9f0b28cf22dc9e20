#include "api/containerd/ttrpc.hpp"

namespace wherry::api::containerd {

namespace {

std::uint32_t read_u32(std::string_view bytes) {
    std::uint32_t value = 0;
    for (char byte : bytes.substr(0, 4)) value = (value << 8U) | static_cast<unsigned char>(byte);
    return value;
}

void append_u32(std::string& out, std::uint32_t value) {
    for (unsigned shift : {24U, 16U, 8U, 0U}) out += static_cast<char>((value >> shift) & 0xFFU);
}

}  // namespace

void TtrpcDecoder::compact() {
    if (begin_ == buffer_.size()) {
        // Idle shims keep no buffer.
        std::string().swap(buffer_);
        begin_ = 0;
    } else if (begin_ > (64U << 10U)) {
        buffer_.erase(0, begin_);
        begin_ = 0;
    }
}

Result<std::optional<TtrpcFrame>> TtrpcDecoder::next() {
    std::string_view rest = std::string_view(buffer_).substr(begin_);
    if (rest.size() < ttrpc_header_bytes) {
        compact();
        return std::nullopt;
    }
    std::uint32_t length = read_u32(rest);
    if (length > max_ttrpc_payload_bytes)
        return fail(Code::resource_exhausted, "ttrpc: message of " + std::to_string(length) + " bytes");
    if (rest.size() < ttrpc_header_bytes + length) {
        compact();
        return std::nullopt;
    }
    TtrpcFrame frame;
    frame.stream = read_u32(rest.substr(4));
    frame.type = static_cast<std::uint8_t>(rest[8]);
    frame.flags = static_cast<std::uint8_t>(rest[9]);
    frame.payload.assign(rest.substr(ttrpc_header_bytes, length));
    begin_ += ttrpc_header_bytes + length;
    compact();
    return frame;
}

std::string encode_frame(TtrpcType type, std::uint32_t stream, std::string_view payload) {
    std::string out;
    out.reserve(ttrpc_header_bytes + payload.size());
    append_u32(out, static_cast<std::uint32_t>(payload.size()));
    append_u32(out, stream);
    out += static_cast<char>(type);
    out += '\0';
    out.append(payload);
    return out;
}

std::int32_t grpc_code(Code code) {
    switch (code) {
        case Code::cancelled:
            return 1;
        case Code::internal:
            return 2;  // UNKNOWN
        case Code::invalid_argument:
            return 3;
        case Code::deadline_exceeded:
            return 4;
        case Code::not_found:
            return 5;
        case Code::already_exists:
            return 6;
        case Code::permission_denied:
            return 7;
        case Code::resource_exhausted:
            return 8;
        case Code::conflict:
            return 9;  // FAILED_PRECONDITION
        case Code::out_of_range:
            return 11;
        case Code::unimplemented:
            return 12;
        case Code::unavailable:
            return 14;
        case Code::data_loss:
            return 15;
        case Code::unauthenticated:
            return 16;
    }
    return 2;
}

std::string encode_response(std::uint32_t stream, const Result<std::string>& payload) {
    TtrpcResponse response;
    if (payload) {
        response.payload = *payload;
    } else {
        response.status = TtrpcStatus{grpc_code(payload.error().code()), payload.error().describe()};
    }
    return encode_frame(TtrpcType::response, stream, encode(response));
}

}  // namespace wherry::api::containerd
