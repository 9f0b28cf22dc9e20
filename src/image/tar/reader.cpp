#include "image/tar/reader.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>

#include "base/encoding.hpp"
#include "image/bytes.hpp"
#include "image/tar/acl.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t max_special_bytes = 1U << 20U;  // a pax header or long name, as Go limits it
constexpr std::size_t max_extents = 1U << 20U;
constexpr int max_special_entries = 16;  // headers in a row that only describe the next entry
constexpr std::size_t max_sparse_map_bytes = 32U << 20U;

std::unexpected<Error> broken(std::string what) {
    return fail(Code::invalid_argument, "invalid tar: " + std::move(what));
}

// Field offsets of the ustar header (POSIX.1-2017, pax) and its relatives.
struct Field {
    std::size_t offset;
    std::size_t size;
};
constexpr Field name_field{0, 100};
constexpr Field mode_field{100, 8};
constexpr Field uid_field{108, 8};
constexpr Field gid_field{116, 8};
constexpr Field size_field{124, 12};
constexpr Field mtime_field{136, 12};
constexpr Field checksum_field{148, 8};
constexpr std::size_t type_offset = 156;
constexpr Field link_field{157, 100};
constexpr Field magic_field{257, 8};
constexpr Field major_field{329, 8};
constexpr Field minor_field{337, 8};
constexpr Field prefix_field{345, 155};
constexpr Field star_prefix_field{345, 131};
constexpr Field star_trailer_field{508, 4};
// GNU's old sparse header.
constexpr std::size_t gnu_sparse_offset = 386;
constexpr std::size_t gnu_sparse_count = 4;
constexpr std::size_t gnu_extended_offset = 482;
constexpr Field gnu_real_size_field{483, 12};
constexpr std::size_t extension_count = 21;
constexpr std::size_t extension_flag_offset = 504;

std::string_view field(const TarBlock& block, Field where) {
    return as_text(block).substr(where.offset, where.size);
}

std::string_view text_field(const TarBlock& block, Field where) {
    std::string_view text = field(block, where);
    return text.substr(0, text.find('\0'));
}

// Octal with blanks or zeros around it, or GNU's base-256 (two's complement, top bit set).
Result<std::int64_t> number(std::string_view text) {
    auto first = static_cast<unsigned char>(text.front());
    if ((first & 0x80U) != 0) {
        bool negative = (first & 0x40U) != 0;
        std::uint64_t value = negative ? ~std::uint64_t{0} : 0;
        for (std::size_t i = 0; i < text.size(); ++i) {
            auto byte = static_cast<unsigned char>(text[i]);
            if (i == 0) byte = negative ? byte : byte & 0x7fU;
            std::uint64_t top = value >> 56U;
            bool fits = negative ? top == 0xff : top == 0;
            if (!fits) return broken("number out of range");
            value = (value << 8U) | byte;
        }
        auto result = static_cast<std::int64_t>(value);
        if ((result < 0) != negative) return broken("number out of range");
        return result;
    }
    constexpr std::string_view blank(" \0", 2);
    std::size_t start = text.find_first_not_of(blank);
    if (start == std::string_view::npos) return 0;
    text = text.substr(start, text.find_last_not_of(blank) - start + 1);
    std::uint64_t value = 0;
    for (char c : text) {
        if (c == '\0') break;
        if (c < '0' || c > '7') return broken("number is not octal");
        if (value >> 60U != 0) return broken("number out of range");
        value = value << 3U | static_cast<unsigned>(c - '0');
    }
    return static_cast<std::int64_t>(value);
}

Result<std::uint64_t> size_number(std::string_view text) {
    std::int64_t value = TRY(number(text));
    if (value < 0) return broken("negative size");
    return static_cast<std::uint64_t>(value);
}

std::uint32_t low_bits(std::int64_t value) {
    return static_cast<std::uint32_t>(static_cast<std::uint64_t>(value));
}

bool checksum_matches(const TarBlock& block) {
    auto wanted = number(field(block, checksum_field));
    if (!wanted) return false;
    std::int64_t unsigned_sum = 0;
    std::int64_t signed_sum = 0;  // some old writers
    for (std::size_t i = 0; i < block.size(); ++i) {
        bool blank = i >= checksum_field.offset && i < checksum_field.offset + checksum_field.size;
        auto byte = blank ? static_cast<unsigned char>(' ') : std::to_integer<unsigned char>(block[i]);
        unsigned_sum += byte;
        signed_sum += static_cast<signed char>(byte);
    }
    return *wanted == unsigned_sum || *wanted == signed_sum;
}

bool is_zero(const TarBlock& block) {
    return std::ranges::all_of(block, [](std::byte b) { return b == std::byte{0}; });
}

template <class T>
std::optional<T> decimal(std::string_view text) {
    T value{};
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

// "-12.345": seconds and nanoseconds, the latter never negative.
Result<std::pair<std::int64_t, std::uint32_t>> pax_time(std::string_view text) {
    std::size_t dot = text.find('.');
    std::string_view whole = text.substr(0, dot);
    auto seconds = decimal<std::int64_t>(whole);
    if (!seconds) return broken("pax time");
    std::uint32_t nanoseconds = 0;
    if (dot != std::string_view::npos) {
        std::string digits(text.substr(dot + 1));
        if (!std::ranges::all_of(digits, [](char c) { return c >= '0' && c <= '9'; })) return broken("pax time");
        digits.resize(9, '0');
        nanoseconds = decimal<std::uint32_t>(digits).value_or(0);
    }
    if (whole.starts_with('-') && nanoseconds > 0) {
        if (*seconds == std::numeric_limits<std::int64_t>::min()) return broken("pax time");
        return std::pair{*seconds - 1, 1'000'000'000U - nanoseconds};
    }
    return std::pair{*seconds, nanoseconds};
}

std::string url_decode(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        unsigned byte = 0;
        if (text[i] == '%' && i + 2 < text.size() &&
            std::from_chars(text.data() + i + 1, text.data() + i + 3, byte, 16).ptr == text.data() + i + 3) {
            out += static_cast<char>(byte);
            i += 2;
        } else {
            out += text[i];
        }
    }
    return out;
}

Result<> check_extents(TarEntry& entry) {
    std::uint64_t end = 0;
    std::uint64_t stored = 0;
    for (const auto& extent : entry.extents) {
        if (extent.offset < end || extent.length > entry.size_bytes ||
            extent.offset > entry.size_bytes - extent.length) {
            return broken("sparse map is not ordered or leaves the file");
        }
        end = extent.offset + extent.length;
        stored += extent.length;
    }
    if (stored != entry.stored_bytes) return broken("sparse map and size differ");
    return {};
}

}  // namespace

// What the headers before an entry said about it.
struct TarReader::Pax {
    std::optional<std::string> path;
    std::optional<std::string> link;
    std::optional<std::uint64_t> size;
    std::optional<std::int64_t> uid;
    std::optional<std::int64_t> gid;
    std::optional<std::pair<std::int64_t, std::uint32_t>> mtime;
    std::map<std::string, std::string> xattrs;
    std::optional<std::uint64_t> sparse_real_size;
    std::optional<std::string> sparse_name;
    std::string sparse_major;
    std::string sparse_minor;
    bool sparse = false;
    std::vector<TarExtent> sparse_map;
    std::optional<std::uint64_t> sparse_offset;

    Result<> set(std::string_view key, std::string_view value);
    Result<> set_sparse(std::string_view key, std::string_view value);
    Result<> parse(std::string_view text);
};

Result<> TarReader::Pax::set_sparse(std::string_view key, std::string_view value) {
    sparse = true;
    if (key == "major") {
        sparse_major = value;
    } else if (key == "minor") {
        sparse_minor = value;
    } else if (key == "name") {
        sparse_name = std::string(value);
    } else if (key == "size" || key == "realsize") {
        sparse_real_size = decimal<std::uint64_t>(value);
        if (!sparse_real_size) return broken("sparse size");
    } else if (key == "offset") {
        sparse_offset = decimal<std::uint64_t>(value);
        if (!sparse_offset) return broken("sparse offset");
    } else if (key == "numbytes") {
        auto length = decimal<std::uint64_t>(value);
        if (!length || !sparse_offset || sparse_map.size() >= max_extents) return broken("sparse map");
        sparse_map.push_back({*sparse_offset, *length});
        sparse_offset.reset();
    } else if (key == "map") {
        sparse_map.clear();
        while (!value.empty()) {
            std::size_t comma = value.find(',');
            if (comma == std::string_view::npos) return broken("sparse map");
            std::size_t end = std::min(value.find(',', comma + 1), value.size());
            auto offset = decimal<std::uint64_t>(value.substr(0, comma));
            auto length = decimal<std::uint64_t>(value.substr(comma + 1, end - comma - 1));
            if (!offset || !length || sparse_map.size() >= max_extents) return broken("sparse map");
            sparse_map.push_back({*offset, *length});
            value.remove_prefix(std::min(end + 1, value.size()));
        }
    }
    return {};
}

Result<> TarReader::Pax::set(std::string_view key, std::string_view value) {
    bool binary = key.starts_with("SCHILY.xattr.") || key.starts_with("LIBARCHIVE.xattr.");
    if (!binary && value.find('\0') != std::string_view::npos) return broken("zero byte in pax header");
    if (key == "path") {
        path = std::string(value);
    } else if (key == "linkpath") {
        link = std::string(value);
    } else if (key == "size") {
        size = decimal<std::uint64_t>(value);
        if (!size || *size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
            return broken("pax size");
    } else if (key == "uid" || key == "gid") {
        auto& id = key == "uid" ? uid : gid;
        id = decimal<std::int64_t>(value);
        if (!id) return broken("pax uid or gid");
    } else if (key == "mtime") {
        mtime = TRY(pax_time(value));
    } else if (key == "SCHILY.acl.access" || key == "SCHILY.acl.default") {
        auto acl = encode_acl(value);
        if (acl)
            xattrs[key == "SCHILY.acl.access" ? "system.posix_acl_access" : "system.posix_acl_default"] =
                std::move(*acl);
    } else if (key.starts_with("SCHILY.xattr.")) {
        xattrs[std::string(key.substr(13))] = value;
    } else if (key.starts_with("LIBARCHIVE.xattr.")) {
        auto decoded = base64_decode(value);
        std::string name = url_decode(key.substr(17));
        if (decoded && !xattrs.contains(name)) xattrs[name] = std::move(*decoded);
    } else if (key.starts_with("GNU.sparse.")) {
        return set_sparse(key.substr(11), value);
    }
    return {};
}

// Records "<length> <key>=<value>\n" (POSIX.1-2017, pax Extended Header).
Result<> TarReader::Pax::parse(std::string_view text) {
    while (!text.empty()) {
        std::size_t blank = text.find(' ');
        auto length = decimal<std::size_t>(text.substr(0, blank));
        if (blank == std::string_view::npos || !length || *length <= blank + 1 || *length > text.size() ||
            text[*length - 1] != '\n') {
            return broken("pax record");
        }
        std::string_view record = text.substr(blank + 1, *length - blank - 2);
        std::size_t equals = record.find('=');
        if (equals == std::string_view::npos || equals == 0) return broken("pax record");
        TRY(set(record.substr(0, equals), record.substr(equals + 1)));
        text.remove_prefix(*length);
    }
    return {};
}

Result<bool> TarReader::fill() {
    if (!current_.empty()) return true;
    current_ = TRY(chunks_());
    return !current_.empty();
}

Result<> TarReader::observe(std::span<const std::byte> bytes) {
    if (raw_) return raw_(bytes);
    return {};
}

// False at the very end of the stream.
Result<bool> TarReader::read_block(TarBlock& block) {
    std::size_t filled = 0;
    while (filled < block.size()) {
        if (!TRY(fill())) {
            if (filled == 0) return false;
            return broken("unexpected end of archive");
        }
        std::size_t count = std::min(current_.size(), block.size() - filled);
        std::memcpy(block.data() + filled, current_.data(), count);
        current_ = current_.subspan(count);
        filled += count;
    }
    TRY(observe(block));
    return true;
}

Result<> TarReader::skip(std::uint64_t count) {
    while (count > 0) {
        if (!TRY(fill())) return broken("unexpected end of archive");
        auto piece = current_.first(static_cast<std::size_t>(std::min<std::uint64_t>(count, current_.size())));
        TRY(observe(piece));
        current_ = current_.subspan(piece.size());
        count -= piece.size();
    }
    return {};
}

// The content of an entry that describes the next one.
Result<std::string> TarReader::read_special(std::uint64_t size) {
    if (size > max_special_bytes) return broken("extended header is larger than 1 MiB");
    std::string text;
    while (text.size() < size) {
        if (!TRY(fill())) return broken("unexpected end of archive");
        auto piece =
            current_.first(static_cast<std::size_t>(std::min<std::uint64_t>(size - text.size(), current_.size())));
        TRY(observe(piece));
        text += as_text(piece);
        current_ = current_.subspan(piece.size());
    }
    TRY(skip((tar_block_bytes - size % tar_block_bytes) % tar_block_bytes));
    return text;
}

Result<> TarReader::drain() {
    done_ = true;
    while (TRY(fill())) {
        TRY(observe(current_));
        current_ = {};
    }
    return {};
}

Result<std::span<const std::byte>> TarReader::data() {
    std::span<const std::byte> piece;
    if (remaining_ == 0) return piece;
    if (!TRY(fill())) return broken("unexpected end of archive");
    piece = current_.first(static_cast<std::size_t>(std::min<std::uint64_t>(remaining_, current_.size())));
    current_ = current_.subspan(piece.size());
    remaining_ -= piece.size();
    return piece;
}

Result<> TarReader::read_old_sparse_map(const TarBlock& block, TarEntry& entry) {
    auto add = [&](const TarBlock& from, std::size_t offset) -> Result<bool> {
        std::string_view where = field(from, {offset, 12});
        if (where.front() == '\0') return false;  // an unused slot ends the list
        std::uint64_t start = TRY(size_number(where));
        std::uint64_t length = TRY(size_number(field(from, {offset + 12, 12})));
        if (entry.extents.size() >= max_extents) return broken("sparse map is too long");
        entry.extents.push_back({start, length});
        return true;
    };
    bool more = true;
    for (std::size_t i = 0; i < gnu_sparse_count && more; ++i) more = TRY(add(block, gnu_sparse_offset + i * 24));
    bool extended = block[gnu_extended_offset] != std::byte{0};
    while (extended) {
        TarBlock extension{};
        if (!TRY(read_block(extension))) return broken("unexpected end of archive");
        more = true;
        for (std::size_t i = 0; i < extension_count && more; ++i) more = TRY(add(extension, i * 24));
        extended = extension[extension_flag_offset] != std::byte{0};
    }
    return {};
}

// The map stands before the data, as decimal lines, padded to a block.
Result<> TarReader::read_sparse_map_1_0(TarEntry& entry) {
    std::string pending;
    std::size_t read_bytes = 0;
    std::vector<std::uint64_t> numbers;
    std::optional<std::uint64_t> wanted;
    while (!wanted || numbers.size() < *wanted * 2) {
        TarBlock block{};
        if (remaining_ < block.size()) return broken("sparse map");
        if (!TRY(read_block(block))) return broken("unexpected end of archive");
        remaining_ -= block.size();
        read_bytes += block.size();
        if (read_bytes > max_sparse_map_bytes) return broken("sparse map is too long");
        pending += as_text(block);
        std::size_t start = 0;
        for (std::size_t end = pending.find('\n'); end != std::string::npos; end = pending.find('\n', start)) {
            if (wanted && numbers.size() == *wanted * 2) break;
            auto value = decimal<std::uint64_t>(std::string_view(pending).substr(start, end - start));
            if (!value) return broken("sparse map");
            start = end + 1;
            if (wanted) {
                numbers.push_back(*value);
            } else {
                wanted = value;
                if (*wanted > max_extents) return broken("sparse map is too long");
            }
        }
        pending.erase(0, start);
        if (pending.size() > tar_block_bytes + 32) return broken("sparse map");
    }
    for (std::size_t i = 0; i < numbers.size(); i += 2) entry.extents.push_back({numbers[i], numbers[i + 1]});
    entry.stored_bytes = remaining_;
    return {};
}

Result<TarEntry> TarReader::decode(const TarBlock& block, Pax& pax) {
    TarEntry entry;
    std::string_view magic = field(block, magic_field);
    bool gnu = magic == std::string_view("ustar  \0", 8);
    bool ustar = magic.starts_with(std::string_view("ustar\0", 6));
    entry.path = text_field(block, name_field);
    if (ustar) {
        bool star = field(block, star_trailer_field) == std::string_view("tar\0", 4);
        std::string_view prefix = text_field(block, star ? star_prefix_field : prefix_field);
        if (!prefix.empty()) entry.path = std::string(prefix) + "/" + entry.path;
    }
    entry.target = text_field(block, link_field);
    entry.mode = low_bits(TRY(number(field(block, mode_field)))) & 07777U;
    std::int64_t uid = TRY(number(field(block, uid_field)));
    std::int64_t gid = TRY(number(field(block, gid_field)));
    std::uint64_t size = TRY(size_number(field(block, size_field)));
    entry.mtime_seconds = TRY(number(field(block, mtime_field)));
    if (gnu || ustar) {
        // Some writers leave blanks or garbage here for entries that are no devices.
        entry.device_major = low_bits(number(field(block, major_field)).value_or(0));
        entry.device_minor = low_bits(number(field(block, minor_field)).value_or(0));
    }
    char flag = static_cast<char>(block[type_offset]);
    if (pax.path) entry.path = *pax.path;
    if (pax.sparse_name) entry.path = *pax.sparse_name;
    if (pax.link) entry.target = *pax.link;
    if (pax.size) size = *pax.size;
    if (pax.uid) uid = *pax.uid;
    if (pax.gid) gid = *pax.gid;
    if (pax.mtime) std::tie(entry.mtime_seconds, entry.mtime_nanoseconds) = *pax.mtime;
    constexpr std::int64_t max_id = std::numeric_limits<std::uint32_t>::max() - 1;
    if (uid < 0 || uid > max_id || gid < 0 || gid > max_id) return broken("uid or gid out of range");
    entry.uid = low_bits(uid);
    entry.gid = low_bits(gid);
    entry.xattrs = std::move(pax.xattrs);
    switch (flag) {
        case '\0':
        case '0':
        case '7':
        case 'S':
            entry.type = entry.path.ends_with('/') && flag != 'S' ? TarType::directory : TarType::regular;
            break;
        case '1':
            entry.type = TarType::hard_link;
            break;
        case '2':
            entry.type = TarType::symlink;
            break;
        case '3':
            entry.type = TarType::character_device;
            break;
        case '4':
            entry.type = TarType::block_device;
            break;
        case '5':
            entry.type = TarType::directory;
            break;
        case '6':
            entry.type = TarType::fifo;
            break;
        default:
            return broken("entry of unsupported type " + std::to_string(static_cast<unsigned char>(flag)));
    }
    // What has no content by its kind has none, whatever the size says.
    bool has_content = flag == '\0' || flag == '0' || flag == '7' || flag == 'S';
    if (!has_content) size = 0;
    entry.size_bytes = entry.type == TarType::regular ? size : 0;
    entry.stored_bytes = size;
    remaining_ = size;
    padding_ = (tar_block_bytes - size % tar_block_bytes) % tar_block_bytes;
    if (flag == 'S') {
        entry.sparse = true;
        entry.size_bytes = TRY(size_number(field(block, gnu_real_size_field)));
        TRY(read_old_sparse_map(block, entry));
    } else if (pax.sparse && entry.type == TarType::regular) {
        entry.sparse = true;
        if (!pax.sparse_real_size) return broken("sparse file without its size");
        entry.size_bytes = *pax.sparse_real_size;
        if (pax.sparse_major == "1") {
            TRY(read_sparse_map_1_0(entry));
        } else {
            entry.extents = std::move(pax.sparse_map);
        }
    }
    if (entry.sparse) TRY(check_extents(entry));
    if (entry.path.empty()) return broken("entry without a name");
    return entry;
}

Result<std::optional<TarEntry>> TarReader::next() {
    if (done_) return std::nullopt;
    TRY(skip(remaining_));
    remaining_ = 0;
    TRY(skip(padding_));
    padding_ = 0;
    Pax pax;
    for (int specials = 0;; ++specials) {
        if (specials > max_special_entries) return broken("too many extended headers in a row");
        TarBlock block{};
        if (!TRY(read_block(block))) {
            done_ = true;
            if (specials > 0) return broken("unexpected end of archive");
            return std::nullopt;
        }
        if (is_zero(block)) {
            if (specials > 0) return broken("extended header without an entry");
            TRY(drain());
            return std::nullopt;
        }
        if (!checksum_matches(block))
            return broken(any_entry_ ? "header checksum" : "this does not look like a tar archive");
        char flag = static_cast<char>(block[type_offset]);
        if (flag != 'x' && flag != 'X' && flag != 'g' && flag != 'L' && flag != 'K') {
            any_entry_ = true;
            return TRY(decode(block, pax));
        }
        std::string text = TRY(read_special(TRY(size_number(field(block, size_field)))));
        if (flag == 'x' || flag == 'X') {
            TRY(pax.parse(text));
        } else if (flag != 'g') {  // a global header changes nothing here, as in Docker
            (flag == 'L' ? pax.path : pax.link) = text.substr(0, text.find('\0'));
        }
    }
}

}  // namespace wherry::image
