#include "supervisor/log_writer.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/json.hpp"
#include "base/log.hpp"
#include "supervisor/gzip.hpp"

namespace wherry::supervisor {

namespace {

constexpr std::size_t max_places = 64;
// A batch this large goes to the file before more is encoded.
constexpr std::size_t batch_limit_bytes = 128U << 10U;

std::size_t index_of(LogStream stream) {
    return stream == LogStream::stderr_stream ? 1 : 0;
}

std::string rotated_name(const LogOptions& options, std::uint32_t number, bool compressed) {
    return options.path + "." + std::to_string(number) + (compressed ? ".gz" : "");
}

// Where the last whole entry of an existing log ends.
Result<std::uint64_t> end_of_whole_entries(LogDriver format, int fd, std::uint64_t size) {
    if (format == LogDriver::json_file) {
        std::string block(4096, '\0');
        for (std::uint64_t end = size; end > 0;) {
            std::size_t amount = static_cast<std::size_t>(std::min<std::uint64_t>(end, block.size()));
            ssize_t got = ::pread(fd, block.data(), amount, static_cast<off_t>(end - amount));
            if (got != static_cast<ssize_t>(amount)) return fail_errno("read log");
            std::size_t newline = std::string_view(block).substr(0, amount).rfind('\n');
            if (newline != std::string_view::npos) return end - amount + newline + 1;
            end -= amount;
        }
        return 0;
    }
    EntryScanner scanner(format, fd, 0);
    while (true) {
        auto entry = scanner.next(size);
        if (!entry || !*entry) return scanner.position();
    }
}

}  // namespace

LogFile::~LogFile() {
    // A long chain must not be destroyed recursively.
    std::shared_ptr<LogFile> rest = std::move(next);
    while (rest && rest.use_count() == 1) rest = std::move(rest->next);
}

LogWriter::LogWriter(LogOptions options) : options_(std::move(options)) {}

LogWriter::~LogWriter() {
    wait_for_compressor();
}

Result<std::unique_ptr<LogWriter>> LogWriter::open(const LogOptions& options) {
    if (options.driver == LogDriver::none) return fail(Code::invalid_argument, "log driver none writes nothing");
    std::unique_ptr<LogWriter> writer(new LogWriter(options));
    if (!options.attributes.empty()) {
        json::object attributes;
        for (const auto& [name, value] : options.attributes) attributes.emplace(name, json::string(value));
        writer->attributes_ = to_json(std::move(attributes));
    }
    TRY(writer->open_current(false), "log");
    return writer;
}

Result<> LogWriter::open_current(bool fresh) {
    auto file = std::make_shared<LogFile>();
    file->fd = TRY(open_file(options_.path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NOCTTY | (fresh ? O_EXCL : 0), 0640));
    struct stat info{};
    if (::fstat(file->fd.get(), &info) < 0) return fail_errno("log file");
    if (!S_ISREG(info.st_mode)) return fail(Code::invalid_argument, options_.path + " is not a regular file");
    auto size = static_cast<std::uint64_t>(info.st_size);
    if (size > 0) {
        // The local log's last record is found from the front: only for files that a crash may have left.
        std::uint64_t end = TRY(end_of_whole_entries(options_.driver, file->fd.get(), size));
        if (end < size && ::ftruncate(file->fd.get(), static_cast<off_t>(end)) < 0) return fail_errno("repair log");
        size = end;
    }
    if (size == 0 && options_.driver == LogDriver::local) {
        std::string header = local_log_header(attributes_);
        ssize_t written = ::pwrite(file->fd.get(), header.data(), header.size(), 0);
        if (written != static_cast<ssize_t>(header.size())) return fail_errno("write log header");
        size = header.size();
    }
    file->size = size;
    if (file_) {
        file_->next = file;
        ++generation_;
    }
    file_ = std::move(file);
    inode_ = info.st_ino;
    remember_place();
    return {};
}

std::string_view LogWriter::pending(LogStream stream) const {
    return pending_[index_of(stream)];
}

LogPosition LogWriter::head() const {
    return {file_, file_->size, written_};
}

void LogWriter::write(LogStream stream, std::string_view bytes, WallTime now) {
    std::string& pending = pending_[index_of(stream)];
    std::string batch;
    StreamOffsets batch_bytes{};
    while (!bytes.empty()) {
        std::size_t newline = bytes.find('\n');
        if (newline == std::string_view::npos && pending.size() + bytes.size() <= max_log_line_bytes) {
            pending.append(bytes);
            break;
        }
        std::size_t line = newline == std::string_view::npos ? bytes.size() : newline + 1;
        std::size_t text = pending.size() + (newline == std::string_view::npos ? bytes.size() : newline);
        if (text <= max_log_line_bytes) {
            if (pending.empty()) {
                add_entry(batch, batch_bytes, stream, bytes.substr(0, line), now);
            } else {
                pending.append(bytes.substr(0, line));
                add_entry(batch, batch_bytes, stream, pending, now);
                pending.clear();
            }
            bytes.remove_prefix(line);
            continue;
        }
        // A piece of an overlong line; not cut inside a character.
        std::size_t take = max_log_line_bytes - pending.size();
        pending.append(bytes.substr(0, take));
        bytes.remove_prefix(take);
        std::size_t cut = utf8_boundary(pending);
        add_entry(batch, batch_bytes, stream, std::string_view(pending).substr(0, cut), now);
        pending.erase(0, cut);
    }
    write_batch(batch, batch_bytes);
    if (pending.empty() && pending.capacity() > 256) std::string().swap(pending);
}

void LogWriter::finish(LogStream stream, WallTime now) {
    std::string pending = std::exchange(pending_[index_of(stream)], {});
    if (pending.empty()) return;
    std::string batch;
    StreamOffsets batch_bytes{};
    add_entry(batch, batch_bytes, stream, pending, now);
    write_batch(batch, batch_bytes);
}

void LogWriter::add_entry(std::string& batch, StreamOffsets& batch_bytes, LogStream stream, std::string_view data,
                          WallTime now) {
    if (batch.size() >= batch_limit_bytes) write_batch(batch, batch_bytes);
    if (options_.max_size_bytes != 0 && file_->size + batch.size() >= options_.max_size_bytes) {
        write_batch(batch, batch_bytes);
        rotate();
    }
    if (options_.driver == LogDriver::local) {
        append_local_entry(batch, stream, data, now);
    } else {
        if (now != last_time_ || last_time_text_.empty()) {
            last_time_ = now;
            last_time_text_ = format_rfc3339_short(now);
        }
        append_json_entry(batch, stream, data, last_time_text_, attributes_);
    }
    batch_bytes[index_of(stream)] += data.size();
    ++batch_entries_;
}

void LogWriter::write_batch(std::string& batch, StreamOffsets& batch_bytes) {
    if (batch.empty()) return;
    std::string_view rest = batch;
    std::uint64_t position = file_->size;
    int failure = 0;
    while (!rest.empty()) {
        ssize_t written = ::pwrite(file_->fd.get(), rest.data(), rest.size(), static_cast<off_t>(position));
        if (written < 0) {
            if (errno == EINTR) continue;
            failure = errno;
            break;
        }
        position += static_cast<std::uint64_t>(written);
        rest.remove_prefix(static_cast<std::size_t>(written));
    }
    if (failure == 0) {
        file_->size = position;
        entries_ += batch_entries_;
    } else {
        // Half an entry would spoil the next one.
        if (::ftruncate(file_->fd.get(), static_cast<off_t>(file_->size)) < 0) log_warn("log.truncate_failed");
        StreamOffsets resume{written_[0] + batch_bytes[0], written_[1] + batch_bytes[1]};
        if (file_->losses.empty() || file_->losses.back().position != file_->size) {
            file_->losses.push_back({file_->size, resume});
        } else {
            file_->losses.back().resume = resume;
        }
        if (lost_entries_ == 0)
            log_error("log.write_failed", {{"path", options_.path}, {"errno", std::strerror(failure)}});
        lost_entries_ += batch_entries_;
    }
    written_[0] += batch_bytes[0];
    written_[1] += batch_bytes[1];
    batch_entries_ = 0;
    batch_bytes = {};
    batch.clear();
    if (places_.empty() || file_->size >= places_.back().position + place_spacing_) remember_place();
}

void LogWriter::remember_place() {
    if (places_.size() >= max_places) {
        // Half as dense from now on, but the first place of each file stays; then the oldest go.
        std::size_t kept = 0;
        for (std::size_t i = 0; i < places_.size(); ++i) {
            bool first_of_file = i == 0 || places_[i].generation != places_[i - 1].generation;
            if (i % 2 == 0 || first_of_file) places_[kept++] = places_[i];
        }
        places_.resize(kept);
        if (kept > max_places * 3 / 4)
            places_.erase(places_.begin(), places_.begin() + static_cast<std::ptrdiff_t>(kept - max_places / 2));
        place_spacing_ *= 2;
    }
    places_.push_back({generation_, file_->size, written_});
}

void LogWriter::rotate() {
    wait_for_compressor();
    if (options_.max_files > 1) {
        for (bool compressed : {false, true})
            ::unlink(rotated_name(options_, options_.max_files - 1, compressed).c_str());
        for (std::uint32_t number = options_.max_files - 1; number > 1; --number) {
            for (bool compressed : {false, true})
                ::rename(rotated_name(options_, number - 1, compressed).c_str(),
                         rotated_name(options_, number, compressed).c_str());
        }
        if (::rename(options_.path.c_str(), rotated_name(options_, 1, false).c_str()) < 0) {
            log_warn("log.rotate_failed", {{"path", options_.path}, {"errno", std::strerror(errno)}});
            return;
        }
    } else if (::unlink(options_.path.c_str()) < 0) {
        log_warn("log.rotate_failed", {{"path", options_.path}, {"errno", std::strerror(errno)}});
        return;
    }
    ino_t rotated = inode_;
    if (auto opened = open_current(true); !opened) {
        // Better a log that is too large than none: the old file stays open and goes on.
        log_warn("log.rotate_failed", {{"error", opened.error()}});
        return;
    }
    if (options_.compress && options_.max_files > 1) {
        compressing_ = rotated;
        compress_rotated();
    }
}

// path.1 -> path.1.gz in a child of its own, so that the loop goes on meanwhile.
void LogWriter::compress_rotated() {
    std::string from = rotated_name(options_, 1, false);
    auto source = open_file(from, O_RDONLY | O_NOFOLLOW);
    if (!source) return;
    std::string temporary = from + ".gz.tmp";
    auto target = open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0640);
    if (!target) return;
    // SAFETY: this process has one thread, so the child may run ordinary code.
    pid_t pid = ::fork();
    if (pid == 0) ::_exit(gzip_file(source->get(), target->get(), compressing_) ? 0 : 1);
    if (pid < 0) {
        ::unlink(temporary.c_str());
        return;
    }
    compressor_ = pid;
}

void LogWriter::finish_compression(bool good) {
    std::string from = rotated_name(options_, 1, false);
    std::string temporary = from + ".gz.tmp";
    if (good && ::rename(temporary.c_str(), (from + ".gz").c_str()) == 0) {
        ::unlink(from.c_str());
    } else {
        ::unlink(temporary.c_str());
    }
    compressor_ = -1;
}

bool LogWriter::child_ended(pid_t pid, int wait_status) {
    if (compressor_ != pid) return false;
    finish_compression(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0);
    return true;
}

void LogWriter::wait_for_compressor() {
    if (compressor_ < 0) return;
    int wait_status = 0;
    pid_t got = -1;
    do {
        got = ::waitpid(compressor_, &wait_status, 0);
    } while (got < 0 && errno == EINTR);
    finish_compression(got == compressor_ && WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0);
}

// nullptr: it is gone, or damaged.
std::shared_ptr<LogFile> LogWriter::open_rotated(std::uint32_t number) const {
    auto file = std::make_shared<LogFile>();
    auto opened = open_file(rotated_name(options_, number, false), O_RDONLY | O_NOFOLLOW);
    if (!opened) {
        auto packed = open_file(rotated_name(options_, number, true), O_RDONLY | O_NOFOLLOW);
        if (!packed) return nullptr;
        opened = gunzip_to_memory(packed->get());
        if (!opened) return nullptr;
    }
    struct stat info{};
    if (::fstat(opened->get(), &info) < 0) return nullptr;
    file->size = static_cast<std::uint64_t>(info.st_size);
    file->fd = std::move(*opened);
    return file;
}

LogPosition LogWriter::find(const StreamOffsets& wanted) {
    auto at_or_before = [&](const Place& place) {
        return place.offsets[0] <= wanted[0] && place.offsets[1] <= wanted[1];
    };
    std::size_t start = places_.size() - 1;
    while (start > 0 && !at_or_before(places_[start])) --start;
    // The place's file may be rotated and even removed by now: then the next place that still exists.
    for (std::size_t i = start; i < places_.size(); ++i) {
        const Place& place = places_[i];
        std::uint64_t rotations = generation_ - place.generation;
        if (rotations >= options_.max_files) continue;
        // From the current file back to that one, chained as they follow each other.
        std::shared_ptr<LogFile> file = file_;
        for (std::uint32_t number = 1; number <= rotations && file; ++number) {
            std::shared_ptr<LogFile> older = open_rotated(number);
            if (older) older->next = file;
            file = std::move(older);
        }
        if (file) return {file, place.position, place.offsets};
    }
    // Nothing older than the current file is left; its own first place is always known or it is the head.
    return head();
}

LogCursor::LogCursor(LogPosition from, LogDriver format, const StreamOffsets& wanted)
    : at_(std::move(from)), format_(format), wanted_(wanted) {}

// The first loss at or behind the present place that has not been told of.
const LogFile::Loss* LogCursor::next_loss() const {
    for (const LogFile::Loss& loss : at_.file->losses) {
        if (loss.position < at_.position) continue;
        if (loss.resume[0] > at_.offsets[0] || loss.resume[1] > at_.offsets[1]) return &loss;
    }
    return nullptr;
}

std::optional<LogCursor::Piece> LogCursor::account(LogStream stream, std::string data, std::uint64_t lost) {
    std::size_t index = index_of(stream);
    std::uint64_t begin = at_.offsets[index];
    std::uint64_t end = begin + data.size() + lost;
    at_.offsets[index] = end;
    if (end <= wanted_[index]) return std::nullopt;
    std::uint64_t skip = wanted_[index] > begin ? wanted_[index] - begin : 0;
    Piece piece;
    piece.stream = stream;
    if (lost > 0) {
        piece.lost = lost - skip;
    } else {
        piece.data = skip == 0 ? std::move(data) : data.substr(static_cast<std::size_t>(skip));
    }
    return piece;
}

Result<std::optional<LogCursor::Piece>> LogCursor::next() {
    while (true) {
        const LogFile& file = *at_.file;
        const LogFile::Loss* loss = next_loss();
        std::uint64_t end = loss == nullptr ? file.size : loss->position;
        if (at_.position < end) {
            if (!scanner_) scanner_.emplace(format_, file.fd.get(), at_.position);
            auto entry = TRY(scanner_->next(end));
            at_.position = scanner_->position();
            if (entry) {
                if (auto piece = account(entry->stream, std::move(entry->data), 0)) return piece;
                continue;
            }
            if (at_.position < end) return fail(Code::data_loss, "the log was changed by somebody else");
        }
        if (loss != nullptr) {
            std::size_t index = loss->resume[0] > at_.offsets[0] ? 0 : 1;
            LogStream stream = index == 0 ? LogStream::stdout_stream : LogStream::stderr_stream;
            if (auto piece = account(stream, {}, loss->resume[index] - at_.offsets[index])) return piece;
            continue;
        }
        if (!file.next) return std::nullopt;
        std::shared_ptr<LogFile> next = file.next;
        at_.file = std::move(next);
        at_.position = 0;
        scanner_.reset();
    }
}

}  // namespace wherry::supervisor
