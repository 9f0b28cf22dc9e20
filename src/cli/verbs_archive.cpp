// load, save, import.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/output_file.hpp"
#include "cli/progress.hpp"
#include "cli/reference.hpp"
#include "cli/session.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option load_options[] = {
    {"input", 'i', "string", "Read from tar archive file, instead of STDIN"},
    {"platform",
     0,
     "string",
     "Load only the given platform variant",
     nullptr,
     {},
     true,
     "images here have one platform each"},
    {"quiet", 'q', {}, "Suppress the load output"},
};
constexpr Option save_options[] = {
    {"output", 'o', "string", "Write to a file, instead of STDOUT"},
    {"platform",
     0,
     "string",
     "Save only the given platform variant",
     nullptr,
     {},
     true,
     "images here have one platform each"},
};
constexpr Option import_options[] = {
    {"change", 'c', "list", "Apply Dockerfile instruction to the created image"},
    {"message", 'm', "string", "Set commit message for imported image"},
    {"platform", 0, "string", "Set platform if server is multi-platform capable"},
};

// Reads a file and says on a terminal how far it is.
class Upload {
  public:
    Upload(int fd, bool show) : fd_(fd), show_(show) {
        struct stat info{};
        if (::fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) total_ = info.st_size;
    }
    ~Upload() { clear(); }
    Upload(const Upload&) = delete;
    Upload& operator=(const Upload&) = delete;

    Result<std::size_t> read(std::span<std::byte> buffer) {
        ssize_t count = 0;
        do count = ::read(fd_, buffer.data(), buffer.size());
        while (count < 0 && errno == EINTR);
        if (count < 0) return fail_errno("read the archive");
        done_ += count;
        if (count == 0)
            clear();
        else
            draw();
        return static_cast<std::size_t>(count);
    }

  private:
    void draw() {
        std::int64_t now = monotonic_ns();
        if (!show_ || now - drawn_ns_ < 100'000'000) return;
        drawn_ns_ = now;
        std::string text = "\rsending " + human_size(static_cast<double>(done_));
        if (total_ > 0) {
            auto filled = static_cast<std::size_t>(std::min<std::int64_t>(done_ * 30 / total_, 30));
            text += " of " + human_size(static_cast<double>(total_)) + " [" + std::string(filled, '=') +
                    std::string(30 - filled, ' ') + "]";
        }
        text += "\x1b[K";
        visible_ = true;
        [[maybe_unused]] auto written = write_all(STDERR_FILENO, text);
    }
    void clear() {
        if (visible_) [[maybe_unused]]
            auto written = write_all(STDERR_FILENO, "\r\x1b[K");
        visible_ = false;
    }

    int fd_;
    bool show_;
    bool visible_ = false;
    std::int64_t total_ = 0;
    std::int64_t done_ = 0;
    std::int64_t drawn_ns_ = monotonic_ns();
};

Result<int> load(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    Fd file;
    int input = STDIN_FILENO;
    if (std::string path = options.text("input"); !path.empty()) {
        auto opened = open_file(path, O_RDONLY);
        if (!opened)
            return fail(opened.error().code(),
                        "open " + path + ": " +
                            (opened.error().code() == Code::not_found ? "no such file or directory"
                                                                      : opened.error().describe()));
        file = std::move(*opened);
        input = file.get();
    } else if (::isatty(STDIN_FILENO) == 1) {
        return fail(Code::invalid_argument, "requested load from stdin, but stdin is empty");
    }
    bool quiet = options.flag("quiet") || !session.stdout_is_terminal();
    auto upload = std::make_shared<Upload>(input, !options.flag("quiet") && session.stderr_is_terminal());
    http::ClientRequest request{.method = "POST",
                                .target = "/images/load" + QueryText().add("quiet", quiet ? "1" : "0").text()};
    request.content_type = "application/x-tar";
    request.body_source = [upload](std::span<std::byte> buffer) { return upload->read(buffer); };
    auto response = TRY(session.checked(request));
    TRY(show_progress(session, response, {}));
    return 0;
}

Result<int> save(Session& session, const Invocation& invocation) {
    std::string path = invocation.options.text("output");
    TRY(check_output_file(session, path));
    std::string target;
    if (invocation.arguments.size() == 1) {
        target = "/images/" + http::percent_encode_path(invocation.arguments[0]) + "/get";
    } else {
        QueryText query;
        for (const std::string& name : invocation.arguments) query.add("names", name);
        target = "/images/get" + query.text();
    }
    auto response = TRY(session.checked({.method = "GET", .target = target}));
    TRY(write_output_file(response, path));
    return 0;
}

Result<int> import_archive(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    const std::string& source = invocation.arguments[0];
    QueryText query;
    Fd file;
    int input = -1;
    if (source == "-") {
        query.add("fromSrc", "-");
        input = STDIN_FILENO;
    } else if (source.starts_with("http://") || source.starts_with("https://")) {
        query.add("fromSrc", source);
    } else {
        auto opened = open_file(source, O_RDONLY);
        if (!opened)
            return fail(opened.error().code(),
                        "open " + source + ": " +
                            (opened.error().code() == Code::not_found ? "no such file or directory"
                                                                      : opened.error().describe()));
        file = std::move(*opened);
        query.add("fromSrc", "-");
        input = file.get();
    }
    if (invocation.arguments.size() > 1) {
        RepositoryTag target = TRY(parse_repository_tag(invocation.arguments[1]));
        query.add("repo", target.repository).add("tag", target.tag);
    }
    if (options.given("message")) query.add("message", options.text("message"));
    for (const std::string& change : options.list("change")) query.add("changes", change);
    if (options.given("platform")) query.add("platform", options.text("platform"));
    http::ClientRequest request{.method = "POST", .target = "/images/create" + query.text()};
    std::shared_ptr<Upload> upload;
    if (input >= 0) {
        upload = std::make_shared<Upload>(input, session.stderr_is_terminal());
        request.content_type = "text/plain";
        request.body_source = [upload](std::span<std::byte> buffer) { return upload->read(buffer); };
    }
    auto response = TRY(session.checked(request));
    TRY(show_progress(session, response, {}));
    return 0;
}

}  // namespace

void add_archive_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"load", "image load"},
         .usage = "[OPTIONS]",
         .summary = "Load an image from a tar archive or STDIN",
         .example = "wherry load -i web.tar",
         .options = load_options,
         .maximum = 0,
         .run = load},
        {.names = {"save", "image save"},
         .usage = "[OPTIONS] IMAGE [IMAGE...]",
         .summary = "Save one or more images to a tar archive (streamed to STDOUT by default)",
         .example = "wherry save -o web.tar web:1",
         .options = save_options,
         .minimum = 1,
         .run = save},
        {.names = {"import", "image import"},
         .usage = "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
         .summary = "Import the contents from a tarball to create a filesystem image",
         .example = "tar -C rootfs -c . | wherry import -c 'CMD [\"sh\"]' - base:1",
         .options = import_options,
         .minimum = 1,
         .maximum = 2,
         .run = import_archive},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
