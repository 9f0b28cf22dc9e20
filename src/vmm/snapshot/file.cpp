#include "vmm/snapshot/file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>

#include "base/fd.hpp"

namespace wherry::vmm::snapshot {
namespace {

constexpr std::array<char, 8> magic = {'W', 'H', 'R', 'Y', 'S', 'N', 'A', 'P'};
constexpr std::uint16_t x86_64 = 1;
// 32 processors take less than 1 MiB.
constexpr std::uint64_t largest_state = 64U << 20U;

struct Header {
    std::array<char, 8> magic;
    Version version;
    std::uint16_t architecture;
    std::uint64_t shape;
    std::uint64_t bytes;
};
static_assert(sizeof(Header) == 32);

constexpr std::array<std::uint64_t, 256> make_table() {
    constexpr std::uint64_t polynomial = 0xc96c5795d7870f42;
    std::array<std::uint64_t, 256> table = {};
    for (std::uint64_t i = 0; i < table.size(); ++i) {
        std::uint64_t value = i;
        for (int bit = 0; bit < 8; ++bit) value = (value >> 1U) ^ ((value & 1U) != 0 ? polynomial : 0);
        table[i] = value;
    }
    return table;
}
constexpr auto crc_table = make_table();

std::string_view view(const Header& header) {
    // SAFETY: the header's bytes, which live as long as it does.
    return {reinterpret_cast<const char*>(&header), sizeof header};
}

std::unexpected<Error> cut_short() {
    return fail(Code::data_loss, "the snapshot file is truncated");
}

// The whole buffer; an end before that is a snapshot that was cut short.
Result<> read_all(int descriptor, std::span<std::byte> buffer) {
    if (auto read = read_exact(descriptor, buffer); !read) {
        if (read.error().code() == Code::data_loss) return cut_short();
        return std::unexpected(std::move(read).error().context("the snapshot file"));
    }
    return {};
}

Result<Header> read_header(int descriptor) {
    Header header = {};
    TRY(read_all(descriptor, std::as_writable_bytes(std::span(&header.magic, 1))));
    if (header.magic != magic) {
        std::uint64_t number = 0;
        std::memcpy(&number, header.magic.data(), sizeof number);
        constexpr std::uint64_t firecracker = 0x0710198486640000;
        if (number == firecracker)
            return fail(Code::invalid_argument, "the snapshot file is one of Firecracker, which only it can read");
        return fail(Code::invalid_argument, "the file is no snapshot of wherry-vmm");
    }
    TRY(read_all(descriptor, std::as_writable_bytes(std::span(&header, 1)).subspan(sizeof magic)));
    return header;
}

}  // namespace

std::string to_string(const Version& version) {
    return fmt::format("v{}.{}.{}", version.major, version.minor, version.patch);
}

std::uint64_t crc64(std::string_view bytes) {
    std::uint64_t value = ~0ULL;
    for (char byte : bytes) value = crc_table[(value ^ static_cast<unsigned char>(byte)) & 0xffU] ^ (value >> 8U);
    return ~value;
}

std::string wrap(std::string_view state, std::string_view shape) {
    const Header header = {
        .magic = magic, .version = own_version, .architecture = x86_64, .shape = crc64(shape), .bytes = state.size()};
    std::string out(view(header));
    out += state;
    const std::uint64_t sum = crc64(out);
    // SAFETY: the number's bytes.
    out.append(reinterpret_cast<const char*>(&sum), sizeof sum);
    return out;
}

Result<std::string> read_wrapped(int descriptor, std::string_view shape) {
    const Header header = TRY(read_header(descriptor));
    if (header.version != own_version)
        return fail(Code::invalid_argument, fmt::format("the snapshot has version {}; this monitor reads {}",
                                                        to_string(header.version), to_string(own_version)));
    if (header.architecture != x86_64)
        return fail(Code::invalid_argument, "the snapshot is of a machine of another architecture");
    if (header.bytes > largest_state)
        return fail(Code::data_loss, "the snapshot file is damaged: its length is absurd");
    // Piece by piece: a length that lies must not make us allocate what is not there.
    std::string whole(view(header));
    constexpr std::uint64_t piece = 1U << 20U;
    for (std::uint64_t left = header.bytes + sizeof(std::uint64_t); left > 0;) {
        const std::uint64_t now = std::min(left, piece);
        const std::size_t before = whole.size();
        whole.resize(before + now);
        TRY(read_all(descriptor, std::as_writable_bytes(std::span(whole)).subspan(before)));
        left -= now;
    }
    const std::size_t end = whole.size() - sizeof(std::uint64_t);
    std::uint64_t sum = 0;
    std::memcpy(&sum, whole.data() + end, sizeof sum);
    if (crc64(std::string_view(whole).substr(0, end)) != sum)
        return fail(Code::data_loss, "the snapshot file is damaged: its checksum does not match");
    if (header.shape != crc64(shape))
        return fail(Code::invalid_argument, "the snapshot was written by another build, with other devices");
    return whole.substr(sizeof header, header.bytes);
}

Result<Version> read_version(int descriptor) {
    return TRY(read_header(descriptor)).version;
}

}  // namespace wherry::vmm::snapshot
