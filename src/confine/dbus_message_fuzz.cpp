// What a socket that claims to be systemd's may send.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "confine/dbus_message.hpp"
#include "confine/systemd.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // SAFETY: bytes as characters.
    std::string_view text(reinterpret_cast<const char*>(data), size);
    auto length = wherry::confine::dbus::message_length(text);
    if (length && *length && **length <= text.size()) {
        auto message = wherry::confine::dbus::parse_message(text.substr(0, **length));
        if (message) {
            wherry::confine::dbus::Reader body(message->body, message->big_endian);
            for (char kind : message->signature) {
                if (kind == 'u') body.u32();
                if (kind == 's' || kind == 'o') body.string();
                if (kind == 'g') body.signature();
            }
        }
    }
    [[maybe_unused]] auto request = wherry::confine::parse_systemd_cgroups_path(text, "id", false);
    [[maybe_unused]] auto path = wherry::confine::systemd_cgroup_of(text);
    return 0;
}
