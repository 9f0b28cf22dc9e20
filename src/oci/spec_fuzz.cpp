// config.json from anybody: parsing never crashes, and what is accepted survives being written and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "oci/spec.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // SAFETY: bytes as characters.
    std::string_view text(reinterpret_cast<const char*>(data), size);
    auto spec = wherry::oci::parse_spec(text);
    if (!spec) return 0;
    auto written = wherry::oci::to_json(*spec);
    auto again = wherry::oci::spec_from_json(written);
    if (!again || wherry::oci::to_json(*again) != written) std::abort();
    return 0;
}
