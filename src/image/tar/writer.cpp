#include "image/tar/writer.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace wherry::image {

namespace {

constexpr std::uint64_t max_octal_size = 077777777777ULL;
constexpr std::uint32_t max_octal_id = 07777777U;

void put_text(TarBlock& block, std::size_t offset, std::size_t size, std::string_view text) {
    std::memcpy(block.data() + offset, text.data(), std::min(size, text.size()));
}

void put_octal(TarBlock& block, std::size_t offset, std::size_t size, std::uint64_t value) {
    std::string digits(size - 1, '0');
    for (std::size_t i = digits.size(); i > 0 && value > 0; --i, value >>= 3U)
        digits[i - 1] = static_cast<char>('0' + (value & 7U));
    put_text(block, offset, size, digits);
}

bool is_ascii(std::string_view text) {
    return std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// "<length> key=value\n", where length counts itself.
std::string pax_record(std::string_view key, std::string_view value) {
    std::size_t rest = key.size() + value.size() + 3;
    std::size_t length = rest + std::to_string(rest).size();
    if (std::to_string(length).size() + rest != length) length = rest + std::to_string(length).size();
    std::string record = std::to_string(length);
    record += ' ';
    record += key;
    record += '=';
    record += value;
    record += '\n';
    return record;
}

std::string pax_time(std::int64_t seconds, std::uint32_t nanoseconds) {
    bool negative = seconds < 0 && nanoseconds > 0;
    if (negative) {  // -1.75 is kept as -2 s + 0.25 s
        ++seconds;
        nanoseconds = 1'000'000'000U - nanoseconds;
    }
    std::string fraction = std::to_string(nanoseconds);
    fraction.insert(0, 9 - fraction.size(), '0');
    fraction.erase(fraction.find_last_not_of('0') + 1);
    return (negative && seconds == 0 ? "-0" : std::to_string(seconds)) + (fraction.empty() ? "" : "." + fraction);
}

char type_flag(TarType type) {
    switch (type) {
        case TarType::regular:
            return '0';
        case TarType::hard_link:
            return '1';
        case TarType::symlink:
            return '2';
        case TarType::character_device:
            return '3';
        case TarType::block_device:
            return '4';
        case TarType::directory:
            return '5';
        case TarType::fifo:
            return '6';
    }
    return '0';
}

std::string sparse_map(const TarEntry& entry) {
    std::string map = std::to_string(entry.extents.size()) + "\n";
    for (const auto& extent : entry.extents)
        map += std::to_string(extent.offset) + "\n" + std::to_string(extent.length) + "\n";
    map.resize((map.size() + tar_block_bytes - 1) / tar_block_bytes * tar_block_bytes, '\0');
    return map;
}

}  // namespace

Result<> TarWriter::zeros(std::uint64_t count) {
    static constexpr std::array<std::byte, 4096> nothing{};
    while (count > 0) {
        auto piece = std::span(nothing).first(static_cast<std::size_t>(std::min<std::uint64_t>(count, nothing.size())));
        TRY(put(piece));
        count -= piece.size();
    }
    return {};
}

Result<> TarWriter::header(const TarEntry& entry, std::string_view name, std::string_view target, char flag,
                           std::uint64_t size) {
    TarBlock block{};
    put_text(block, 0, 100, name);
    put_octal(block, 100, 8, entry.mode & 07777U);
    put_octal(block, 108, 8, std::min(entry.uid, max_octal_id));
    put_octal(block, 116, 8, std::min(entry.gid, max_octal_id));
    put_octal(block, 124, 12, std::min(size, max_octal_size));
    auto mtime = static_cast<std::uint64_t>(std::max<std::int64_t>(entry.mtime_seconds, 0));
    put_octal(block, 136, 12, std::min(mtime, max_octal_size));
    put_text(block, 148, 8, "        ");
    block[156] = static_cast<std::byte>(flag);
    put_text(block, 157, 100, target);
    put_text(block, 257, 8, std::string_view("ustar\00000", 8));
    if (entry.type == TarType::character_device || entry.type == TarType::block_device) {
        put_octal(block, 329, 8, entry.device_major);
        put_octal(block, 337, 8, entry.device_minor);
    }
    unsigned sum = 0;
    for (std::byte byte : block) sum += std::to_integer<unsigned>(byte);
    put_octal(block, 148, 7, sum);
    return put(block);
}

Result<> TarWriter::begin(const TarEntry& entry) {
    std::string records;
    std::string name = entry.path;
    std::string map;
    std::uint64_t size = entry.type == TarType::regular ? entry.stored_bytes : 0;
    if (entry.sparse) {
        map = sparse_map(entry);
        size += map.size();
        records += pax_record("GNU.sparse.major", "1") + pax_record("GNU.sparse.minor", "0");
        records += pax_record("GNU.sparse.name", entry.path) +
                   pax_record("GNU.sparse.realsize", std::to_string(entry.size_bytes));
        name = "GNUSparseFile.0/" + entry.path.substr(entry.path.rfind('/') + 1).substr(0, 80);
    } else if (name.size() > 100 || !is_ascii(name)) {
        records += pax_record("path", name);
    }
    if (entry.target.size() > 100 || !is_ascii(entry.target)) records += pax_record("linkpath", entry.target);
    if (size > max_octal_size) records += pax_record("size", std::to_string(size));
    if (entry.uid > max_octal_id) records += pax_record("uid", std::to_string(entry.uid));
    if (entry.gid > max_octal_id) records += pax_record("gid", std::to_string(entry.gid));
    if (entry.mtime_nanoseconds != 0 || entry.mtime_seconds < 0) {
        records += pax_record("mtime", pax_time(entry.mtime_seconds, entry.mtime_nanoseconds));
    }
    for (const auto& [key, value] : entry.xattrs) records += pax_record("SCHILY.xattr." + key, value);
    if (!records.empty()) {
        TarEntry extended;
        extended.mode = 0644;
        TRY(header(extended, "PaxHeaders.0/" + entry.path.substr(0, 80), "", 'x', records.size()));
        TRY(put(as_bytes(records)));
        TRY(zeros((tar_block_bytes - records.size() % tar_block_bytes) % tar_block_bytes));
    }
    TRY(header(entry, name, entry.target, type_flag(entry.type), size));
    promised_ = size - map.size();
    padding_ = (tar_block_bytes - size % tar_block_bytes) % tar_block_bytes;
    if (!map.empty()) TRY(put(as_bytes(map)));
    return {};
}

Result<> TarWriter::content(std::span<const std::byte> bytes) {
    if (bytes.size() > promised_) return fail(Code::internal, "more content than the tar header promised");
    promised_ -= bytes.size();
    return put(bytes);
}

Result<> TarWriter::end() {
    TRY(zeros(promised_ + padding_));
    promised_ = 0;
    padding_ = 0;
    return {};
}

Result<> TarWriter::finish() {
    return zeros(2 * tar_block_bytes);
}

Result<> TarWriter::file(std::string_view path, std::string_view bytes, std::int64_t mtime_seconds) {
    TarEntry entry;
    entry.path = path;
    entry.mode = 0644;
    entry.size_bytes = bytes.size();
    entry.stored_bytes = bytes.size();
    entry.mtime_seconds = mtime_seconds;
    TRY(begin(entry));
    TRY(content(as_bytes(bytes)));
    return end();
}

}  // namespace wherry::image
