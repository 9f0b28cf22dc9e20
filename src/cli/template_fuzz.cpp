// A template over a fixed document: neither parsing nor execution may fail otherwise than with an error.
#include <cstddef>
#include <cstdint>

#include "base/json.hpp"
#include "cli/template.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const wherry::json::value document =
        *wherry::parse_json(R"({"A":{"B":["x","y"],"C":null},"N":5,"S":"text","M":{"k":"v"}})");
    if (size > 4096) return 0;
    // SAFETY: bytes seen as characters.
    auto shape = wherry::cli::Template::parse({reinterpret_cast<const char*>(data), size});
    if (shape) [[maybe_unused]]
        auto text = shape->execute(document);
    return 0;
}
