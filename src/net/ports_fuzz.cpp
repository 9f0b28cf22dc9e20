// Port and address specifications of users.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "net/ports.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::net;
    // SAFETY: char may alias any object.
    std::string_view text(reinterpret_cast<const char*>(data), size);
    if (auto requests = parse_publish(text)) {
        for (const PortRequest& request : *requests) {
            if (request.container.port == 0) std::abort();
            // What was accepted is a valid entry of the API as well.
            auto again = ContainerPort::parse(request.container.to_string());
            if (!again || *again != request.container) std::abort();
        }
    }
    static_cast<void>(parse_expose(text));
    if (auto prefix = IpPrefix::parse(text)) {
        auto again = IpPrefix::parse(prefix->to_string());
        if (!again || *again != *prefix || !prefix->contains(prefix->last())) std::abort();
    }
    if (auto mac = MacAddress::parse(text); mac && *MacAddress::parse(mac->to_string()) != *mac) std::abort();
    return 0;
}
