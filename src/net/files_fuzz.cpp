// resolv.conf of the host, --add-host and --dns of users: what comes out must be lines of their files and no more.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "net/files.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::net;
    // SAFETY: char may alias any object.
    std::string_view text(reinterpret_cast<const char*>(data), size);
    ResolverConfig host = parse_resolver_config(text);
    std::string file = make_resolver_file(container_resolver(host, {}, ResolverNetwork::own));
    auto lines = static_cast<std::size_t>(std::ranges::count(file, '\n'));
    if (lines > host.servers.size() + 4) std::abort();
    // Writing and reading again is stable.
    if (make_resolver_file(parse_resolver_config(file)) != file) std::abort();
    if (auto entry = parse_extra_host(text, IpAddress::ipv4(1))) {
        if ((entry->name + entry->address).find_first_of("\n\t ") != std::string::npos) std::abort();
    }
    ResolverOverrides overrides{{std::string(text)}, {std::string(text)}, {std::string(text)}};
    if (validate(overrides) && text.find('\n') != std::string_view::npos) std::abort();
    if (validate_hostname(text) && text.find_first_of("\n/") != std::string_view::npos) std::abort();
    return 0;
}
