// Any text as a master file: what parses prints as text that parses to the same.
#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "dns/master_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry;
    using namespace wherry::dns;
    if (size > 1U << 16U) return 0;
    // SAFETY: bytes as characters.
    std::string_view text(reinterpret_cast<const char*>(data), size);
    MasterFileOptions options{.origin = *Name::parse("fuzz.example."), .default_ttl = 60, .generate_limit = 50};
    std::size_t count = 0;
    auto result = parse_master_text(text, "input", options, [&](const ParsedRecord& record) -> Result<> {
        if (++count > 500) return fail(Code::resource_exhausted, "enough");
        std::string line = record_to_text(record.owner, record.ttl, record.dns_class, record.type, record.rdata);
        auto again = parse_master_text(line, "again", {}, [&](const ParsedRecord& copy) -> Result<> {
            if (!(copy.owner == record.owner) || copy.type != record.type ||
                !std::ranges::equal(copy.rdata, record.rdata))
                std::abort();
            return {};
        });
        if (!again) std::abort();
        return {};
    });
    (void)result;
    return 0;
}
