#include "supervisor/log_format.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>

#include "base/encoding.hpp"
#include "base/json.hpp"
#include "supervisor/frame.hpp"

namespace wherry::supervisor {

std::string_view to_string(LogStream stream) {
    return stream == LogStream::stderr_stream ? "stderr" : "stdout";
}

namespace {

constexpr std::size_t block_bytes = 64U << 10U;
constexpr std::size_t local_fixed_bytes = 9;  // time and stream

// Length of the UTF-8 sequence that starts here (RFC 3629: no overlong forms, no surrogates); 0: not one.
std::size_t utf8_sequence(std::string_view text) {
    auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    auto continuation = [&](std::size_t i) { return i < text.size() && (byte(i) & 0xC0U) == 0x80U; };
    unsigned char first = byte(0);
    if (first < 0x80U) return 1;
    if (first >= 0xC2U && first <= 0xDFU) return continuation(1) ? 2 : 0;
    if (first >= 0xE0U && first <= 0xEFU) {
        if (!continuation(1) || !continuation(2)) return 0;
        if (first == 0xE0U && byte(1) < 0xA0U) return 0;
        if (first == 0xEDU && byte(1) > 0x9FU) return 0;
        return 3;
    }
    if (first >= 0xF0U && first <= 0xF4U) {
        if (!continuation(1) || !continuation(2) || !continuation(3)) return 0;
        if (first == 0xF0U && byte(1) < 0x90U) return 0;
        if (first == 0xF4U && byte(1) > 0x8FU) return 0;
        return 4;
    }
    return 0;
}

bool is_plain(unsigned char c) {
    return c >= 0x20U && c < 0x80U && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&';
}

void append_u_escape(std::string& out, unsigned value) {
    constexpr std::string_view digits = "0123456789abcdef";
    out += "\\u";
    for (unsigned shift : {12U, 8U, 4U, 0U}) out += digits[(value >> shift) & 0xFU];
}

// Docker's escapes. False when something was not UTF-8 and became U+FFFD.
bool append_json_string(std::string& out, std::string_view text) {
    bool exact = true;
    out += '"';
    while (!text.empty()) {
        std::size_t plain = 0;
        while (plain < text.size() && is_plain(static_cast<unsigned char>(text[plain]))) ++plain;
        out.append(text.substr(0, plain));
        text.remove_prefix(plain);
        if (text.empty()) break;
        auto c = static_cast<unsigned char>(text.front());
        if (c < 0x80U) {
            if (c == '"' || c == '\\') {
                out += '\\';
                out += static_cast<char>(c);
            } else if (c == '\n') {
                out += "\\n";
            } else if (c == '\r') {
                out += "\\r";
            } else {
                append_u_escape(out, c);
            }
            text.remove_prefix(1);
            continue;
        }
        std::size_t length = utf8_sequence(text);
        if (length == 0) {
            out += "\\ufffd";
            exact = false;
            text.remove_prefix(1);
            continue;
        }
        if (text.starts_with("\xE2\x80\xA8") || text.starts_with("\xE2\x80\xA9")) {
            append_u_escape(out, text[2] == '\xA8' ? 0x2028U : 0x2029U);
        } else {
            out.append(text.substr(0, length));
        }
        text.remove_prefix(length);
    }
    out += '"';
    return exact;
}

void append_utf8(std::string& out, unsigned code) {
    if (code < 0x80U) {
        out += static_cast<char>(code);
    } else if (code < 0x800U) {
        out += static_cast<char>(0xC0U | (code >> 6U));
        out += static_cast<char>(0x80U | (code & 0x3FU));
    } else {
        out += static_cast<char>(0xE0U | (code >> 12U));
        out += static_cast<char>(0x80U | ((code >> 6U) & 0x3FU));
        out += static_cast<char>(0x80U | (code & 0x3FU));
    }
}

std::optional<unsigned> parse_hex4(std::string_view text) {
    if (text.size() < 4) return std::nullopt;
    unsigned value = 0;
    for (char c : text.substr(0, 4)) {
        unsigned digit = 0;
        if (c >= '0' && c <= '9') {
            digit = static_cast<unsigned>(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            digit = static_cast<unsigned>(c - 'a' + 10);
        } else {
            return std::nullopt;
        }
        value = value * 16 + digit;
    }
    return value;
}

// A JSON string as append_json_string writes it, from behind its opening quote; consumes the closing one.
// nullopt for anything else, surrogate pairs included: the general parser takes those.
std::optional<std::string> take_json_string(std::string_view& text) {
    std::string out;
    while (true) {
        std::size_t plain = text.find_first_of("\"\\");
        if (plain == std::string_view::npos) return std::nullopt;
        out.append(text.substr(0, plain));
        char c = text[plain];
        text.remove_prefix(plain + 1);
        if (c == '"') return out;
        if (text.empty()) return std::nullopt;
        char escape = text.front();
        text.remove_prefix(1);
        switch (escape) {
            case '"':
            case '\\':
            case '/':
                out += escape;
                break;
            case 'n':
                out += '\n';
                break;
            case 'r':
                out += '\r';
                break;
            case 't':
                out += '\t';
                break;
            case 'u': {
                auto code = parse_hex4(text);
                if (!code || (*code >= 0xD800U && *code <= 0xDFFFU)) return std::nullopt;
                append_utf8(out, *code);
                text.remove_prefix(4);
                break;
            }
            default:
                return std::nullopt;
        }
    }
}

bool take(std::string_view& text, std::string_view expected) {
    if (!text.starts_with(expected)) return false;
    text.remove_prefix(expected.size());
    return true;
}

// Lines as we write them, without attributes: the common case, several times faster than a general parser.
std::optional<LogEntry> parse_own_line(std::string_view line) {
    LogEntry entry;
    if (!take(line, "{\"log\":\"")) return std::nullopt;
    auto data = take_json_string(line);
    if (!data) return std::nullopt;
    entry.data = std::move(*data);
    if (take(line, ",\"stream\":\"stdout\"")) {
        entry.stream = LogStream::stdout_stream;
    } else if (take(line, ",\"stream\":\"stderr\"")) {
        entry.stream = LogStream::stderr_stream;
    } else {
        return std::nullopt;
    }
    if (take(line, ",\"bytes\":\"")) {
        std::size_t end = line.find('"');
        if (end == std::string_view::npos) return std::nullopt;
        auto bytes = base64_decode(line.substr(0, end));
        if (!bytes) return std::nullopt;
        entry.data = std::move(*bytes);
        line.remove_prefix(end + 1);
    }
    if (!take(line, ",\"time\":\"")) return std::nullopt;
    std::size_t end = line.find('"');
    if (end == std::string_view::npos || line.substr(end) != "\"}") return std::nullopt;
    auto time = parse_rfc3339(line.substr(0, end));
    if (!time) return std::nullopt;
    entry.time = *time;
    return entry;
}

// Anything that Docker, or a person, may have written.
std::optional<LogEntry> parse_general_line(std::string_view line) {
    auto object = parse_json_object(line);
    if (!object) return std::nullopt;
    JsonReader reader(*object);
    auto data = reader.string_or("log", "");
    auto stream = reader.string_or("stream", "stdout");
    auto time = reader.string_or("time", "");
    if (!data || !stream || !time) return std::nullopt;
    auto parsed_time = parse_rfc3339(*time);
    if (!parsed_time) return std::nullopt;
    LogEntry entry;
    entry.data = std::move(*data);
    entry.stream = *stream == "stderr" ? LogStream::stderr_stream : LogStream::stdout_stream;
    entry.time = *parsed_time;
    if (auto bytes = reader.string_or("bytes", ""); bytes && !bytes->empty()) {
        auto decoded = base64_decode(*bytes);
        if (!decoded) return std::nullopt;
        entry.data = std::move(*decoded);
    }
    if (const json::value* attributes = reader.find("attrs"); attributes != nullptr && attributes->is_object())
        entry.attributes = to_json(*attributes);
    return entry;
}

std::uint64_t get_u64(const char* source) {
    return (static_cast<std::uint64_t>(get_u32(source)) << 32U) | get_u32(source + 4);
}

Result<std::size_t> read_at(int fd, char* target, std::size_t count, std::uint64_t position) {
    std::size_t done = 0;
    while (done < count) {
        ssize_t got = ::pread(fd, target + done, count - done, static_cast<off_t>(position + done));
        if (got < 0) {
            if (errno == EINTR) continue;
            return fail_errno("read log");
        }
        if (got == 0) break;
        done += static_cast<std::size_t>(got);
    }
    return done;
}

Result<std::uint64_t> file_size(int fd) {
    struct stat info{};
    if (::fstat(fd, &info) < 0) return fail_errno("size of log");
    return static_cast<std::uint64_t>(info.st_size);
}

bool wanted(const LogReadOptions& filter, LogStream stream) {
    return stream == LogStream::stdout_stream ? filter.want_stdout : filter.want_stderr;
}

}  // namespace

std::size_t utf8_boundary(std::string_view text) {
    for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
        auto c = static_cast<unsigned char>(text[text.size() - back]);
        if ((c & 0xC0U) == 0x80U) continue;
        std::size_t length = c >= 0xF0U ? 4 : c >= 0xE0U ? 3 : c >= 0xC0U ? 2 : 1;
        return length > back ? text.size() - back : text.size();
    }
    return text.size();
}

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        std::size_t length = utf8_sequence(text);
        if (length == 0) return false;
        text.remove_prefix(length);
    }
    return true;
}

void append_json_entry(std::string& out, LogStream stream, std::string_view data, std::string_view time_text,
                       std::string_view attributes) {
    out += "{\"log\":";
    bool exact = append_json_string(out, data);
    out += ",\"stream\":\"";
    out += to_string(stream);
    out += '"';
    if (!exact) {
        out += ",\"bytes\":\"";
        out += base64_encode(data);
        out += '"';
    }
    if (!attributes.empty()) {
        out += ",\"attrs\":";
        out += attributes;
    }
    out += ",\"time\":\"";
    out += time_text;
    out += "\"}\n";
}

void append_local_entry(std::string& out, LogStream stream, std::string_view data, WallTime time) {
    std::array<char, 4> length{};
    put_u32(length.data(), static_cast<std::uint32_t>(local_fixed_bytes + data.size()));
    std::array<char, 8> nanoseconds{};
    auto count = static_cast<std::uint64_t>(time.time_since_epoch().count());
    put_u32(nanoseconds.data(), static_cast<std::uint32_t>(count >> 32U));
    put_u32(nanoseconds.data() + 4, static_cast<std::uint32_t>(count));
    out.append(length.data(), length.size());
    out.append(nanoseconds.data(), nanoseconds.size());
    out += static_cast<char>(stream);
    out += data;
    out.append(length.data(), length.size());
}

std::string local_log_header(std::string_view attributes) {
    std::array<char, 4> length{};
    put_u32(length.data(), static_cast<std::uint32_t>(attributes.size()));
    std::string header(local_log_magic);
    header.append(length.data(), length.size());
    header += attributes;
    return header;
}

std::optional<LogEntry> parse_json_entry(std::string_view line) {
    if (auto entry = parse_own_line(line)) return entry;
    return parse_general_line(line);
}

EntryScanner::EntryScanner(LogDriver format, int fd, std::uint64_t position)
    : format_(format), fd_(fd), position_(position) {}

void EntryScanner::consume(std::size_t count) {
    used_ += count;
    position_ += count;
    if (used_ == block_.size()) {
        used_ = 0;
        std::string().swap(block_);
    }
}

// Makes at least `wanted` bytes available from the position on; false when the file has fewer.
Result<bool> EntryScanner::fill(std::size_t wanted, std::uint64_t end) {
    std::size_t available = block_.size() - used_;
    if (available >= wanted) return true;
    block_.erase(0, used_);
    used_ = 0;
    std::uint64_t from = position_ + available;
    if (from >= end) return false;
    std::size_t amount = std::max(wanted - available, block_bytes);
    amount = static_cast<std::size_t>(std::min<std::uint64_t>(amount, end - from));
    block_.resize(available + amount);
    auto got = read_at(fd_, block_.data() + available, amount, from);
    block_.resize(available + (got ? *got : 0));
    TRY(std::move(got));
    return block_.size() >= wanted;
}

Result<std::optional<LogEntry>> EntryScanner::next(std::uint64_t end) {
    return format_ == LogDriver::local ? next_local(end) : next_json(end);
}

Result<std::optional<LogEntry>> EntryScanner::next_json(std::uint64_t end) {
    std::size_t searched = 0;
    while (true) {
        std::string_view rest = std::string_view(block_).substr(used_);
        std::size_t newline = rest.find('\n', searched);
        if (newline != std::string_view::npos) {
            auto entry = parse_json_entry(rest.substr(0, newline));
            consume(newline + 1);
            searched = 0;
            if (entry) return entry;
            continue;
        }
        searched = rest.size();
        if (searched > max_log_record_bytes) {
            // No line of ours: skipped up to its end.
            consume(searched);
            searched = 0;
        }
        std::size_t before = block_.size() - used_;
        TRY(fill(before + 1, end));
        if (block_.size() - used_ == before) return std::nullopt;
    }
}

Result<std::optional<LogEntry>> EntryScanner::next_local(std::uint64_t end) {
    if (position_ == 0 || !header_read_) {
        header_read_ = true;
        std::array<char, local_log_magic.size() + 4> head{};
        if (TRY(read_at(fd_, head.data(), head.size(), 0)) < head.size()) {
            header_read_ = false;
            return std::nullopt;
        }
        std::size_t length = get_u32(head.data() + local_log_magic.size());
        if (std::string_view(head.data(), local_log_magic.size()) != local_log_magic || length > max_log_record_bytes)
            return fail(Code::data_loss, "not a log of the local driver");
        attributes_.resize(length);
        if (TRY(read_at(fd_, attributes_.data(), length, head.size())) < length) {
            header_read_ = false;
            return std::nullopt;
        }
        if (position_ == 0) position_ = head.size() + length;
    }
    if (!TRY(fill(4, end))) return std::nullopt;
    std::size_t length = get_u32(block_.data() + used_);
    if (length < local_fixed_bytes || length > max_log_record_bytes)
        return fail(Code::data_loss, "damaged record in the log at " + std::to_string(position_));
    if (!TRY(fill(length + 8, end))) return std::nullopt;
    const char* record = block_.data() + used_ + 4;
    LogEntry entry;
    entry.time = WallTime(Nanoseconds(static_cast<std::int64_t>(get_u64(record))));
    entry.stream = record[8] == 2 ? LogStream::stderr_stream : LogStream::stdout_stream;
    entry.data.assign(record + local_fixed_bytes, length - local_fixed_bytes);
    entry.attributes = attributes_;
    if (get_u32(record + length) != length)
        return fail(Code::data_loss, "damaged record in the log at " + std::to_string(position_));
    consume(length + 8);
    return entry;
}

namespace {

Result<std::uint64_t> seek_back_json(int fd, const LogReadOptions& filter, std::size_t& entries) {
    std::uint64_t position = TRY(file_size(fd));
    bool all = filter.want_stdout && filter.want_stderr;
    std::string block;       // begins at `position`; lines behind the newline at its end have been counted
    std::size_t looked = 0;  // bytes at the back of `block` that are counted
    while (true) {
        // Everything in block before its end is uncounted; find line starts from the back.
        while (block.size() > looked) {
            std::string_view open(block.data(), block.size() - looked);
            // The line that ends at open's end starts behind the previous newline.
            std::size_t end = open.size();
            bool whole = open.back() == '\n';
            std::size_t previous = whole ? open.substr(0, end - 1).rfind('\n') : open.rfind('\n');
            if (previous == std::string_view::npos && position > 0) break;  // needs the block before
            std::size_t start = previous == std::string_view::npos ? 0 : previous + 1;
            if (whole) {
                std::string_view line = open.substr(start, end - 1 - start);
                bool counts = all;
                if (!all) {
                    auto entry = parse_json_entry(line);
                    counts = entry && wanted(filter, entry->stream);
                }
                if (counts && --entries == 0) return position + start;
            }
            block.resize(start);
            looked = 0;
        }
        if (position == 0) return 0;
        std::size_t amount = static_cast<std::size_t>(std::min<std::uint64_t>(position, block_bytes));
        if (block.size() > max_log_record_bytes) block.clear();
        std::string earlier(amount, '\0');
        position -= amount;
        if (TRY(read_at(fd, earlier.data(), amount, position)) < amount)
            return fail(Code::data_loss, "the log shrank while it was read");
        block.insert(0, earlier);
    }
}

Result<std::uint64_t> seek_back_local(int fd, const LogReadOptions& filter, std::size_t& entries) {
    EntryScanner head(LogDriver::local, fd, 0);
    TRY(head.next(0));  // reads the header only
    std::uint64_t front = head.position();
    std::uint64_t position = TRY(file_size(fd));
    // Backwards through the trailers; one small buffer serves the records of 64 KiB.
    std::string block;
    std::uint64_t block_start = position;
    while (position > front) {
        auto ensure = [&](std::uint64_t from, std::uint64_t to) -> Result<bool> {
            if (from >= block_start && to <= block_start + block.size()) return true;
            std::uint64_t start = to > block_bytes ? to - block_bytes : 0;
            start = std::min(start, from);
            block.resize(static_cast<std::size_t>(to - start));
            block_start = start;
            return TRY(read_at(fd, block.data(), block.size(), start)) == block.size();
        };
        if (position < front + 8 + local_fixed_bytes || !TRY(ensure(position - 4, position))) break;
        std::uint64_t length = get_u32(block.data() + (position - 4 - block_start));
        if (length < local_fixed_bytes || length > max_log_record_bytes || length + 8 > position - front)
            return fail(Code::data_loss, "damaged record in the log before " + std::to_string(position));
        std::uint64_t start = position - length - 8;
        if (!TRY(ensure(start, start + 4 + local_fixed_bytes))) break;
        const char* record = block.data() + (start - block_start);
        LogStream stream = record[12] == 2 ? LogStream::stderr_stream : LogStream::stdout_stream;
        position = start;
        if (wanted(filter, stream) && --entries == 0) break;
    }
    return position;
}

}  // namespace

namespace {

// For a file whose end is not whole: a writer is in the middle of a record, or a crash was.
Result<std::uint64_t> seek_back_by_walking(LogDriver format, int fd, const LogReadOptions& filter,
                                           std::size_t& entries) {
    EntryScanner scanner(format, fd, 0);
    std::deque<std::uint64_t> starts;
    while (true) {
        std::uint64_t start = scanner.position();
        auto entry = scanner.next();
        if (!entry || !*entry) break;
        if (!wanted(filter, (*entry)->stream)) continue;
        starts.push_back(start);
        if (starts.size() > entries) starts.pop_front();
    }
    entries -= starts.size();
    return starts.empty() || entries > 0 ? 0 : starts.front();
}

}  // namespace

Result<std::uint64_t> seek_back(LogDriver format, int fd, const LogReadOptions& filter, std::size_t& entries) {
    if (entries == 0) return file_size(fd);
    if (format == LogDriver::json_file) return seek_back_json(fd, filter, entries);
    std::size_t left = entries;
    auto position = seek_back_local(fd, filter, left);
    if (!position && position.error().code() == Code::data_loss)
        return seek_back_by_walking(format, fd, filter, entries);
    entries = left;
    return position;
}

}  // namespace wherry::supervisor
