#include "adopt/tar_split.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/encoding.hpp"
#include "base/json.hpp"

namespace wherry::adopt {

namespace {

constexpr std::size_t max_line_bytes = 16U << 20U;
constexpr int gzip_window = 15 + 16;  // zlib's way to say: gzip

// The file itself, never a device or a fifo, whose opening alone would have effects.
Result<Fd> open_regular(int tree, const std::string& name, std::uint64_t size) {
    Fd path = TRY(open_in_root(tree, name, O_PATH));
    struct stat info{};
    if (::fstat(path.get(), &info) < 0) return fail_errno(name);
    if (!S_ISREG(info.st_mode)) return fail(Code::data_loss, name + ": not a file any more");
    if (static_cast<std::uint64_t>(info.st_size) != size)
        return fail(Code::data_loss, name + ": its length has changed");
    return open_file("/proc/self/fd/" + std::to_string(path.get()), O_RDONLY);
}

}  // namespace

Result<TarSplitEntry> parse_tar_split_line(std::string_view line) {
    json::object object = TRY(parse_json_object(line), "tar-split");
    JsonReader reader(object, "tar-split");
    TarSplitEntry entry;
    std::int64_t type = TRY(reader.integer_or("type", 0));
    if (type == 2) {
        entry.payload = TRY(base64_decode(TRY(reader.string_or("payload", ""))), "tar-split");
        return entry;
    }
    if (type != 1) return fail(Code::invalid_argument, "tar-split: unknown kind of entry");
    entry.is_file = true;
    std::int64_t size = TRY(reader.integer_or("size", 0));
    if (size < 0) return fail(Code::invalid_argument, "tar-split: negative length");
    entry.size = static_cast<std::uint64_t>(size);
    // A name that is no UTF-8 comes as bytes.
    std::string raw = TRY(reader.string_or("name_raw", ""));
    entry.name = raw.empty() ? TRY(reader.string_or("name", "")) : TRY(base64_decode(raw));
    if (entry.name.find('\0') != std::string::npos) return fail(Code::invalid_argument, "tar-split: NUL in a name");
    return entry;
}

// ---- lines

struct GzipLines::State {
    Fd file;
    z_stream stream{};
    bool ended = false;
    std::array<unsigned char, 32768> in{};
    std::string ready;
    std::size_t at = 0;

    Result<> more();
};

GzipLines::GzipLines(Fd file) : state_(std::make_unique<State>()) {
    state_->file = std::move(file);
    // Fails only without memory, and then the first inflate says so.
    ::inflateInit2(&state_->stream, gzip_window);
}
GzipLines::~GzipLines() {
    if (state_) ::inflateEnd(&state_->stream);
}
GzipLines::GzipLines(GzipLines&&) noexcept = default;
GzipLines& GzipLines::operator=(GzipLines&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
}

Result<> GzipLines::State::more() {
    std::array<unsigned char, 32768> out{};
    if (stream.avail_in == 0) {
        ssize_t got = -1;
        do {
            got = ::read(file.get(), in.data(), in.size());
        } while (got < 0 && errno == EINTR);
        if (got < 0) return fail_errno("tar-split");
        if (got == 0) return fail(Code::data_loss, "tar-split: it is cut");
        stream.next_in = in.data();
        stream.avail_in = static_cast<uInt>(got);
    }
    stream.next_out = out.data();
    stream.avail_out = static_cast<uInt>(out.size());
    int status = ::inflate(&stream, Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
        return fail(Code::data_loss, "tar-split: not gzip, or damaged");
    if (at > 0) {
        ready.erase(0, at);
        at = 0;
    }
    // SAFETY: bytes are characters.
    ready.append(reinterpret_cast<const char*>(out.data()), out.size() - stream.avail_out);
    if (status == Z_STREAM_END) ended = true;
    return {};
}

Result<bool> GzipLines::next(std::string& line) {
    for (;;) {
        auto newline = state_->ready.find('\n', state_->at);
        if (newline != std::string::npos) {
            line.assign(state_->ready, state_->at, newline - state_->at);
            state_->at = newline + 1;
            return true;
        }
        if (state_->ended) {
            line.assign(state_->ready, state_->at);
            state_->at = state_->ready.size();
            return !line.empty();
        }
        if (state_->ready.size() - state_->at > max_line_bytes)
            return fail(Code::resource_exhausted, "tar-split: a line without end");
        TRY(state_->more());
    }
}

// ---- the stream

Result<> LayerStream::open_content(const TarSplitEntry& entry) {
    file_ = TRY(open_regular(tree_.get(), entry.name, entry.size));
    file_name_ = entry.name;
    file_left_ = entry.size;
    return {};
}

// False: the end.
Result<bool> LayerStream::advance() {
    std::string line;
    while (TRY(lines_.next(line))) {
        TarSplitEntry entry = TRY(parse_tar_split_line(line));
        if (!entry.is_file) {
            piece_ = std::move(entry.payload);
            piece_at_ = 0;
            if (!piece_.empty()) return true;
        } else if (entry.size > 0) {
            TRY(open_content(entry));
            return true;
        }
    }
    return false;
}

Result<std::size_t> LayerStream::read(std::span<std::byte> buffer) {
    for (;;) {
        if (piece_at_ < piece_.size()) {
            std::size_t count = std::min(buffer.size(), piece_.size() - piece_at_);
            std::memcpy(buffer.data(), piece_.data() + piece_at_, count);
            piece_at_ += count;
            return count;
        }
        if (file_left_ > 0) {
            std::size_t wanted = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), file_left_));
            ssize_t got = ::read(file_.get(), buffer.data(), wanted);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) return fail_errno(file_name_);
            if (got == 0) return fail(Code::data_loss, file_name_ + ": it became shorter");
            file_left_ -= static_cast<std::uint64_t>(got);
            return static_cast<std::size_t>(got);
        }
        file_.reset();
        if (!TRY(advance())) return std::size_t{0};
    }
}

Result<std::uint64_t> LayerStream::length(Fd tar_split) {
    GzipLines lines(std::move(tar_split));
    std::string line;
    constexpr std::uint64_t most = std::uint64_t{1} << 50U;
    std::uint64_t sum = 0;
    while (TRY(lines.next(line))) {
        TarSplitEntry entry = TRY(parse_tar_split_line(line));
        std::uint64_t more = entry.is_file ? entry.size : entry.payload.size();
        if (more > most || sum + more > most) return fail(Code::resource_exhausted, "tar-split: an impossible length");
        sum += more;
    }
    return sum;
}

}  // namespace wherry::adopt
