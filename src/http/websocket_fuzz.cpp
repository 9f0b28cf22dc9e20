// A client's bytes as WebSocket frames, in pieces: never more bytes out than in, and however the pieces are cut, the
// same data comes out. The first byte of the input says how large the pieces are.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "http/websocket.hpp"

namespace {

using namespace wherry::http;

std::string run(std::string_view input, std::size_t step) {
    WebsocketReader reader;
    std::string seen;
    std::string waiting;
    std::size_t fed = 0;
    while (true) {
        std::array<std::byte, 16> out{};
        auto done = reader.read(std::as_bytes(std::span(waiting)), out);
        if (!done) return seen + "!";
        if (done->consumed > waiting.size() || done->produced > out.size()) std::abort();
        waiting.erase(0, done->consumed);
        // SAFETY: bytes as chars.
        seen.append(reinterpret_cast<const char*>(out.data()), done->produced);
        if (done->event != WebsocketReader::Event::none) {
            if (reader.control().size() > 125) std::abort();
            seen += reader.control();
        }
        if (seen.size() > fed) std::abort();
        if (done->consumed > 0) continue;
        if (input.empty()) return seen;
        const std::string_view piece = input.substr(0, step);
        waiting += piece;
        fed += piece.size();
        input.remove_prefix(piece.size());
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    // SAFETY: bytes as chars.
    const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
    const std::size_t step = data[0] == 0 ? input.size() : data[0];
    if (run(input, step) != run(input, input.size())) std::abort();
    return 0;
}
