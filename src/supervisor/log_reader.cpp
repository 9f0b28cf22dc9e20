#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "supervisor/gzip.hpp"
#include "supervisor/log.hpp"
#include "supervisor/log_format.hpp"

namespace wherry::supervisor {

namespace {

constexpr std::uint32_t max_numbered_files = 1000;

// One file of the log as it is on disk now. The inode is that of the file when it was written, also when it has been
// compressed since.
struct OpenFile {
    Fd fd;
    ino_t inode = 0;
    WallTime changed{};
    bool compressed = false;
};

bool is_unlinked(const OpenFile& file) {
    struct stat info{};
    return ::fstat(file.fd.get(), &info) == 0 && info.st_nlink == 0;
}

// Whether `candidate` is the file that `held` was opened as. An inode number is used again once a compressed file's
// original is gone; but not as long as it is held open.
bool is_same(const OpenFile& held, const OpenFile& candidate) {
    return held.inode == candidate.inode && (!candidate.compressed || is_unlinked(held));
}

std::string numbered_path(const LogOptions& log, std::uint32_t number) {
    return number == 0 ? log.path : log.path + "." + std::to_string(number);
}

Result<std::optional<OpenFile>> open_numbered(const LogOptions& log, std::uint32_t number) {
    std::string path = numbered_path(log, number);
    OpenFile file;
    bool compressed = false;
    auto opened = open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (!opened && opened.error().os_errno() == ENOENT && number > 0) {
        opened = open_file(path + ".gz", O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
        compressed = true;
    }
    if (!opened) {
        if (opened.error().os_errno() == ENOENT) return std::nullopt;
        return std::unexpected(std::move(opened).error());
    }
    struct stat info{};
    if (::fstat(opened->get(), &info) < 0) return fail_errno("log file");
    if (!S_ISREG(info.st_mode)) return fail(Code::data_loss, path + " is not a regular file");
    file.inode = info.st_ino;
    file.changed = WallTime(std::chrono::seconds(info.st_mtim.tv_sec) + Nanoseconds(info.st_mtim.tv_nsec));
    if (compressed) {
        file.inode = gzip_inode(opened->get()).value_or(info.st_ino);
        file.compressed = true;
        file.fd = TRY(gunzip_to_memory(opened->get()), path + ".gz");
    } else {
        file.fd = std::move(*opened);
    }
    return file;
}

}  // namespace

struct LogReader::State {
    LogOptions log;
    LogReadOptions options;
    std::deque<OpenFile> files;  // oldest first; the front is being read
    std::uint64_t start = 0;     // in the front file
    std::optional<EntryScanner> scanner;
    bool past_until = false;

    Result<> open_all();
    Result<bool> next_file();
    Result<bool> follow_rotation();
    bool accepts(const LogEntry& entry) const;
};

// From the newest to the oldest, so that a rotation meanwhile shows a file twice and never hides one.
Result<> LogReader::State::open_all() {
    std::size_t missing = options.tail.value_or(0);
    bool whole = !options.tail.has_value();
    for (std::uint32_t number = 0; number < max_numbered_files; ++number) {
        std::optional<OpenFile> file = TRY(open_numbered(log, number));
        if (!file) {
            // Between a rotation's rename and the new file there is no file 0 for a moment.
            if (number == 0) continue;
            break;
        }
        if (!files.empty() && is_same(files.front(), *file)) continue;
        // Nothing in a file is younger than its last change.
        if (options.since && !files.empty() && file->changed < *options.since) break;
        if (!whole) {
            start = TRY(seek_back(log.driver, file->fd.get(), options, missing));
            files.push_front(std::move(*file));
            if (missing == 0) break;
            continue;
        }
        files.push_front(std::move(*file));
    }
    return {};
}

// The front file is read to its end: goes on with the one behind. False: there is none yet.
Result<bool> LogReader::State::next_file() {
    if (files.size() > 1) {
        files.pop_front();
        scanner.reset();
        start = 0;
        return true;
    }
    return follow_rotation();
}

Result<bool> LogReader::State::follow_rotation() {
    if (files.empty()) {
        std::optional<OpenFile> first = TRY(open_numbered(log, 0));
        if (!first) return false;
        files.push_back(std::move(*first));
        scanner.reset();
        start = 0;
        return true;
    }
    struct stat info{};
    if (::lstat(log.path.c_str(), &info) < 0 || info.st_ino == files.front().inode) return false;
    // Ours has been rotated away. What was written to it before is read first, by the caller's next round; then come
    // all files that are newer.
    std::deque<OpenFile> newer;
    for (std::uint32_t number = 0; number < max_numbered_files; ++number) {
        std::optional<OpenFile> file = TRY(open_numbered(log, number));
        if (!file || is_same(files.front(), *file)) break;
        if (!newer.empty() && is_same(newer.front(), *file)) continue;
        newer.push_front(std::move(*file));
    }
    if (newer.empty()) return false;
    for (OpenFile& file : newer) files.push_back(std::move(file));
    return true;
}

bool LogReader::State::accepts(const LogEntry& entry) const {
    if (entry.stream == LogStream::stdout_stream ? !options.want_stdout : !options.want_stderr) return false;
    return !options.since || entry.time >= *options.since;
}

LogReader::LogReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
LogReader::~LogReader() = default;
LogReader::LogReader(LogReader&&) noexcept = default;
LogReader& LogReader::operator=(LogReader&&) noexcept = default;

Result<LogReader> LogReader::open(const LogOptions& log, const LogReadOptions& options) {
    if (log.driver == LogDriver::none)
        return fail(Code::unimplemented, "configured logging driver does not support reading");
    auto state = std::make_unique<State>();
    state->log = log;
    state->options = options;
    TRY(state->open_all(), "log");
    return LogReader(std::move(state));
}

Result<std::optional<LogEntry>> LogReader::next() {
    State& state = *state_;
    while (!state.past_until) {
        if (state.files.empty()) {
            if (!TRY(state.next_file())) return std::nullopt;
            continue;
        }
        if (!state.scanner) state.scanner.emplace(state.log.driver, state.files.front().fd.get(), state.start);
        auto entry = state.scanner->next();
        if (!entry) {
            // A damaged record has no next one in its file; the following files are good all the same.
            if (entry.error().code() != Code::data_loss) return std::unexpected(std::move(entry).error());
            bool more = state.files.size() > 1 || TRY(state.follow_rotation());
            if (!more) return std::unexpected(std::move(entry).error());
            state.files.pop_front();
            state.scanner.reset();
            state.start = 0;
            continue;
        }
        if (!*entry) {
            if (!TRY(state.next_file())) return std::nullopt;
            continue;
        }
        if (state.options.until && (*entry)->time > *state.options.until) {
            state.past_until = true;
            break;
        }
        if (state.accepts(**entry)) return entry;
    }
    return std::nullopt;
}

bool LogReader::past_until() const {
    return state_->past_until;
}

Result<> remove_log(const LogOptions& log) {
    if (log.driver == LogDriver::none) return {};
    for (std::uint32_t number = 0; number < max_numbered_files; ++number) {
        std::string path = numbered_path(log, number);
        bool any = ::unlink(path.c_str()) == 0;
        if (!any && errno != ENOENT) return fail_errno("remove " + path);
        any = ::unlink((path + ".gz").c_str()) == 0 || any;
        ::unlink((path + ".gz.tmp").c_str());
        if (!any && number > 0) break;
    }
    return {};
}

}  // namespace wherry::supervisor
