#include "image/tar/content.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/fd.hpp"
#include "image/bytes.hpp"

namespace wherry::image {

Result<> write_content(int file, const TarEntry& entry, TarReader& reader) {
    if (entry.sparse && ::ftruncate(file, static_cast<off_t>(entry.size_bytes)) < 0) return fail_errno("set size");
    std::size_t extent = 0;
    std::uint64_t within = 0;
    for (;;) {
        std::span<const std::byte> piece = TRY(reader.data());
        if (piece.empty()) return {};
        if (!entry.sparse) {
            TRY(write_all(file, as_text(piece)));
            continue;
        }
        while (!piece.empty() && extent < entry.extents.size()) {
            const TarExtent& at = entry.extents[extent];
            const auto part =
                piece.first(static_cast<std::size_t>(std::min<std::uint64_t>(piece.size(), at.length - within)));
            const ssize_t count =
                part.empty() ? 0 : ::pwrite(file, part.data(), part.size(), static_cast<off_t>(at.offset + within));
            if (count < 0 && errno == EINTR) continue;
            if (count < 0) return fail_errno("write");
            within += static_cast<std::uint64_t>(count);
            piece = piece.subspan(static_cast<std::size_t>(count));
            if (within == at.length) {
                ++extent;
                within = 0;
            }
        }
    }
}

}  // namespace wherry::image
