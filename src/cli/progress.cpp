#include "cli/progress.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "cli/terminal.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

class ProgressScreen {
  public:
    ProgressScreen(Session& session, const ProgressOptions& options)
        : session_(session),
          options_(options),
          fd_(options.to_stderr ? STDERR_FILENO : STDOUT_FILENO),
          live_(::isatty(fd_) == 1) {}

    Result<> line(std::string_view text) {
        while (!text.empty() && (text.back() == '\r' || text.back() == ' ')) text.remove_suffix(1);
        if (text.empty()) return {};
        json::object message = TRY(parse_json_object(text), "progress");
        json::value document(std::move(message));
        if (const json::value* detail = value_at(document, "errorDetail")) {
            std::string problem = text_at(*detail, "message");
            if (problem.empty()) problem = text_at(document, "error");
            return fail(Code::internal, problem);
        }
        if (std::string problem = text_at(document, "error"); !problem.empty()) return fail(Code::internal, problem);
        if (options_.quiet) return {};
        if (std::string stream = text_at(document, "stream"); !stream.empty()) {
            write(stream);
            return {};
        }
        std::string status = text_at(document, "status");
        if (status.empty()) return {};
        std::string id = text_at(document, "id");
        std::string progress = text_at(document, "progress");
        if (progress.empty() || live_) progress = bar(document);
        if (id.empty()) {
            write(status + "\n");
        } else if (!live_) {
            // Moving bars are for eyes; a file gets each status once.
            if (progress.empty() && integer_at(document, "progressDetail.total") == 0) write(id + ": " + status + "\n");
        } else {
            redraw(id, id + ": " + status + (progress.empty() ? "" : " " + progress));
        }
        return {};
    }

  private:
    // "[====>     ]  1.2MB/3.4MB", as wide as the terminal has room for.
    static std::string bar(const json::value& document) {
        const std::int64_t current = integer_at(document, "progressDetail.current");
        const std::int64_t total = integer_at(document, "progressDetail.total");
        if (current <= 0) return {};
        std::string sizes = human_size(static_cast<double>(current), 4);
        if (total <= 0) return sizes;
        const std::size_t width = terminal_columns() > 110 ? 50 : terminal_columns() > 70 ? 20 : 10;
        const auto done = static_cast<std::size_t>(static_cast<double>(std::min(current, total)) /
                                                   static_cast<double>(total) * static_cast<double>(width));
        std::string text = "[" + std::string(done, '=');
        if (done < width) text += ">" + std::string(width - done - 1, ' ');
        return text + "]  " + sizes + "/" + human_size(static_cast<double>(total), 4);
    }

    void write(const std::string& text) {
        if (fd_ == STDERR_FILENO) {
            session_.flush();
            [[maybe_unused]] auto written = write_all(STDERR_FILENO, text);
        } else {
            session_.out(text);
            session_.flush();
        }
        lines_ += live_ ? static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) : 0;
    }

    void redraw(const std::string& id, std::string text) {
        if (std::size_t columns = terminal_columns(); text.size() >= columns) text.resize(columns - 1);
        auto found = rows_.find(id);
        if (found == rows_.end()) {
            rows_.emplace(id, lines_);
            write(text + "\n");
            return;
        }
        std::string up = std::to_string(lines_ - found->second);
        std::string move = "\x1b[" + up + "A\x1b[2K\r" + text + "\r\x1b[" + up + "B";
        session_.flush();
        [[maybe_unused]] auto written = write_all(fd_, move);
    }

    Session& session_;
    const ProgressOptions& options_;
    int fd_;
    bool live_;
    std::size_t lines_ = 0;
    std::map<std::string, std::size_t> rows_;
};

}  // namespace

Result<> show_progress(Session& session, http::ClientResponse& response, const ProgressOptions& options) {
    ProgressScreen screen(session, options);
    std::string pending;
    std::array<char, 16384> buffer{};
    while (true) {
        std::size_t count = TRY(response.read_some(std::as_writable_bytes(std::span(buffer))));
        if (count == 0) break;
        pending.append(buffer.data(), count);
        std::size_t start = 0;
        for (auto end = pending.find('\n'); end != std::string::npos; end = pending.find('\n', start)) {
            TRY(screen.line(std::string_view(pending).substr(start, end - start)));
            start = end + 1;
        }
        pending.erase(0, start);
        if (pending.size() > 4U << 20U) return fail(Code::data_loss, "progress: a line without end");
    }
    return screen.line(pending);
}

}  // namespace wherry::cli
