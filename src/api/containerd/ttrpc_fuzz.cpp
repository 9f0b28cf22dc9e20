// A stream of a hostile peer: frames in pieces, requests, and answers as containerd would send them.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/containerd/ttrpc.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::api::containerd;
    // SAFETY: bytes are bytes.
    std::string_view input(reinterpret_cast<const char*>(data), size);
    TtrpcDecoder decoder;
    while (!input.empty()) {
        std::string_view piece = input.substr(0, 1 + input.size() / 3);
        input.remove_prefix(piece.size());
        decoder.feed(piece);
        for (;;) {
            auto frame = decoder.next();
            if (!frame) return 0;
            if (!*frame) break;
            if (auto request = decode<TtrpcRequest>((*frame)->payload)) {
                // What was accepted is accepted again.
                if (!decode<TtrpcRequest>(encode(*request))) __builtin_trap();
            }
            static_cast<void>(decode<TtrpcResponse>((*frame)->payload));
        }
    }
    return 0;
}
