#include "image/unpack/recipe.hpp"

#include <fcntl.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>

#include "image/tar/decoder.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t literal_bytes = 64U << 10U;
constexpr std::size_t max_member_path_bytes = 64U << 10U;
constexpr std::size_t max_member_extents = 1U << 20U;

std::unexpected<Error> damaged() {
    return fail(Code::data_loss, "the layer's recipe is damaged");
}

template <class T>
void append(std::vector<std::byte>& out, T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) {
        out.push_back(static_cast<std::byte>(static_cast<std::uint64_t>(value) >> (8 * i)));
    }
}

void append_string(std::vector<std::byte>& out, std::string_view text) {
    append(out, static_cast<std::uint32_t>(text.size()));
    auto bytes = as_bytes(text);
    out.insert(out.end(), bytes.begin(), bytes.end());
}

}  // namespace

struct RecipeWriter::Compressor {
    ZSTD_CStream* stream = ZSTD_createCStream();
    std::vector<std::byte> out = std::vector<std::byte>(ZSTD_CStreamOutSize());

    Compressor() { ZSTD_initCStream(stream, 1); }
    Compressor(const Compressor&) = delete;
    Compressor& operator=(const Compressor&) = delete;
    ~Compressor() { ZSTD_freeCStream(stream); }
};

RecipeWriter::RecipeWriter(int fd) : fd_(fd), compressor_(std::make_unique<Compressor>()) {
    pending_.reserve(literal_bytes);
}

RecipeWriter::~RecipeWriter() = default;

Result<> RecipeWriter::put(std::span<const std::byte> bytes) {
    ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
    while (in.pos < in.size) {
        ZSTD_outBuffer out{compressor_->out.data(), compressor_->out.size(), 0};
        std::size_t status = ZSTD_compressStream2(compressor_->stream, &out, &in, ZSTD_e_continue);
        if (ZSTD_isError(status) != 0) return fail(Code::internal, std::string("zstd: ") + ZSTD_getErrorName(status));
        if (out.pos > 0) TRY(write_all(fd_, as_text(std::span(compressor_->out).first(out.pos))), "write recipe");
    }
    return {};
}

Result<> RecipeWriter::flush_literal() {
    if (pending_.empty()) return {};
    std::vector<std::byte> head{std::byte{'L'}};
    append(head, static_cast<std::uint32_t>(pending_.size()));
    TRY(put(head));
    TRY(put(pending_));
    pending_.clear();
    return {};
}

Result<> RecipeWriter::literal(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        auto piece = bytes.first(std::min(bytes.size(), literal_bytes - pending_.size()));
        pending_.insert(pending_.end(), piece.begin(), piece.end());
        bytes = bytes.subspan(piece.size());
        if (pending_.size() == literal_bytes) TRY(flush_literal());
    }
    return {};
}

Result<> RecipeWriter::file(std::string_view path, std::uint64_t length, std::span<const TarExtent> extents) {
    TRY(flush_literal());
    std::vector<std::byte> operation{std::byte{'F'}};
    append(operation, length);
    append_string(operation, path);
    append(operation, static_cast<std::uint32_t>(extents.size()));
    for (const auto& extent : extents) {
        append(operation, extent.offset);
        append(operation, extent.length);
    }
    return put(operation);
}

Result<> RecipeWriter::replaced(std::string_view path, std::uint32_t number) {
    TRY(flush_literal());
    std::vector<std::byte> operation{std::byte{'R'}};
    append_string(operation, path);
    append(operation, number);
    return put(operation);
}

Result<> RecipeWriter::finish() {
    TRY(flush_literal());
    std::array<std::byte, 1> end{std::byte{'E'}};
    TRY(put(end));
    ZSTD_inBuffer in{nullptr, 0, 0};
    for (;;) {
        ZSTD_outBuffer out{compressor_->out.data(), compressor_->out.size(), 0};
        std::size_t left = ZSTD_compressStream2(compressor_->stream, &out, &in, ZSTD_e_end);
        if (ZSTD_isError(left) != 0) return fail(Code::internal, std::string("zstd: ") + ZSTD_getErrorName(left));
        if (out.pos > 0) TRY(write_all(fd_, as_text(std::span(compressor_->out).first(out.pos))), "write recipe");
        if (left == 0) return {};
    }
}

namespace {

// Reads operands of a compressed recipe.
class RecipeReader {
  public:
    explicit RecipeReader(int fd) : source_(ByteSource::borrow_fd(fd)), decoder_(source_), buffer_(128U << 10U) {}

    Result<> bytes(std::span<std::byte> out) {
        while (!out.empty()) {
            if (available_.empty()) {
                auto count = decoder_.read(buffer_);
                if (!count || *count == 0) return damaged();
                available_ = std::span(buffer_).first(*count);
            }
            std::size_t count = std::min(out.size(), available_.size());
            std::memcpy(out.data(), available_.data(), count);
            available_ = available_.subspan(count);
            out = out.subspan(count);
        }
        return {};
    }
    template <class T>
    Result<T> number() {
        std::array<std::byte, sizeof(T)> raw{};
        TRY(bytes(raw));
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < sizeof(T); ++i) value |= std::to_integer<std::uint64_t>(raw[i]) << (8 * i);
        return static_cast<T>(value);
    }
    Result<std::string> string() {
        auto length = TRY(number<std::uint32_t>());
        if (length > max_member_path_bytes) return damaged();
        std::string text(length, '\0');
        TRY(bytes(std::as_writable_bytes(std::span(text))));
        return text;
    }

  private:
    ByteSource source_;
    StreamDecoder decoder_;
    std::vector<std::byte> buffer_;
    std::span<const std::byte> available_;
};

struct FileOperation {
    std::uint64_t length = 0;
    std::string path;
    std::vector<TarExtent> extents;
};

struct ReplaceOperation {
    std::string path;
    std::uint32_t number = 0;
};

Result<FileOperation> read_file_operation(RecipeReader& reader) {
    FileOperation file;
    file.length = TRY(reader.number<std::uint64_t>());
    file.path = TRY(reader.string());
    auto count = TRY(reader.number<std::uint32_t>());
    if (count > max_member_extents) return damaged();
    std::uint64_t total = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
        TarExtent extent;
        extent.offset = TRY(reader.number<std::uint64_t>());
        extent.length = TRY(reader.number<std::uint64_t>());
        if (extent.length > file.length - total) return damaged();
        total += extent.length;
        file.extents.push_back(extent);
    }
    if (count == 0) {
        file.extents.push_back({0, file.length});
    } else if (total != file.length) {
        return damaged();
    }
    return file;
}

Result<ReplaceOperation> read_replace_operation(RecipeReader& reader) {
    ReplaceOperation replace;
    replace.path = TRY(reader.string());
    replace.number = TRY(reader.number<std::uint32_t>());
    return replace;
}

// A first pass that only collects what was replaced later, in order.
Result<std::deque<ReplaceOperation>> collect_replacements(int recipe) {
    if (::lseek(recipe, 0, SEEK_SET) < 0) return fail_errno("rewind recipe");
    RecipeReader reader(recipe);
    std::deque<ReplaceOperation> replacements;
    std::vector<std::byte> literal(literal_bytes);
    for (;;) {
        auto operation = TRY(reader.number<std::uint8_t>());
        if (operation == 'E') return replacements;
        if (operation == 'L') {
            auto length = TRY(reader.number<std::uint32_t>());
            if (length > literal.size()) return damaged();
            TRY(reader.bytes(std::span(literal).first(length)));
        } else if (operation == 'F') {
            (void)TRY(read_file_operation(reader));
        } else if (operation == 'R') {
            replacements.push_back(TRY(read_replace_operation(reader)));
        } else {
            return damaged();
        }
    }
}

Result<> copy_file(const FileOperation& file, int folder, const std::string& path, std::span<std::byte> buffer,
                   const ByteSink& sink) {
    auto opened = open_in_root(folder, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOATIME);
    if (!opened) return fail(Code::data_loss, "the layer has lost " + file.path + ": " + opened.error().describe());
    for (TarExtent extent : file.extents) {
        while (extent.length > 0) {
            std::size_t want = static_cast<std::size_t>(std::min<std::uint64_t>(extent.length, buffer.size()));
            ssize_t count = ::pread(opened->get(), buffer.data(), want, static_cast<off_t>(extent.offset));
            if (count < 0 && errno == EINTR) continue;
            if (count < 0) return fail_errno("read " + file.path);
            if (count == 0) return fail(Code::data_loss, file.path + " is shorter than it was");
            auto bytes = buffer.first(static_cast<std::size_t>(count));
            TRY(sink(bytes));
            extent.offset += bytes.size();
            extent.length -= bytes.size();
        }
    }
    return {};
}

bool is_at_or_below(std::string_view path, std::string_view top) {
    return path.starts_with(top) && (path.size() == top.size() || path[top.size()] == '/');
}

}  // namespace

Result<> replay_recipe(int recipe, int tree, int replaced, const ByteSink& sink) {
    std::deque<ReplaceOperation> replacements = TRY(collect_replacements(recipe));
    if (::lseek(recipe, 0, SEEK_SET) < 0) return fail_errno("rewind recipe");
    RecipeReader reader(recipe);
    std::vector<std::byte> buffer(256U << 10U);
    for (;;) {
        auto operation = TRY(reader.number<std::uint8_t>());
        if (operation == 'E') return {};
        if (operation == 'L') {
            auto length = TRY(reader.number<std::uint32_t>());
            if (length > buffer.size()) return damaged();
            auto literal = std::span(buffer).first(length);
            TRY(reader.bytes(literal));
            TRY(sink(literal));
        } else if (operation == 'R') {
            (void)TRY(read_replace_operation(reader));
            if (replacements.empty()) return damaged();
            replacements.pop_front();
        } else if (operation == 'F') {
            FileOperation file = TRY(read_file_operation(reader));
            // The first thing that later took this file or a folder above it away.
            auto later =
                std::ranges::find_if(replacements, [&](const auto& r) { return is_at_or_below(file.path, r.path); });
            if (later == replacements.end()) {
                TRY(copy_file(file, tree, file.path, buffer, sink));
            } else {
                std::string path = std::to_string(later->number) + file.path.substr(later->path.size());
                TRY(copy_file(file, replaced, path, buffer, sink));
            }
        } else {
            return damaged();
        }
    }
}

}  // namespace wherry::image
