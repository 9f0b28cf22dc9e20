#include "cli/tar.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <map>

namespace wherry::cli {

namespace {

constexpr std::size_t block_size = 512;
constexpr std::uint64_t text_limit = 1U << 20U;  // of a long name or a pax record

std::unexpected<Error> broken(const char* what) {
    return fail(Code::data_loss, std::string("tar: ") + what);
}

std::string_view field(std::span<const char, block_size> block, std::size_t offset, std::size_t length) {
    std::string_view text(block.data() + offset, length);
    return text.substr(0, text.find('\0'));
}

// Octal digits, or base 256 where the first bit is set (GNU).
Result<std::uint64_t> number(std::span<const char, block_size> block, std::size_t offset, std::size_t length) {
    std::uint64_t value = 0;
    if ((static_cast<unsigned char>(block[offset]) & 0x80U) != 0) {
        for (std::size_t i = 1; i < length; ++i) {
            if ((value >> 55U) != 0) return broken("a number is too large");
            value = (value << 8U) | static_cast<unsigned char>(block[offset + i]);
        }
        return value;
    }
    for (std::size_t i = 0; i < length; ++i) {
        char c = block[offset + i];
        if (c == ' ' || c == '\0') continue;
        if (c < '0' || c > '7') return broken("a number is not octal");
        value = value * 8 + static_cast<std::uint64_t>(c - '0');
    }
    return value;
}

void put_octal(std::span<char> target, std::uint64_t value) {
    char text[32];
    std::snprintf(text, sizeof text, "%0*llo", static_cast<int>(target.size() - 1),
                  static_cast<unsigned long long>(value));
    std::memcpy(target.data(), text, std::min(target.size(), std::strlen(text) + 1));
}

std::string raw_header(const TarEntry& entry, std::string_view name, std::string_view link) {
    std::string block(block_size, '\0');
    std::span<char> bytes(block);
    std::memcpy(block.data(), name.data(), std::min<std::size_t>(name.size(), 100));
    put_octal(bytes.subspan(100, 8), entry.mode & 07777U);
    put_octal(bytes.subspan(108, 8), std::min<std::uint64_t>(entry.uid, 07777777));
    put_octal(bytes.subspan(116, 8), std::min<std::uint64_t>(entry.gid, 07777777));
    put_octal(bytes.subspan(124, 12), std::min<std::uint64_t>(entry.size, 077777777777));
    put_octal(bytes.subspan(136, 12), static_cast<std::uint64_t>(std::max<std::int64_t>(entry.mtime_s, 0)));
    block[156] = entry.type;
    std::memcpy(block.data() + 157, link.data(), std::min<std::size_t>(link.size(), 100));
    std::memcpy(block.data() + 257, "ustar\00000", 8);
    std::memset(block.data() + 148, ' ', 8);
    unsigned sum = 0;
    for (char c : block) sum += static_cast<unsigned char>(c);
    put_octal(bytes.subspan(148, 7), sum);
    return block;
}

std::string pax_record(std::string_view key, std::string_view value) {
    std::size_t length = key.size() + value.size() + 3;
    std::size_t digits = std::to_string(length).size();
    while (std::to_string(length + digits).size() != digits) ++digits;
    std::string out = std::to_string(length + digits);
    out += ' ';
    out += key;
    out += '=';
    out += value;
    out += '\n';
    return out;
}

}  // namespace

std::string tar_padding(std::uint64_t size) {
    return std::string((block_size - size % block_size) % block_size, '\0');
}
std::string tar_end() {
    return std::string(2 * block_size, '\0');
}

std::string tar_header(const TarEntry& entry) {
    std::string records;
    std::string name = entry.name;
    if (entry.type == '5') name += '/';
    if (name.size() > 100) records += pax_record("path", name);
    if (entry.link.size() > 100) records += pax_record("linkpath", entry.link);
    if (entry.size > 077777777777) records += pax_record("size", std::to_string(entry.size));
    if (entry.uid > 07777777) records += pax_record("uid", std::to_string(entry.uid));
    if (entry.gid > 07777777) records += pax_record("gid", std::to_string(entry.gid));
    std::string out;
    if (!records.empty()) {
        TarEntry extension;
        extension.type = 'x';
        extension.size = records.size();
        out += raw_header(extension, "././@PaxHeader", "") + records + tar_padding(records.size());
    }
    return out + raw_header(entry, name, entry.link);
}

Result<bool> TarReader::fill(std::span<std::byte> buffer) {
    std::size_t done = 0;
    while (done < buffer.size()) {
        std::size_t count = TRY(source_(buffer.subspan(done)));
        if (count == 0) {
            if (done == 0) return false;
            return broken("cut short");
        }
        done += count;
    }
    return true;
}

Result<std::string> TarReader::read_text(std::uint64_t size) {
    if (size > text_limit) return broken("a name or record is too long");
    std::string text(static_cast<std::size_t>(size), '\0');
    if (!text.empty() && !TRY(fill(std::as_writable_bytes(std::span(text))))) return broken("cut short");
    std::string rest = tar_padding(size);
    if (!rest.empty() && !TRY(fill(std::as_writable_bytes(std::span(rest))))) return broken("cut short");
    return text;
}

Result<std::size_t> TarReader::read(std::span<std::byte> buffer) {
    if (left_ == 0) return 0;
    std::size_t count =
        TRY(source_(buffer.first(static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), left_)))));
    if (count == 0) return broken("cut short");
    left_ -= count;
    return count;
}

Result<> TarReader::drain() {
    std::array<std::byte, 16384> buffer{};
    while (TRY(source_(buffer)) > 0) {
    }
    return {};
}

Result<std::optional<TarEntry>> TarReader::next() {
    std::array<std::byte, 16384> waste{};
    while (left_ > 0) TRY(read(waste));
    while (padding_ > 0) {
        std::span<std::byte> part(waste.data(), static_cast<std::size_t>(padding_));
        if (!TRY(fill(part))) return broken("cut short");
        padding_ = 0;
    }
    std::map<std::string, std::string> records;
    std::string long_name;
    std::string long_link;
    while (true) {
        std::array<char, block_size> raw{};
        if (!TRY(fill(std::as_writable_bytes(std::span(raw))))) return std::nullopt;
        std::span<const char, block_size> block(raw);
        if (std::ranges::all_of(raw, [](char c) { return c == 0; })) return std::nullopt;
        unsigned sum = 0;
        for (std::size_t i = 0; i < block_size; ++i)
            sum += i >= 148 && i < 156 ? ' ' : static_cast<unsigned char>(raw.at(i));
        if (TRY(number(block, 148, 8)) != sum) return broken("a header's checksum is wrong");
        char type = raw[156] == '\0' ? '0' : raw[156];
        std::uint64_t size = TRY(number(block, 124, 12));
        if (type == 'x' || type == 'g') {
            std::string text = TRY(read_text(size));
            for (std::string_view rest = text; type == 'x' && !rest.empty();) {
                std::size_t length = 0;
                auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), length);
                auto digits = static_cast<std::size_t>(end - rest.data());
                if (error != std::errc() || length <= digits + 1 || length > rest.size())
                    return broken("a pax record is wrong");
                std::string_view record = rest.substr(digits + 1, length - digits - 2);
                rest.remove_prefix(length);
                auto equals = record.find('=');
                if (equals != std::string_view::npos)
                    records[std::string(record.substr(0, equals))] = std::string(record.substr(equals + 1));
            }
            continue;
        }
        if (type == 'L' || type == 'K') {
            std::string text = TRY(read_text(size));
            text.resize(std::min(text.size(), text.find('\0')));
            (type == 'L' ? long_name : long_link) = text;
            continue;
        }
        TarEntry entry;
        entry.type = type;
        entry.name = std::string(field(block, 0, 100));
        if (std::string_view prefix = field(block, 345, 155);
            !prefix.empty() && std::memcmp(raw.data() + 257, "ustar\0", 6) == 0)
            entry.name = std::string(prefix) + "/" + entry.name;
        entry.link = std::string(field(block, 157, 100));
        if (!long_name.empty()) entry.name = long_name;
        if (!long_link.empty()) entry.link = long_link;
        if (records.contains("path")) entry.name = records["path"];
        if (records.contains("linkpath")) entry.link = records["linkpath"];
        if (records.contains("size")) {
            const std::string& text = records["size"];
            auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
            if (error != std::errc() || end != text.data() + text.size()) return broken("a pax size is wrong");
        }
        entry.mode = static_cast<mode_t>(TRY(number(block, 100, 8)) & 07777U);
        entry.uid = static_cast<uid_t>(TRY(number(block, 108, 8)));
        entry.gid = static_cast<gid_t>(TRY(number(block, 116, 8)));
        entry.mtime_s = static_cast<std::int64_t>(TRY(number(block, 136, 12)));
        entry.size = type == '0' || type == '7' ? size : 0;
        while (entry.name.size() > 1 && entry.name.ends_with('/')) entry.name.pop_back();
        left_ = entry.size;
        padding_ = (block_size - entry.size % block_size) % block_size;
        return entry;
    }
}

Result<TarOfPath> TarOfPath::open(const std::string& path, std::string root_name, bool follow) {
    TarOfPath archive;
    TRY(archive.add({path, std::move(root_name)}, follow));
    return archive;
}

Result<> TarOfPath::add(const Item& item, bool follow) {
    struct stat info{};
    if ((follow ? ::stat(item.path.c_str(), &info) : ::lstat(item.path.c_str(), &info)) < 0)
        return fail_errno("stat " + item.path);
    TarEntry entry;
    entry.name = item.name;
    entry.mode = info.st_mode & 07777U;
    entry.uid = info.st_uid;
    entry.gid = info.st_gid;
    entry.mtime_s = info.st_mtim.tv_sec;
    if (S_ISREG(info.st_mode)) {
        file_ = TRY(open_file(item.path, O_RDONLY | (follow ? 0 : O_NOFOLLOW)));
        // The size of what was opened, and exactly that much is sent, whatever becomes of the file meanwhile.
        if (::fstat(file_.get(), &info) < 0) return fail_errno("stat " + item.path);
        entry.size = static_cast<std::uint64_t>(info.st_size);
        file_left_ = file_size_ = entry.size;
    } else if (S_ISDIR(info.st_mode)) {
        entry.type = '5';
        DIR* folder = ::opendir(item.path.c_str());
        if (folder == nullptr) return fail_errno("open " + item.path);
        std::vector<std::string> names;
        while (const dirent* child = ::readdir(folder)) {
            std::string name = child->d_name;
            if (name != "." && name != "..") names.push_back(std::move(name));
        }
        ::closedir(folder);
        std::ranges::sort(names, std::greater());
        for (const std::string& name : names) stack_.push_back({item.path + "/" + name, item.name + "/" + name});
    } else if (S_ISLNK(info.st_mode)) {
        entry.type = '2';
        std::string target(static_cast<std::size_t>(std::max<off_t>(info.st_size, 255)) + 1, '\0');
        ssize_t length = ::readlink(item.path.c_str(), target.data(), target.size());
        if (length < 0) return fail_errno("readlink " + item.path);
        target.resize(static_cast<std::size_t>(length));
        entry.link = target;
    } else if (S_ISFIFO(info.st_mode)) {
        entry.type = '6';
    } else {
        return {};  // sockets and devices are nothing to copy
    }
    pending_ += tar_header(entry);
    return {};
}

Result<std::size_t> TarOfPath::read(std::span<std::byte> buffer) {
    while (offset_ == pending_.size()) {
        pending_.clear();
        offset_ = 0;
        if (file_left_ > 0) {
            std::size_t wanted = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), file_left_));
            ssize_t count = ::read(file_.get(), buffer.data(), wanted);
            if (count < 0) return fail_errno("read");
            if (count == 0) {  // it shrank: zeros keep the archive whole
                std::memset(buffer.data(), 0, wanted);
                count = static_cast<ssize_t>(wanted);
            }
            file_left_ -= static_cast<std::uint64_t>(count);
            if (file_left_ == 0) {
                pending_ = tar_padding(file_size_);
                file_.reset();
            }
            return static_cast<std::size_t>(count);
        }
        if (!stack_.empty()) {
            Item item = std::move(stack_.back());
            stack_.pop_back();
            TRY(add(item, false));
        } else if (!ended_) {
            ended_ = true;
            pending_ = tar_end();
        } else {
            return 0;
        }
    }
    std::size_t count = std::min(buffer.size(), pending_.size() - offset_);
    std::memcpy(buffer.data(), pending_.data() + offset_, count);
    offset_ += count;
    return count;
}

}  // namespace wherry::cli
