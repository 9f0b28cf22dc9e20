#include "image/registry/gzip_writer.hpp"

#include <isa-l/igzip_lib.h>

#include <array>
#include <vector>

namespace wherry::image {

struct GzipWriter::State {
    isal_zstream stream{};
    std::vector<std::uint8_t> level_buffer = std::vector<std::uint8_t>(ISAL_DEF_LVL1_DEFAULT);
    std::array<std::uint8_t, 128U << 10U> output{};
};

GzipWriter::GzipWriter(ByteSink sink) : state_(std::make_unique<State>()), sink_(std::move(sink)) {
    isal_deflate_init(&state_->stream);
    state_->stream.gzip_flag = IGZIP_GZIP;
    state_->stream.level = 1;
    state_->stream.level_buf = state_->level_buffer.data();
    state_->stream.level_buf_size = static_cast<std::uint32_t>(state_->level_buffer.size());
}

GzipWriter::~GzipWriter() = default;

Result<> GzipWriter::deflate(std::span<const std::byte> data, bool last) {
    isal_zstream& stream = state_->stream;
    // SAFETY: ISA-L reads bytes and does not write to its input.
    stream.next_in = reinterpret_cast<std::uint8_t*>(const_cast<std::byte*>(data.data()));
    stream.avail_in = static_cast<std::uint32_t>(data.size());
    stream.end_of_stream = last ? 1 : 0;
    do {
        stream.next_out = state_->output.data();
        stream.avail_out = static_cast<std::uint32_t>(state_->output.size());
        if (int status = isal_deflate(&stream); status != COMP_OK)
            return fail(Code::internal, "gzip: error " + std::to_string(status));
        std::size_t made = state_->output.size() - stream.avail_out;
        if (made > 0) TRY(sink_(std::as_bytes(std::span(state_->output).first(made))));
    } while (stream.avail_out == 0 || stream.avail_in > 0);
    return {};
}

Result<> GzipWriter::write(std::span<const std::byte> data) {
    while (!data.empty()) {
        std::size_t piece = std::min<std::size_t>(data.size(), 1U << 20U);
        TRY(deflate(data.first(piece), false));
        data = data.subspan(piece);
    }
    return {};
}

Result<> GzipWriter::finish() {
    return deflate({}, true);
}

}  // namespace wherry::image
