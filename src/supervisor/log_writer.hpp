// The shim's log writer: cuts the output of a process into entries, writes and rotates the files, and lets a stream
// connection that fell behind read what was written, byte for byte, from any offset (LogCursor).
//
// A write that fails (disk full) loses log entries, never blocks or ends the container; the loss is counted and
// shown to cursors as a gap.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "supervisor/log.hpp"
#include "supervisor/log_format.hpp"

namespace wherry::supervisor {

// Bytes of stdout [0] and stderr [1] since the start of the process.
using StreamOffsets = std::array<std::uint64_t, 2>;

// One file of a log. Whoever holds one holds all that followed it: a reader that is behind keeps rotated files
// readable, also when they have been removed.
struct LogFile {
    Fd fd;
    std::uint64_t size = 0;
    std::shared_ptr<LogFile> next;  // set when it is rotated away
    // At `position` bytes are missing: the streams go on at these offsets.
    struct Loss {
        std::uint64_t position;
        StreamOffsets resume;
    };
    std::vector<Loss> losses;

    LogFile() = default;
    LogFile(const LogFile&) = delete;
    LogFile& operator=(const LogFile&) = delete;
    ~LogFile();  // unlinks the chain iteratively
};

// A place in the log and the offsets of the streams there.
struct LogPosition {
    std::shared_ptr<LogFile> file;
    std::uint64_t position = 0;
    StreamOffsets offsets{};
};

class LogWriter {
  public:
    // Opens for appending (a restarted container goes on in its log); cuts off half an entry that a crash left.
    static Result<std::unique_ptr<LogWriter>> open(const LogOptions& options);
    ~LogWriter();
    LogWriter(const LogWriter&) = delete;
    LogWriter& operator=(const LogWriter&) = delete;

    void write(LogStream stream, std::string_view bytes, WallTime now);
    // The stream has ended: what is left of its last line becomes an entry.
    void finish(LogStream stream, WallTime now);

    std::uint64_t entries() const { return entries_; }
    std::uint64_t lost_entries() const { return lost_entries_; }
    // Bytes taken that are not in the file yet: the begin of a line.
    std::string_view pending(LogStream stream) const;
    // The end of what is written.
    LogPosition head() const;
    // The latest known place at or before the wanted offsets. When that is gone (rotated away), the earliest there is.
    LogPosition find(const StreamOffsets& wanted);
    LogDriver format() const { return options_.driver; }

    // A compressor runs as a child; the owner's reaper tells of its end. False: not one of ours.
    bool child_ended(pid_t pid, int wait_status);

  private:
    explicit LogWriter(LogOptions options);
    Result<> open_current(bool fresh);
    void rotate();
    void compress_rotated();
    void wait_for_compressor();
    void finish_compression(bool good);
    void add_entry(std::string& batch, StreamOffsets& batch_bytes, LogStream stream, std::string_view data,
                   WallTime now);
    void write_batch(std::string& batch, StreamOffsets& batch_bytes);
    void remember_place();
    std::shared_ptr<LogFile> open_rotated(std::uint32_t number) const;

    struct Place {
        std::uint64_t generation;  // of the file: counts this writer's rotations
        std::uint64_t position;
        StreamOffsets offsets;
    };

    LogOptions options_;
    std::string attributes_;
    WallTime last_time_{};  // of the last entry, and its text: one read gives many entries
    std::string last_time_text_;
    std::shared_ptr<LogFile> file_;
    ino_t inode_ = 0;
    std::uint64_t generation_ = 0;
    StreamOffsets written_{};  // stream offsets at the end of the file
    std::array<std::string, 2> pending_;
    std::uint64_t entries_ = 0;
    std::uint64_t batch_entries_ = 0;
    std::uint64_t lost_entries_ = 0;
    std::vector<Place> places_;
    std::uint64_t place_spacing_ = 256U << 10U;
    pid_t compressor_ = -1;
    ino_t compressing_ = 0;
};

// Reads on from a place. A piece is what one entry gave to one stream.
class LogCursor {
  public:
    LogCursor(LogPosition from, LogDriver format, const StreamOffsets& wanted);

    struct Piece {
        LogStream stream = LogStream::stdout_stream;
        std::string data;        // never empty, unless lost is not zero
        std::uint64_t lost = 0;  // bytes that can't be had any more; data follows in the next piece
    };
    // nullopt: at the head of the file; the rest is the writer's pending().
    Result<std::optional<Piece>> next();
    const StreamOffsets& offsets() const { return at_.offsets; }

  private:
    std::optional<Piece> account(LogStream stream, std::string data, std::uint64_t lost);
    const LogFile::Loss* next_loss() const;

    LogPosition at_;
    LogDriver format_;
    StreamOffsets wanted_;
    std::optional<EntryScanner> scanner_;
};

}  // namespace wherry::supervisor
