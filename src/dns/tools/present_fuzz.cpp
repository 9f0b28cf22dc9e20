// Whatever a server sends is parsed, printed and turned into JSON without a crash.
#include <boost/json/serialize.hpp>
#include <cstddef>
#include <cstdint>

#include "dns/tools/present.hpp"
#include "dns/tools/probe_wire.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::dns::tools;
    std::span<const std::uint8_t> input(data, size);
    if (auto message = Message::parse(input)) {
        Answer answer;
        if (auto server = wherry::dns::SocketAddress::parse("127.0.0.1")) answer.server = *server;
        (void)to_text(answer, *message);
        (void)to_short_text(*message);
        (void)boost::json::serialize(to_json(answer, *message));
    }
    for (int family : {2, 10})
        for (unsigned protocol : {1U, 6U, 17U, 58U}) (void)quoted_packet(family, input, protocol);
    (void)parse_resolver_configuration({reinterpret_cast<const char*>(data), size});
    return 0;
}
