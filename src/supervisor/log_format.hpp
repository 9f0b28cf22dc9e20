// The two formats of log files: encoding of one entry, and a scanner over a file's entries. Private to the room.
//
// json-file is Docker's: {"log":"text\n","stream":"stdout","attrs":{...},"time":"RFC 3339"} and a newline, with the
// same escapes. Docker replaces bytes that are not UTF-8 by U+FFFD; so do we, and add a member of our own,
// "bytes":"<base64>", so that the line still yields what the process wrote.
//
// local: a header {"wherrlg1", u32 length, attributes as JSON} and records
// {u32 length, u64 nanoseconds since the epoch, u8 stream, data, u32 length}; integers big endian, length counts time,
// stream and data. The second length lets `tail` walk backwards.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "supervisor/log.hpp"

namespace wherry::supervisor {

inline constexpr std::string_view local_log_magic = "wherrlg1";
// A record or line longer than this is damage, not a log.
inline constexpr std::size_t max_log_record_bytes = 1U << 20U;

// Appends one entry. `time_text` is RFC 3339; `attributes` is a JSON object or empty (json-file only: local has them in
// its header).
void append_json_entry(std::string& out, LogStream stream, std::string_view data, std::string_view time_text,
                       std::string_view attributes);
void append_local_entry(std::string& out, LogStream stream, std::string_view data, WallTime time);
std::string local_log_header(std::string_view attributes);

// One line of a json-file log, without its newline; nullopt when it is damaged.
std::optional<LogEntry> parse_json_entry(std::string_view line);

// Length of the longest prefix of `text` that does not end inside a UTF-8 sequence (at most three bytes shorter).
std::size_t utf8_boundary(std::string_view text);
bool is_utf8(std::string_view text);

// Walks a log file's entries from a position. The file may grow meanwhile: an entry that is not whole yet is not
// returned, and the position stays in front of it.
class EntryScanner {
  public:
    EntryScanner(LogDriver format, int fd, std::uint64_t position);

    // nullopt at the end. `end` limits what is looked at (a writer's known size); by default the file's own end.
    Result<std::optional<LogEntry>> next(std::uint64_t end = ~std::uint64_t{0});
    // Just behind the last entry returned (or damage skipped).
    std::uint64_t position() const { return position_; }
    // The same file's attributes (local).
    const std::string& attributes() const { return attributes_; }

  private:
    Result<bool> fill(std::size_t wanted, std::uint64_t end);
    Result<std::optional<LogEntry>> next_json(std::uint64_t end);
    Result<std::optional<LogEntry>> next_local(std::uint64_t end);
    void consume(std::size_t count);

    LogDriver format_;
    int fd_;
    std::uint64_t position_;  // of block_[used_]
    std::string block_;
    std::size_t used_ = 0;
    std::string attributes_;
    bool header_read_ = false;
};

// Position in the file of its entry number `entries` from the end, reading backwards; counts down `entries` by those
// found. Reaching the front gives the front.
Result<std::uint64_t> seek_back(LogDriver format, int fd, const LogReadOptions& filter, std::size_t& entries);

}  // namespace wherry::supervisor
