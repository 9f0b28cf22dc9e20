// Requests as the server feeds them to the parser: in pieces, the head first, then the body into small buffers, then
// the target and the query. The first byte of the input says how large the pieces are.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "http/message.hpp"
#include "http/parser.hpp"
#include "http/router.hpp"

namespace {

using namespace wherry;
using namespace wherry::http;

void use_target(const MessageHead& head) {
    std::string_view target = head.target;
    std::size_t question = target.find('?');
    if (auto path = percent_decode(target.substr(0, question))) {
        static const PathPattern pattern("/images/{name:.*}/json");
        PathParameters parameters;
        if (pattern.match(*path, parameters) && parameters.get("name").empty()) std::abort();
        auto again = percent_decode(percent_encode(*path));
        if (!again || *again != *path) std::abort();
    }
    if (question != std::string_view::npos) {
        if (auto query = Query::parse(target.substr(question + 1))) {
            auto again = Query::parse(query->encode());
            if (!again) std::abort();
        }
    }
}

void run(MessageParser::Kind kind, std::string_view input, std::size_t step) {
    MessageParser parser(kind, 4096);
    std::string buffer;
    std::size_t produced = 0;
    std::size_t fed = 0;
    while (true) {
        if (parser.done()) {
            parser.reset();
            if (buffer.empty() && input.empty()) return;
        }
        std::string_view piece = input.substr(0, step);
        input.remove_prefix(piece.size());
        buffer += piece;
        fed += piece.size();
        bool moved = !piece.empty();
        while (!buffer.empty() && !parser.done()) {
            std::size_t consumed = 0;
            if (!parser.head_done()) {
                auto result = parser.parse_head(buffer);
                if (!result) return;
                consumed = *result;
                if (parser.head_done()) use_target(parser.head());
            } else {
                std::array<std::byte, 16> out{};
                auto result = parser.parse_body(buffer, out);
                if (!result) return;
                consumed = result->consumed;
                produced += result->produced;
            }
            if (consumed > buffer.size()) std::abort();
            buffer.erase(0, consumed);
            if (consumed == 0) break;
            moved = true;
        }
        if (produced > fed) std::abort();
        if (!moved) {
            static_cast<void>(parser.end_of_stream());
            return;
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    std::size_t step = data[0] == 0 ? size : data[0];
    // SAFETY: bytes as chars.
    std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
    run(MessageParser::Kind::request, input, step);
    run(MessageParser::Kind::response, input, step);
    return 0;
}
