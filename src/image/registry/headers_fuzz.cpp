// What a registry says in header fields, and what a client says in X-Registry-Auth: any bytes, and no reading beyond
// them, no value that would end a header field or leave http.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "image/model.hpp"
#include "image/registry/auth.hpp"
#include "image/registry/location.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // SAFETY: bytes as chars.
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    for (const auto& challenge : wherry::image::parse_challenges(text)) {
        if (challenge.scheme.empty()) std::abort();
        if (challenge.realm.size() + challenge.service.size() + challenge.scope.size() > size) std::abort();
    }
    const std::string next = wherry::image::next_link(text);
    if (!next.empty() && !text.contains(next)) std::abort();
    const auto now = wherry::WallTime(std::chrono::seconds(1'700'000'000));
    if (const auto wait = wherry::image::parse_retry_after(text, now); wait && wait->count() < 0) std::abort();
    if (const auto credentials = wherry::image::parse_registry_auth(text)) {
        for (const std::string* part : {&credentials->username, &credentials->password, &credentials->identity_token,
                                        &credentials->registry_token})
            if (part->find_first_of(std::string_view("\r\n\0", 3)) != std::string::npos) std::abort();
    }
    if (const auto platform = wherry::image::parse_platform_name(text);
        platform && (platform->os.empty() || platform->architecture.empty()))
        std::abort();
    wherry::image::RegistryConfig config;
    static_cast<void>(config.add_insecure(std::string(text)));
    static_cast<void>(wherry::image::is_insecure_registry(config, text));
    if (config.add_mirror(text)) {
        for (const auto& [host, urls] : config.mirrors) {
            const auto locations = wherry::image::pull_locations(config, host);
            if (locations.size() != urls.size() + 1 || locations.front().host.empty()) std::abort();
        }
    }
    return 0;
}
