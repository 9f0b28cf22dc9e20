// Container logs on disk: what the shim writes and what `logs` reads. The reader needs no shim: it serves the logs of
// ended containers and of containers whose shim is dead as well.
//
// json-file: one line per entry, as Docker writes it: {"log":"text\n","stream":"stdout","attrs":{...},"time":"..."};
// lines over 16 KiB are split, only the last piece ends with a newline. local: our own compact binary records
// (log_local.hpp). Both rotate to path.1, path.2, ... (newest first), `.gz` when compressed.
//
// Not thread-safe; plain blocking file reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "supervisor/protocol.hpp"

namespace wherry::supervisor {

enum class LogStream : unsigned char { stdout_stream = 1, stderr_stream = 2 };
std::string_view to_string(LogStream stream);  // "stdout", "stderr"

struct LogEntry {
    WallTime time{};
    LogStream stream = LogStream::stdout_stream;
    std::string data;        // raw bytes, with the newline when the line has ended
    std::string attributes;  // JSON object as written, empty when there is none (`logs --details`)
};

// Longest piece of a line in one entry, without its newline.
inline constexpr std::size_t max_log_line_bytes = 16U << 10U;

struct LogReadOptions {
    std::optional<std::size_t> tail;  // only the last N entries (after the stream filter)
    std::optional<WallTime> since;    // entries at or after
    std::optional<WallTime> until;    // entries at or before
    bool want_stdout = true;
    bool want_stderr = true;
};

// Reads entries in order of writing, over all rotated files.
//
//     LogReader reader = TRY(LogReader::open(options, {.tail = 10}));
//     while (auto entry = TRY(reader.next())) use(*entry);
//     // to follow: co_await shim->wait_log(id, progress.entries), then call next() again.
class LogReader {
  public:
    // `unimplemented` for LogDriver::none. A log that does not exist yet reads as empty.
    static Result<LogReader> open(const LogOptions& log, const LogReadOptions& options);
    ~LogReader();
    LogReader(LogReader&&) noexcept;
    LogReader& operator=(LogReader&&) noexcept;
    LogReader(const LogReader&) = delete;
    LogReader& operator=(const LogReader&) = delete;

    // nullopt at the present end (later calls continue there, across rotations) and once an entry is after `until`.
    // Damaged lines are skipped.
    Result<std::optional<LogEntry>> next();
    // An entry after `until` has been seen: nothing more will come.
    bool past_until() const;

  private:
    struct State;
    explicit LogReader(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

// Removes the log and its rotated files.
Result<> remove_log(const LogOptions& log);

}  // namespace wherry::supervisor
