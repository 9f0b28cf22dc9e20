// Bodies of POST /containers/create: whatever they hold, they are refused or can be checked, written and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/container_spec.hpp"
#include "engine/mounts.hpp"
#include "engine/validate.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry;
    // SAFETY: bytes as characters.
    const auto object = parse_json_object({reinterpret_cast<const char*>(data), size});
    if (!object) return 0;
    auto spec = engine::decode_create_request(*object);
    if (!spec) return 0;
    const json::object written = engine::encode_host_config(spec->host_config);
    const auto again = engine::decode_host_config(written);
    if (!again || engine::encode_host_config(*again) != written) std::abort();
    std::ignore = engine::plan_mounts(spec->config, spec->host_config, {});
    std::ignore = engine::check_and_complete(*spec, {.log_config = {.type = "json-file", .config = {}}, .ulimits = {}});
    return 0;
}
