// Any bytes as a layer's stream: decompressed, read, planned. Each byte of the decompressed stream must be seen exactly
// once and in order, either as content or raw: that is what a recipe is made of. Nothing planned may lead outside.
#include <cstdlib>
#include <vector>

#include "image/tar/decoder.hpp"
#include "image/tar/reader.hpp"
#include "image/unpack/plan.hpp"

namespace {

using namespace wherry;
using namespace wherry::image;

constexpr std::size_t max_bytes = 128U << 10U;  // of a decompressed input; bombs are the pipeline's business

std::vector<std::byte> decompress(std::span<const std::byte> input, bool& whole) {
    ByteSource source = ByteSource::from_string(std::string(as_text(input)));
    StreamDecoder decoder(source);
    std::vector<std::byte> out(max_bytes);
    std::size_t filled = 0;
    while (filled < out.size()) {
        auto count = decoder.read(std::span(out).subspan(filled));
        whole = count.has_value();
        if (!count || *count == 0) break;
        filled += *count;
    }
    out.resize(filled);
    return out;
}

void check_plan(const TarEntry& entry) {
    auto plan = plan_entry(entry);
    if (!plan) return;
    for (const std::string& path : {plan->path, plan->target}) {
        if (path.starts_with("/") || path == ".." || path.starts_with("../") ||
            path.find("/../") != std::string::npos || path.ends_with("/..")) {
            std::abort();
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // SAFETY: bytes are bytes.
    std::span<const std::byte> input(reinterpret_cast<const std::byte*>(data), size);
    bool whole = false;
    std::vector<std::byte> stream = decompress(input, whole);
    // Chunks of odd sizes, so that every field is cut somewhere.
    std::size_t chunk = size > 0 ? 1 + data[size - 1] * 7U : 512;
    std::size_t given = 0;
    std::size_t seen = 0;
    auto see = [&](std::span<const std::byte> bytes) {
        if (bytes.size() > stream.size() - seen ||
            !std::equal(bytes.begin(), bytes.end(), stream.begin() + static_cast<std::ptrdiff_t>(seen)))
            std::abort();
        seen += bytes.size();
    };
    TarReader reader(
        [&]() -> Result<std::span<const std::byte>> {
            auto piece = std::span<const std::byte>(stream).subspan(given, std::min(chunk, stream.size() - given));
            given += piece.size();
            return piece;
        },
        [&](std::span<const std::byte> bytes) -> Result<> {
            see(bytes);
            return {};
        });
    for (bool take = true;; take = !take) {
        auto entry = reader.next();
        if (!entry) return 0;
        if (!*entry) break;
        check_plan(**entry);
        std::uint64_t stored = 0;
        for (const auto& extent : (*entry)->extents) stored += extent.length;
        if ((*entry)->sparse && stored != (*entry)->stored_bytes) std::abort();
        while (take) {
            auto piece = reader.data();
            if (!piece) return 0;
            if (piece->empty()) break;
            see(*piece);
        }
    }
    if (seen != stream.size()) std::abort();
    return 0;
}
