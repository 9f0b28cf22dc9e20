// The standard streams of one process as containerd names them: paths of fifos, and for output also file:// (appended
// to) and binary:// (a logger is started and gets both streams as pipes). Empty: /dev/null.
//
// A fifo is held open for both directions: its reader may go and come again (containerd restarted, a client attached
// anew), and the process then waits instead of dying by SIGPIPE. When the process has ended and everything is written,
// the fifo is closed, which its reader sees as the end.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "supervisor/event_loop.hpp"
#include "supervisor/input.hpp"
#include "supervisor/output.hpp"

namespace wherry::api::containerd {

struct StdioPaths {
    std::string stdin_path, stdout_path, stderr_path;
    bool terminal = false;
};

enum class OutputScheme : unsigned char { none, fifo, file, binary };
struct OutputTarget {
    OutputScheme scheme = OutputScheme::none;
    std::string path;
    std::vector<std::pair<std::string, std::string>> parameters;  // of binary://, in order
};
// "/run/x", "fifo:///run/x", "file:///var/log/x", "binary:///usr/bin/logger?id=7". invalid_argument otherwise.
Result<OutputTarget> parse_output_target(const std::string& uri);

// One output stream of a process, written to one descriptor.
class FileOutput final : public supervisor::OutputClient {
  public:
    using ClosedCallback = std::function<void()>;

    FileOutput(supervisor::EventLoop& loop, std::shared_ptr<supervisor::OutputHub> hub, supervisor::LogStream stream,
               Fd target, ClosedCallback closed);
    ~FileOutput() override;

    void begin();
    bool closed() const { return !target_; }
    void close();

    bool ready() const override { return unsent_.empty() && target_; }
    void send_output(supervisor::LogStream stream, std::string_view bytes) override;
    void send_gap(supervisor::LogStream, std::uint64_t) override {}
    void send_end() override;

  private:
    void flush();
    bool write_some(std::string_view& bytes);

    supervisor::EventLoop& loop_;
    std::shared_ptr<supervisor::OutputHub> hub_;
    supervisor::LogStream stream_;
    Fd target_;
    supervisor::Watch watch_;
    ClosedCallback closed_callback_;
    std::string unsent_;
    bool ended_ = false;
};

// The fifo a process's stdin comes from.
class FifoInput {
  public:
    FifoInput(supervisor::EventLoop& loop, std::span<char> scratch, std::string path, bool terminal)
        : loop_(loop), scratch_(scratch), path_(std::move(path)), terminal_(terminal) {}
    FifoInput(const FifoInput&) = delete;
    FifoInput& operator=(const FifoInput&) = delete;

    Result<> begin(std::shared_ptr<supervisor::InputSink> sink);
    // CloseIO: what was written so far reaches the process, then its stdin ends.
    void finish();
    void close();

  private:
    Result<> open();
    void on_events(std::uint32_t events);
    void writer_left();
    enum class Outcome : unsigned char { data, nothing, end };
    Outcome read_some();
    void pause();

    supervisor::EventLoop& loop_;
    std::span<char> scratch_;
    std::string path_;
    bool terminal_;
    bool finishing_ = false;
    Fd fifo_;
    supervisor::Watch watch_;
    std::shared_ptr<supervisor::InputSink> sink_;
    std::shared_ptr<const bool> alive_ = std::make_shared<const bool>(true);
};

// All of them, for one process. Made before the process: open() fails early and leaves nothing.
class ProcessStdio {
  public:
    struct Context {
        supervisor::EventLoop& loop;
        std::span<char> scratch;
        std::string container_id, name_space;  // for loggers
    };

    static Result<std::unique_ptr<ProcessStdio>> open(const Context& context, const StdioPaths& paths,
                                                      std::function<void()> output_closed);
    bool wants_stdin() const { return input_ != nullptr; }
    // The process's ends. Right after it was made, before the loop runs again, so that no byte is missed.
    Result<> connect(std::shared_ptr<supervisor::OutputHub> hub, std::shared_ptr<supervisor::InputSink> sink);
    void close_stdin();
    bool output_pending() const;
    void close();

  private:
    explicit ProcessStdio(const Context& context) : context_(context) {}

    Context context_;
    std::function<void()> output_closed_;
    std::unique_ptr<FifoInput> input_;
    Fd stdout_, stderr_;
    std::vector<std::unique_ptr<FileOutput>> outputs_;
};

}  // namespace wherry::api::containerd
