#include "supervisor/gzip.hpp"

#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

namespace wherry::supervisor {

namespace {

constexpr std::size_t chunk_bytes = 32U << 10U;
constexpr int gzip_window = 15 + 16;  // zlib's way to say: gzip, 32 KiB window
constexpr std::string_view comment_prefix = "inode=";

Result<std::size_t> read_some(int fd, std::span<unsigned char> buffer, std::uint64_t position) {
    while (true) {
        ssize_t got = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(position));
        if (got >= 0) return static_cast<std::size_t>(got);
        if (errno != EINTR) return fail_errno("read log");
    }
}

Result<> write_bytes(int fd, const std::vector<unsigned char>& buffer, std::size_t count) {
    // SAFETY: bytes of a file are chars or unsigned chars alike.
    return write_all(fd, {reinterpret_cast<const char*>(buffer.data()), count});
}

}  // namespace

Result<> gzip_file(int from, int to, ino_t inode) {
    z_stream stream{};
    if (::deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, gzip_window, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return fail(Code::resource_exhausted, "zlib: no memory");
    std::string comment = std::string(comment_prefix) + std::to_string(inode);
    std::vector<Bytef> comment_bytes(comment.begin(), comment.end());
    comment_bytes.push_back(0);
    gz_header header{};
    header.comment = comment_bytes.data();
    header.os = 3;
    ::deflateSetHeader(&stream, &header);
    std::vector<unsigned char> in(chunk_bytes);
    std::vector<unsigned char> out(chunk_bytes);
    auto run = [&]() -> Result<> {
        std::uint64_t position = 0;
        bool last = false;
        while (!last) {
            std::size_t got = TRY(read_some(from, in, position));
            position += got;
            last = got == 0;
            stream.next_in = in.data();
            stream.avail_in = static_cast<uInt>(got);
            do {
                stream.next_out = out.data();
                stream.avail_out = static_cast<uInt>(out.size());
                ::deflate(&stream, last ? Z_FINISH : Z_NO_FLUSH);
                TRY(write_bytes(to, out, out.size() - stream.avail_out));
            } while (stream.avail_out == 0);
        }
        return {};
    };
    Result<> outcome = run();
    ::deflateEnd(&stream);
    return outcome;
}

Result<Fd> gunzip_to_memory(int from, std::uint64_t limit) {
    Fd memory(::memfd_create("log", MFD_CLOEXEC));
    if (!memory) return fail_errno("memfd_create");
    z_stream stream{};
    if (::inflateInit2(&stream, gzip_window) != Z_OK) return fail(Code::resource_exhausted, "zlib: no memory");
    std::vector<unsigned char> in(chunk_bytes);
    std::vector<unsigned char> out(chunk_bytes);
    auto run = [&]() -> Result<> {
        std::uint64_t position = 0;
        std::uint64_t written = 0;
        while (true) {
            std::size_t got = TRY(read_some(from, in, position));
            if (got == 0) return fail(Code::data_loss, "compressed log ends early");
            position += got;
            stream.next_in = in.data();
            stream.avail_in = static_cast<uInt>(got);
            do {
                stream.next_out = out.data();
                stream.avail_out = static_cast<uInt>(out.size());
                int state = ::inflate(&stream, Z_NO_FLUSH);
                if (state != Z_OK && state != Z_STREAM_END && state != Z_BUF_ERROR)
                    return fail(Code::data_loss, "damaged compressed log");
                std::size_t produced = out.size() - stream.avail_out;
                written += produced;
                if (written > limit) return fail(Code::resource_exhausted, "compressed log is too large");
                TRY(write_bytes(memory.get(), out, produced));
                if (state == Z_STREAM_END) return {};
            } while (stream.avail_out == 0);
        }
    };
    Result<> outcome = run();
    ::inflateEnd(&stream);
    TRY(std::move(outcome));
    return memory;
}

std::optional<ino_t> gzip_inode(int fd) {
    std::array<unsigned char, 64> head{};
    auto got = read_some(fd, head, 0);
    // RFC 1952: ten fixed bytes; flag 0x10 alone says that a comment follows at once.
    if (!got || *got < 12 || head[0] != 0x1F || head[1] != 0x8B || head[3] != 0x10) return std::nullopt;
    // SAFETY: bytes of a file are chars or unsigned chars alike.
    std::string_view text(reinterpret_cast<const char*>(head.data()) + 10, *got - 10);
    std::size_t end = text.find('\0');
    if (end == std::string_view::npos || !text.starts_with(comment_prefix)) return std::nullopt;
    text = text.substr(comment_prefix.size(), end - comment_prefix.size());
    ino_t inode = 0;
    auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), inode);
    if (error != std::errc() || rest != text.data() + text.size()) return std::nullopt;
    return inode;
}

}  // namespace wherry::supervisor
