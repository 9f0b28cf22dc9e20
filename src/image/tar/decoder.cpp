#include "image/tar/decoder.hpp"

#include <isa-l/igzip_lib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace wherry::image {

namespace {

constexpr std::size_t input_bytes = 256U << 10U;

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
    } else if (starts_with(input_, "BZh") || starts_with(input_, std::string_view("\xfd"
                                                                                  "7zXZ\0",
                                                                                  6))) {
        return corrupt(starts_with(input_, "B") ? "bzip2 compression is not supported: use gzip or zstd"
                                                : "xz compression is not supported: use gzip or zstd");
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

}  // namespace wherry::image
