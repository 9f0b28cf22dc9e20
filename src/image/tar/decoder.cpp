#include "image/tar/decoder.hpp"

#include <bzlib.h>
#include <isa-l/igzip_lib.h>
#include <lzma.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace wherry::image {

namespace {

constexpr std::size_t input_bytes = 256U << 10U;
constexpr std::uint64_t xz_memory_bytes = 128ULL << 20U;
constexpr std::string_view xz_magic(
    "\xfd"
    "7zXZ\0",
    6);

std::unexpected<Error> corrupt(std::string what) {
    return fail(Code::invalid_argument, std::move(what));
}

bool starts_with(std::span<const std::byte> bytes, std::string_view magic) {
    return as_text(bytes).starts_with(magic);
}

// SAFETY: ISA-L takes bytes as uint8_t.
std::uint8_t* as_uint8(std::byte* bytes) {
    return reinterpret_cast<std::uint8_t*>(bytes);
}

}  // namespace

struct StreamDecoder::Gzip {
    inflate_state state{};
    bool between_members = true;
    bool any_member = false;

    void start_member() {
        isal_inflate_reset(&state);
        state.crc_flag = ISAL_GZIP;
        between_members = false;
        any_member = true;
    }
};

struct StreamDecoder::Zstd {
    ZSTD_DStream* stream = ZSTD_createDStream();
    std::size_t hint = 1;  // 0: a frame just ended

    Zstd() = default;
    Zstd(const Zstd&) = delete;
    Zstd& operator=(const Zstd&) = delete;
    ~Zstd() { ZSTD_freeDStream(stream); }
};

struct StreamDecoder::Bzip2 {
    bz_stream stream{};
    bool is_open = false;  // between two streams it is not
    int made = BZ_OK;

    void start() {
        stream = {};
        made = BZ2_bzDecompressInit(&stream, 0, 0);
        is_open = made == BZ_OK;
    }
    void end() {
        if (is_open) BZ2_bzDecompressEnd(&stream);
        is_open = false;
    }
    Bzip2() = default;
    Bzip2(const Bzip2&) = delete;
    Bzip2& operator=(const Bzip2&) = delete;
    ~Bzip2() { end(); }
};

struct StreamDecoder::Xz {
    lzma_stream stream = LZMA_STREAM_INIT;
    bool done = false;

    Xz() = default;
    Xz(const Xz&) = delete;
    Xz& operator=(const Xz&) = delete;
    ~Xz() { lzma_end(&stream); }
};

StreamDecoder::StreamDecoder(ByteSource& source)
    : source_(source), buffer_(std::make_unique_for_overwrite<std::byte[]>(input_bytes)) {}

StreamDecoder::~StreamDecoder() = default;

// Appends to input_; false when the source has no more.
Result<bool> StreamDecoder::fill() {
    if (source_ended_) return false;
    if (!input_.empty() && input_.data() != buffer_.get()) std::memmove(buffer_.get(), input_.data(), input_.size());
    std::size_t count = TRY(source_.read(std::span(buffer_.get() + input_.size(), input_bytes - input_.size())));
    input_ = std::span(buffer_.get(), input_.size() + count);
    consumed_ += count;
    source_ended_ = count == 0;
    return count != 0;
}

Result<> StreamDecoder::detect() {
    while (input_.size() < 10 && TRY(fill())) {
    }
    detected_ = true;
    if (starts_with(input_, "\x1f\x8b")) {
        compression_ = Compression::gzip;
        gzip_ = std::make_unique<Gzip>();
        isal_inflate_init(&gzip_->state);
    } else if (starts_with(input_, "\x28\xb5\x2f\xfd") ||
               (input_.size() >= 4 && starts_with(input_.subspan(1), "\x2a\x4d\x18") &&
                (input_[0] & std::byte{0xf0}) == std::byte{0x50})) {
        compression_ = Compression::zstd;
        zstd_ = std::make_unique<Zstd>();
        if (zstd_->stream == nullptr) return fail(Code::resource_exhausted, "zstd: no memory");
    } else if (starts_with(input_, "BZh") && input_.size() >= 4 && input_[3] >= std::byte{'1'} &&
               input_[3] <= std::byte{'9'}) {
        compression_ = Compression::bzip2;
        bzip2_ = std::make_unique<Bzip2>();
    } else if (starts_with(input_, xz_magic)) {
        compression_ = Compression::xz;
        xz_ = std::make_unique<Xz>();
        if (lzma_stream_decoder(&xz_->stream, xz_memory_bytes, LZMA_CONCATENATED) != LZMA_OK)
            return fail(Code::resource_exhausted, "xz: no memory");
    }
    return {};
}

Result<std::size_t> StreamDecoder::read(std::span<std::byte> out) {
    if (!detected_) TRY(detect());
    switch (compression_) {
        case Compression::gzip:
            return read_gzip(out);
        case Compression::zstd:
            return read_zstd(out);
        case Compression::bzip2:
            return read_bzip2(out);
        case Compression::xz:
            return read_xz(out);
        case Compression::none:
            break;
    }
    if (input_.empty()) {  // straight into the caller's buffer
        if (source_ended_) return 0;
        std::size_t count = TRY(source_.read(out));
        source_ended_ = count == 0;
        consumed_ += count;
        return count;
    }
    std::size_t count = std::min(out.size(), input_.size());
    std::memcpy(out.data(), input_.data(), count);
    input_ = input_.subspan(count);
    return count;
}

Result<std::size_t> StreamDecoder::read_gzip(std::span<std::byte> out) {
    inflate_state& state = gzip_->state;
    for (;;) {
        if (gzip_->between_members) {
            while (input_.size() < 2 && TRY(fill())) {
            }
            if (input_.empty()) return 0;
            if (!starts_with(input_, "\x1f\x8b")) return corrupt("gzip: garbage after the end");
            gzip_->start_member();
        }
        if (input_.empty()) TRY(fill());
        auto available = static_cast<std::uint32_t>(input_.size());
        state.next_in = as_uint8(input_.data());
        state.avail_in = available;
        state.next_out = as_uint8(out.data());
        state.avail_out = static_cast<std::uint32_t>(std::min<std::size_t>(out.size(), 1U << 30U));
        std::uint32_t room = state.avail_out;
        int status = isal_inflate(&state);
        std::size_t used = available - state.avail_in;
        std::size_t made = room - state.avail_out;
        input_ = input_.subspan(used);
        if (status != ISAL_DECOMP_OK && status != ISAL_END_INPUT && status != ISAL_OUT_OVERFLOW) {
            return corrupt(status == ISAL_INCORRECT_CHECKSUM ? "gzip: checksum mismatch" : "gzip: corrupt data");
        }
        if (state.block_state == ISAL_BLOCK_FINISH) gzip_->between_members = true;
        if (made > 0) return made;
        if (!gzip_->between_members && used == 0 && source_ended_ && input_.empty())
            return corrupt("gzip: unexpected end of data");
    }
}

Result<std::size_t> StreamDecoder::read_zstd(std::span<std::byte> out) {
    for (;;) {
        if (input_.empty() && !TRY(fill()) && zstd_->hint == 0) return 0;
        ZSTD_inBuffer in{input_.data(), input_.size(), 0};
        ZSTD_outBuffer made{out.data(), out.size(), 0};
        if (zstd_->hint == 0 && input_.empty()) return 0;
        std::size_t status = ZSTD_decompressStream(zstd_->stream, &made, &in);
        if (ZSTD_isError(status) != 0) return corrupt(std::string("zstd: ") + ZSTD_getErrorName(status));
        zstd_->hint = status;
        input_ = input_.subspan(in.pos);
        if (made.pos > 0) return made.pos;
        if (in.pos == 0 && input_.empty() && source_ended_ && status != 0)
            return corrupt("zstd: unexpected end of data");
    }
}

Result<std::size_t> StreamDecoder::read_bzip2(std::span<std::byte> out) {
    bz_stream& stream = bzip2_->stream;
    for (;;) {
        if (!bzip2_->is_open) {  // at the start, and behind each stream: several make one file
            while (input_.size() < 3 && TRY(fill())) {
            }
            if (input_.empty()) return 0;
            if (!starts_with(input_, "BZh")) return corrupt("bzip2: garbage after the end");
            bzip2_->start();
            if (!bzip2_->is_open) return fail(Code::resource_exhausted, "bzip2: no memory");
        }
        if (input_.empty()) TRY(fill());
        // SAFETY: bytes as chars; the library only reads its input.
        stream.next_in = reinterpret_cast<char*>(input_.data());
        stream.avail_in = static_cast<unsigned>(input_.size());
        stream.next_out = reinterpret_cast<char*>(out.data());
        const auto room = static_cast<unsigned>(std::min<std::size_t>(out.size(), 1U << 30U));
        stream.avail_out = room;
        const int status = BZ2_bzDecompress(&stream);
        const std::size_t used = input_.size() - stream.avail_in;
        const std::size_t made = room - stream.avail_out;
        input_ = input_.subspan(used);
        if (status == BZ_MEM_ERROR) return fail(Code::resource_exhausted, "bzip2: no memory");
        if (status != BZ_OK && status != BZ_STREAM_END) return corrupt("bzip2: corrupt data");
        if (status == BZ_STREAM_END) bzip2_->end();
        if (made > 0) return made;
        if (status == BZ_OK && used == 0 && source_ended_ && input_.empty())
            return corrupt("bzip2: unexpected end of data");
    }
}

Result<std::size_t> StreamDecoder::read_xz(std::span<std::byte> out) {
    lzma_stream& stream = xz_->stream;
    for (;;) {
        if (xz_->done) return 0;
        if (input_.empty()) TRY(fill());
        stream.next_in = as_uint8(input_.data());
        stream.avail_in = input_.size();
        stream.next_out = as_uint8(out.data());
        stream.avail_out = out.size();
        const lzma_ret status = lzma_code(&stream, source_ended_ ? LZMA_FINISH : LZMA_RUN);
        input_ = input_.subspan(input_.size() - stream.avail_in);
        switch (status) {
            case LZMA_OK:
                break;
            case LZMA_STREAM_END:
                xz_->done = true;
                break;
            case LZMA_BUF_ERROR:
                if (source_ended_) return corrupt("xz: unexpected end of data");
                break;
            case LZMA_MEM_ERROR:
            case LZMA_MEMLIMIT_ERROR:
                return fail(Code::resource_exhausted,
                            "xz: decoding takes more memory than the 128 MiB there are for it");
            case LZMA_OPTIONS_ERROR:
                return corrupt("xz: unsupported options");
            default:
                return corrupt("xz: corrupt data");
        }
        if (const std::size_t made = out.size() - stream.avail_out; made > 0) return made;
    }
}

}  // namespace wherry::image
