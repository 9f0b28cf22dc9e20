#include "image/unpack/program.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include "base/digest.hpp"
#include "image/unpack/pipeline.hpp"
#include "image/unpack/unpacker.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t max_message_bytes = 2000;

Result<LayerInfo> unpack(UnpackLimits limits) {
    Fd recipe_file = TRY(open_at(workspace_fd, "recipe", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
    RecipeWriter recipe(recipe_file.get());
    Unpacker unpacker = TRY(Unpacker::create(workspace_fd, recipe, limits.max_entries));
    ByteSource source = ByteSource::borrow_fd(STDIN_FILENO);
    StreamDecoder decoder(source);
    StreamPipeline pipeline(decoder, limits.max_bytes, [](std::uint64_t bytes) {
        // The pipe is not blocking: a parent that does not read loses progress, never time.
        std::string line = "P " + std::to_string(bytes) + "\n";
        if (::write(report_fd, line.data(), line.size()) < 0) return;
    });
    TarReader reader([&] { return pipeline.next(); },
                     [&](std::span<const std::byte> bytes) { return recipe.literal(bytes); });
    for (;;) {
        auto entry = TRY(reader.next());
        if (!entry) break;
        TRY(unpacker.apply(*entry, reader));
    }
    StreamPipeline::Summary stream = TRY(pipeline.finish());
    TRY(recipe.finish());
    Unpacker::Totals totals = TRY(unpacker.finish());
    return LayerInfo{.diff_id = stream.digest,
                     .tar_bytes = stream.bytes,
                     .size_bytes = totals.size_bytes,
                     .entries = totals.entries};
}

std::vector<std::string_view> split(std::string_view line, std::size_t parts) {
    std::vector<std::string_view> words;
    while (words.size() + 1 < parts && line.find(' ') != std::string_view::npos) {
        words.push_back(line.substr(0, line.find(' ')));
        line.remove_prefix(line.find(' ') + 1);
    }
    words.push_back(line);
    return words;
}

template <class T>
bool parse_number(std::string_view text, T& value) {
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::string format_report(const Result<LayerInfo>& result) {
    if (result) {
        return "ok " + result->diff_id + " " + std::to_string(result->tar_bytes) + " " +
               std::to_string(result->size_bytes) + " " + std::to_string(result->entries) + "\n";
    }
    std::string message = result.error().describe().substr(0, max_message_bytes);
    std::ranges::replace_if(message, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
    return "error " + std::to_string(static_cast<int>(result.error().code())) + " " +
           std::to_string(result.error().os_errno()) + " " + message + "\n";
}

Result<LayerInfo> parse_report(std::string_view line) {
    auto words = split(line, 5);
    LayerInfo layer;
    if (words[0] == "ok" && words.size() == 5 && is_sha256_digest(words[1]) &&
        parse_number(words[2], layer.tar_bytes) && parse_number(words[3], layer.size_bytes) &&
        parse_number(words[4], layer.entries)) {
        layer.diff_id = words[1];
        return layer;
    }
    words = split(line, 4);
    int code = 0;
    int os_errno = 0;
    if (words[0] == "error" && words.size() == 4 && parse_number(words[1], code) && parse_number(words[2], os_errno) &&
        code >= 0 && code <= static_cast<int>(Code::internal) && os_errno >= 0) {
        return fail(static_cast<Code>(code), std::string(words[3]), os_errno);
    }
    return fail(Code::internal, "wherry-unpack reported nonsense");
}

int run_unpack(UnpackLimits limits) {
    if (!set_nonblocking(report_fd)) return 1;
    Result<LayerInfo> result = unpack(limits);
    int flags = ::fcntl(report_fd, F_GETFL);
    ::fcntl(report_fd, F_SETFL, flags & ~O_NONBLOCK);
    return write_all(report_fd, format_report(result)) && result ? 0 : 1;
}

}  // namespace wherry::image
