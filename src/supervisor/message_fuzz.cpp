// Frames and messages of a hostile peer: decoded, parsed, and given to every parser of parameters.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "supervisor/frame.hpp"
#include "supervisor/protocol.hpp"

namespace {

using namespace wherry::supervisor;

template <class T>
void parse_and_write_again(const wherry::JsonReader& reader) {
    auto value = T::parse(reader);
    if (!value) return;
    // What was accepted must be accepted again after it went over the wire.
    wherry::json::object object = to_json_object(*value);
    if (!T::parse(wherry::JsonReader(object))) __builtin_trap();
}

void parse_as_everything(const wherry::json::object& body) {
    wherry::JsonReader reader(body);
    parse_and_write_again<Hello>(reader);
    parse_and_write_again<HelloReply>(reader);
    parse_and_write_again<CreateRequest>(reader);
    parse_and_write_again<SandboxRequest>(reader);
    parse_and_write_again<ExecRequest>(reader);
    parse_and_write_again<ProcessReference>(reader);
    parse_and_write_again<KillRequest>(reader);
    parse_and_write_again<ResizeRequest>(reader);
    parse_and_write_again<DeleteRequest>(reader);
    parse_and_write_again<UpdateRequest>(reader);
    parse_and_write_again<StreamRequest>(reader);
    parse_and_write_again<StreamReply>(reader);
    parse_and_write_again<LogWaitRequest>(reader);
    parse_and_write_again<LogProgress>(reader);
    parse_and_write_again<SandboxState>(reader);
    parse_and_write_again<ContainerState>(reader);
    parse_and_write_again<Stats>(reader);
    parse_and_write_again<ExitEvent>(reader);
    parse_and_write_again<OomEvent>(reader);
    parse_and_write_again<ExitRecord>(reader);
    static_cast<void>(error_from_json(reader));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // SAFETY: bytes are bytes.
    std::string_view input(reinterpret_cast<const char*>(data), size);
    FrameDecoder decoder;
    while (!input.empty()) {
        std::string_view piece = input.substr(0, 1 + input.size() / 3);
        input.remove_prefix(piece.size());
        if (!decoder.feed(piece)) break;
        while (auto payload = decoder.next()) {
            if (auto message = parse_message(*payload)) parse_as_everything(message->body);
            static_cast<void>(parse_stream_header(*payload));
        }
    }
    return 0;
}
