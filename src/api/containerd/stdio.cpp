#include "api/containerd/stdio.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "base/log.hpp"

namespace wherry::api::containerd {

namespace {

constexpr int logger_ready_timeout_ms = 10'000;
constexpr std::size_t max_uri_bytes = 4096;

std::optional<unsigned> hex_digit(char letter) {
    if (letter >= '0' && letter <= '9') return static_cast<unsigned>(letter - '0');
    if (letter >= 'a' && letter <= 'f') return static_cast<unsigned>(letter - 'a' + 10);
    if (letter >= 'A' && letter <= 'F') return static_cast<unsigned>(letter - 'A' + 10);
    return std::nullopt;
}

Result<std::string> percent_decode(std::string_view text, bool plus_is_space) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '%') {
            auto high = i + 1 < text.size() ? hex_digit(text[i + 1]) : std::nullopt;
            auto low = i + 2 < text.size() ? hex_digit(text[i + 2]) : std::nullopt;
            if (!high || !low) return fail(Code::invalid_argument, "stdio: bad escape in " + std::string(text));
            out += static_cast<char>(*high * 16 + *low);
            i += 2;
        } else {
            out += text[i] == '+' && plus_is_space ? ' ' : text[i];
        }
    }
    if (out.find('\0') != std::string::npos) return fail(Code::invalid_argument, "stdio: NUL in a path");
    return out;
}

Result<Fd> open_output_fifo(const std::string& path) {
    // A fifo opened for both directions never blocks, and never lacks a reader. Anything else is only written to.
    struct stat info{};
    if (::stat(path.c_str(), &info) < 0) return fail_errno("stdio " + path);
    if (S_ISFIFO(info.st_mode)) {
        Fd fifo = TRY(open_file(path, O_RDWR | O_NONBLOCK), "stdio");
        if (::fstat(fifo.get(), &info) < 0 || !S_ISFIFO(info.st_mode))
            return fail(Code::invalid_argument, "stdio: " + path + " changed while it was opened");
        return fifo;
    }
    if (S_ISREG(info.st_mode) || S_ISCHR(info.st_mode)) return open_file(path, O_WRONLY | O_APPEND | O_NONBLOCK);
    return fail(Code::invalid_argument, "stdio: " + path + " is no fifo and no file");
}

Result<Fd> open_output_file(const std::string& path) {
    auto slash = path.rfind('/');
    if (slash != std::string::npos && slash > 0) TRY(make_directories(path.substr(0, slash), 0755), "stdio");
    return open_file(path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK, 0644);
}

struct Logger {
    Fd out, err;  // our ends
};

// A logger of containerd's kind: descriptor 3 is the stream of stdout, 4 of stderr, 5 is closed when it is ready.
Result<Logger> start_logger(const ProcessStdio::Context& context, const OutputTarget& target) {
    Pipe out = TRY(make_pipe());
    Pipe err = TRY(make_pipe());
    Pipe ready = TRY(make_pipe());
    std::vector<std::string> words{target.path};
    for (const auto& [key, value] : target.parameters) {
        words.push_back(key);
        if (!value.empty()) words.push_back(value);
    }
    std::vector<std::string> environment{"CONTAINER_ID=" + context.container_id,
                                         "CONTAINER_NAMESPACE=" + context.name_space};
    for (char** entry = ::environ; *entry != nullptr; ++entry) {
        // The shim's own are not its children's business.
        if (!std::string_view(*entry).starts_with("TTRPC_ADDRESS=")) environment.emplace_back(*entry);
    }
    auto pointers = [](std::vector<std::string>& texts) {
        std::vector<char*> list;
        for (std::string& text : texts) list.push_back(text.data());
        list.push_back(nullptr);
        return list;
    };
    std::vector<char*> argv = pointers(words);
    std::vector<char*> envp = pointers(environment);
    Fd null = TRY(open_file("/dev/null", O_RDWR));
    // High numbers first, so that none of the three is overwritten by another.
    Fd moved_out(::fcntl(out.read.get(), F_DUPFD_CLOEXEC, 16));
    Fd moved_err(::fcntl(err.read.get(), F_DUPFD_CLOEXEC, 16));
    Fd moved_ready(::fcntl(ready.write.get(), F_DUPFD_CLOEXEC, 16));
    if (!moved_out || !moved_err || !moved_ready) return fail_errno("logger");
    pid_t pid = ::fork();
    if (pid < 0) return fail_errno("fork");
    if (pid == 0) {
        // SAFETY: after fork: async-signal-safe calls only. All other descriptors are close-on-exec.
        ::setsid();
        ::dup2(null.get(), 0);
        ::dup2(null.get(), 1);
        ::dup2(null.get(), 2);
        ::dup2(moved_out.get(), 3);
        ::dup2(moved_err.get(), 4);
        ::dup2(moved_ready.get(), 5);
        ::execve(argv[0], argv.data(), envp.data());
        ::_exit(127);
    }
    moved_ready.reset();
    ready.write.reset();
    // Its end of descriptor 5: closed when it is ready, or when it could not be started. As containerd's own shim, a
    // container does not start before its logger listens.
    pollfd watched{ready.read.get(), POLLIN, 0};
    int ready_count = -1;
    do {
        ready_count = ::poll(&watched, 1, logger_ready_timeout_ms);
    } while (ready_count < 0 && errno == EINTR);
    if (ready_count <= 0) return fail(Code::deadline_exceeded, "logger " + target.path + " did not become ready");
    TRY(set_nonblocking(out.write.get()));
    TRY(set_nonblocking(err.write.get()));
    return Logger{std::move(out.write), std::move(err.write)};
}

}  // namespace

Result<OutputTarget> parse_output_target(const std::string& uri) {
    OutputTarget target;
    if (uri.empty()) return target;
    if (uri.size() > max_uri_bytes) return fail(Code::invalid_argument, "stdio: name is too long");
    auto colon = uri.find("://");
    if (colon == std::string::npos) {
        if (uri.front() != '/' || uri.find('\0') != std::string::npos)
            return fail(Code::invalid_argument, "stdio: not an absolute path: " + uri);
        target.scheme = OutputScheme::fifo;
        target.path = uri;
        return target;
    }
    std::string_view scheme = std::string_view(uri).substr(0, colon);
    std::string_view rest = std::string_view(uri).substr(colon + 3);
    std::string_view query;
    if (auto mark = rest.find('?'); mark != std::string_view::npos) {
        query = rest.substr(mark + 1);
        rest = rest.substr(0, mark);
    }
    if (scheme == "fifo") {
        target.scheme = OutputScheme::fifo;
    } else if (scheme == "file") {
        target.scheme = OutputScheme::file;
    } else if (scheme == "binary") {
        target.scheme = OutputScheme::binary;
    } else {
        return fail(Code::invalid_argument, "stdio: unknown scheme in " + uri);
    }
    target.path = TRY(percent_decode(rest, false));
    if (target.path.empty() || target.path.front() != '/')
        return fail(Code::invalid_argument, "stdio: not an absolute path: " + uri);
    while (!query.empty()) {
        std::string_view pair = query.substr(0, query.find('&'));
        query.remove_prefix(std::min(pair.size() + 1, query.size()));
        if (pair.empty()) continue;
        std::string_view key = pair.substr(0, pair.find('='));
        std::string_view value = key.size() < pair.size() ? pair.substr(key.size() + 1) : std::string_view();
        std::string decoded_key = TRY(percent_decode(key, true));
        std::string decoded_value = TRY(percent_decode(value, true));
        target.parameters.emplace_back(std::move(decoded_key), std::move(decoded_value));
    }
    return target;
}

// ---- output

FileOutput::FileOutput(supervisor::EventLoop& loop, std::shared_ptr<supervisor::OutputHub> hub,
                       supervisor::LogStream stream, Fd target, ClosedCallback closed)
    : loop_(loop),
      hub_(std::move(hub)),
      stream_(stream),
      target_(std::move(target)),
      closed_callback_(std::move(closed)) {}

FileOutput::~FileOutput() {
    hub_->remove_client(*this);
}

void FileOutput::begin() {
    std::size_t index = stream_ == supervisor::LogStream::stderr_stream ? 1 : 0;
    supervisor::OutputInterest interest;
    interest.wanted.at(index) = true;
    interest.from.at(index) = 0;
    hub_->add_client(*this, interest);
}

// False: the target takes no more for good.
bool FileOutput::write_some(std::string_view& bytes) {
    while (!bytes.empty()) {
        ssize_t written = ::write(target_.get(), bytes.data(), bytes.size());
        if (written < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) return true;
            int problem = errno;
            log_warn("stdio.write_failed", {{"errno", problem}});
            if (problem != ENOSPC && problem != EDQUOT) return false;
            // A full disk loses output, never the container.
            bytes = {};
        }
        bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

void FileOutput::send_output(supervisor::LogStream, std::string_view bytes) {
    if (!target_) return;
    if (unsent_.empty() && !write_some(bytes)) {
        close();
        return;
    }
    if (bytes.empty()) return;
    unsent_.append(bytes);
    if (watch_) return;
    auto watch = loop_.watch(target_.get(), EPOLLOUT, [this](std::uint32_t) { flush(); });
    if (!watch) {
        log_warn("stdio.watch_failed", {{"error", watch.error()}});
        close();
        return;
    }
    watch_ = std::move(*watch);
}

void FileOutput::flush() {
    std::string_view rest = unsent_;
    if (!write_some(rest)) {
        close();
        return;
    }
    if (!rest.empty()) {
        unsent_.erase(0, unsent_.size() - rest.size());
        return;
    }
    std::string().swap(unsent_);
    watch_.reset();
    if (ended_) {
        close();
    } else {
        hub_->client_ready(*this);
    }
}

void FileOutput::send_end() {
    ended_ = true;
    if (unsent_.empty()) close();
}

void FileOutput::close() {
    if (!target_) return;
    watch_.reset();
    target_.reset();
    hub_->remove_client(*this);
    // Not from within: the owner may let go of this.
    loop_.defer(closed_callback_);
}

// ---- input

Result<> FifoInput::open() {
    fifo_ = TRY(open_file(path_, O_RDONLY | O_NONBLOCK), "stdin");
    struct stat info{};
    if (::fstat(fifo_.get(), &info) < 0) return fail_errno("stdin");
    if (!S_ISFIFO(info.st_mode)) return fail(Code::invalid_argument, "stdin: " + path_ + " is not a fifo");
    return {};
}

Result<> FifoInput::begin(std::shared_ptr<supervisor::InputSink> sink) {
    sink_ = std::move(sink);
    TRY(open());
    // As long as nobody has opened the other end, epoll tells nothing: the end of the input is that a writer left.
    watch_ = TRY(loop_.watch(fifo_.get(), EPOLLIN, [this](std::uint32_t events) { on_events(events); }));
    return {};
}

FifoInput::Outcome FifoInput::read_some() {
    ssize_t got = -1;
    do {
        got = ::read(fifo_.get(), scratch_.data(), scratch_.size());
    } while (got < 0 && errno == EINTR);
    if (got < 0) return errno == EAGAIN ? Outcome::nothing : Outcome::end;
    if (got == 0) return Outcome::end;
    sink_->write({scratch_.data(), static_cast<std::size_t>(got)});
    return Outcome::data;
}

void FifoInput::on_events(std::uint32_t) {
    if (read_some() == Outcome::end) {
        writer_left();
        return;
    }
    if (sink_->full()) pause();
}

void FifoInput::pause() {
    // The watch goes altogether: a hang-up can't be masked.
    watch_.reset();
    sink_->when_writable([this, alive = std::weak_ptr(alive_)] {
        if (alive.expired() || !fifo_) return;
        auto watch = loop_.watch(fifo_.get(), EPOLLIN, [this](std::uint32_t events) { on_events(events); });
        if (watch) watch_ = std::move(*watch);
        if (finishing_) finish();
    });
}

// The last writer has closed the fifo. A terminal's user may come back; a pipe's input is over.
void FifoInput::writer_left() {
    watch_.reset();
    fifo_.reset();
    if (!terminal_ || finishing_) {
        if (!terminal_) sink_->end();
        return;
    }
    // Opened anew it waits for a writer without telling of the one that left.
    auto sink = std::move(sink_);
    if (auto again = begin(std::move(sink)); !again) log_debug("stdio.stdin_not_reopened", {{"error", again.error()}});
}

void FifoInput::finish() {
    finishing_ = true;
    if (!fifo_) return;
    while (!sink_->full()) {
        if (read_some() == Outcome::data) continue;
        if (!terminal_) {
            close();
            sink_->end();
        }
        return;
    }
    if (watch_) pause();
}

void FifoInput::close() {
    watch_.reset();
    fifo_.reset();
}

// ---- all of a process

Result<std::unique_ptr<ProcessStdio>> ProcessStdio::open(const Context& context, const StdioPaths& paths,
                                                         std::function<void()> output_closed) {
    std::unique_ptr<ProcessStdio> stdio(new ProcessStdio(context));
    stdio->output_closed_ = std::move(output_closed);
    OutputTarget out = TRY(parse_output_target(paths.stdout_path));
    // A terminal has one stream.
    OutputTarget err = paths.terminal ? OutputTarget{} : TRY(parse_output_target(paths.stderr_path));
    if (!paths.stdin_path.empty() && paths.stdin_path != "/dev/null") {
        std::string path = paths.stdin_path;
        if (path.starts_with("fifo://")) path.erase(0, 7);
        struct stat info{};
        if (::stat(path.c_str(), &info) < 0) return fail_errno("stdin " + path);
        if (!S_ISFIFO(info.st_mode)) return fail(Code::invalid_argument, "stdin: " + path + " is not a fifo");
        stdio->input_ = std::make_unique<FifoInput>(context.loop, context.scratch, std::move(path), paths.terminal);
    }
    if (out.scheme == OutputScheme::binary) {
        // One logger for both; what containerd gives as stderr is the same name.
        Logger logger = TRY(start_logger(context, out), "stdout");
        stdio->stdout_ = std::move(logger.out);
        if (!paths.terminal) stdio->stderr_ = std::move(logger.err);
        return stdio;
    }
    if (out.scheme == OutputScheme::fifo) stdio->stdout_ = TRY(open_output_fifo(out.path));
    if (out.scheme == OutputScheme::file) stdio->stdout_ = TRY(open_output_file(out.path));
    if (err.scheme == OutputScheme::fifo) stdio->stderr_ = TRY(open_output_fifo(err.path));
    if (err.scheme == OutputScheme::file) stdio->stderr_ = TRY(open_output_file(err.path));
    if (err.scheme == OutputScheme::binary) stdio->stderr_ = std::move(TRY(start_logger(context, err), "stderr").err);
    return stdio;
}

Result<> ProcessStdio::connect(std::shared_ptr<supervisor::OutputHub> hub,
                               std::shared_ptr<supervisor::InputSink> sink) {
    auto add = [&](supervisor::LogStream stream, Fd& target) {
        if (!target) return;
        outputs_.push_back(std::make_unique<FileOutput>(context_.loop, hub, stream, std::move(target), output_closed_));
        outputs_.back()->begin();
    };
    add(supervisor::LogStream::stdout_stream, stdout_);
    add(supervisor::LogStream::stderr_stream, stderr_);
    if (input_ && sink) TRY(input_->begin(std::move(sink)));
    return {};
}

void ProcessStdio::close_stdin() {
    if (input_) input_->finish();
}

bool ProcessStdio::output_pending() const {
    return std::ranges::any_of(outputs_, [](const auto& output) { return !output->closed(); });
}

void ProcessStdio::close() {
    if (input_) input_->close();
    stdout_.reset();
    stderr_.reset();
    for (auto& output : outputs_) output->close();
}

}  // namespace wherry::api::containerd
