// ttrpc (https://github.com/containerd/ttrpc/blob/main/PROTOCOL.md): calls over a local stream socket.
//
// A frame is 10 bytes of header, all numbers big endian: u32 length of the payload (at most 4 MiB), u32 stream (odd,
// chosen by the caller), u8 type (1 request, 2 response, 3 data of a streaming call), u8 flags; then the payload, a
// protobuf message. Many calls may be open at once; each is answered once, on its stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/containerd/wire.hpp"
#include "base/result.hpp"

namespace wherry::api::containerd {

inline constexpr std::size_t ttrpc_header_bytes = 10;
inline constexpr std::size_t max_ttrpc_payload_bytes = 4U << 20U;

enum class TtrpcType : std::uint8_t { request = 1, response = 2, data = 3 };

struct TtrpcFrame {
    std::uint32_t stream = 0;
    std::uint8_t type = 0;
    std::uint8_t flags = 0;
    std::string payload;
};

// Frames out of pieces of a stream. Holds at most one frame's bytes and what came with them.
class TtrpcDecoder {
  public:
    void feed(std::string_view bytes) { buffer_.append(bytes); }
    // nullopt: more bytes are needed; resource_exhausted for a payload over the limit, after which the stream is lost.
    Result<std::optional<TtrpcFrame>> next();

  private:
    void compact();

    std::string buffer_;
    std::size_t begin_ = 0;
};

std::string encode_frame(TtrpcType type, std::uint32_t stream, std::string_view payload);

struct TtrpcRequest {
    struct KeyValue {
        std::string key, value;
        void fields(this auto&& self, auto&& field) {
            field(1, self.key);
            field(2, self.value);
        }
    };
    std::string service;  // "containerd.task.v2.Task"
    std::string method;
    std::string payload;
    std::int64_t timeout_ns = 0;  // 0: none
    std::vector<KeyValue> metadata;
    void fields(this auto&& self, auto&& field) {
        field(1, self.service);
        field(2, self.method);
        field(3, self.payload);
        field(4, self.timeout_ns);
        field(5, self.metadata);
    }
};

// google.rpc.Status. code: gRPC's numbers; 0 is success.
struct TtrpcStatus {
    std::int32_t code = 0;
    std::string message;
    void fields(this auto&& self, auto&& field) {
        field(1, self.code);
        field(2, self.message);
    }
};

struct TtrpcResponse {
    std::optional<TtrpcStatus> status;
    std::string payload;
    void fields(this auto&& self, auto&& field) {
        field(1, self.status);
        field(2, self.payload);
    }
};

// gRPC's number of a code. What we call internal is what runc's shim calls unknown: an error of the runtime that
// containerd hands on as text.
std::int32_t grpc_code(Code code);
std::string encode_response(std::uint32_t stream, const Result<std::string>& payload);

}  // namespace wherry::api::containerd
