#include "image/copy/program.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <vector>

#include "image/bytes.hpp"
#include "image/copy/extraction.hpp"
#include "image/copy/place.hpp"
#include "image/layers/tree.hpp"
#include "image/tar/decoder.hpp"
#include "image/tar/reader.hpp"
#include "image/unpack/program.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t copy_buffer_bytes = 256U << 10U;

// Headers are small and many; the pipe takes them together.
class Output {
  public:
    explicit Output(int fd) : fd_(fd) { pending_.reserve(copy_buffer_bytes); }

    Result<> write(std::span<const std::byte> data) {
        if (pending_.size() + data.size() > copy_buffer_bytes) TRY(flush());
        if (data.size() >= copy_buffer_bytes / 2) return write_all(fd_, as_text(data));
        pending_.append(as_text(data));
        return {};
    }
    Result<> flush() {
        TRY(write_all(fd_, pending_), "send the archive");
        pending_.clear();
        return {};
    }

  private:
    int fd_;
    std::string pending_;
};

Result<> report(const std::string& line) {
    return write_all(report_fd, line);
}

Result<> stat_or_read(const CopyJob& job, int root) {
    const std::string path = absolute_place(job.path);
    const Place place = TRY(find_place(root, path));
    TRY(report(format_stat(TRY(describe_place(root, path, place)))));
    if (job.action == CopyAction::stat) return {};
    Output output(STDOUT_FILENO);
    TRY(write_place_tar(place.folder.get(), place.entry, place.name,
                        [&](std::span<const std::byte> data) { return output.write(data); }));
    return output.flush();
}

Result<> read_tree(int root) {
    Output output(STDOUT_FILENO);
    TRY(write_tree_tar(root, TreeKind::plain, [&](std::span<const std::byte> data) { return output.write(data); }));
    return output.flush();
}

Result<> write(const CopyJob& job, int root) {
    ExtractionOptions options{.keep_kinds = job.keep_kinds, .owner = std::nullopt};
    auto extraction = TRY(Extraction::open(root, absolute_place(job.path), options));
    if (!job.owner.empty()) {
        options.owner = TRY(find_owner(root, job.owner));
        extraction = TRY(Extraction::open(root, absolute_place(job.path), options));
    }
    TRY(report("ready\n"));
    ByteSource source = ByteSource::borrow_fd(STDIN_FILENO);
    StreamDecoder decoder(source);
    std::vector<std::byte> buffer(copy_buffer_bytes);
    bool any = false;
    TarReader reader([&]() -> Result<std::span<const std::byte>> {
        auto count = decoder.read(buffer);
        any = any || !count || *count > 0;
        if (!count) return std::unexpected(std::move(count).error());
        return std::span<const std::byte>(buffer).first(*count);
    });
    for (;;) {
        auto entry = reader.next();
        if (!entry && !any) break;  // nothing at all is an empty archive, as with Docker
        if (!entry) return std::unexpected(std::move(entry).error());
        if (!*entry) break;
        TRY(extraction.apply(**entry, reader));
    }
    return extraction.finish();
}

Result<> work(const CopyJob& job, int root) {
    switch (job.action) {
        case CopyAction::stat:
        case CopyAction::read:
            return stat_or_read(job, root);
        case CopyAction::tree:
            return read_tree(root);
        case CopyAction::write:
            return write(job, root);
    }
    return fail(Code::internal, "not a copy job");
}

}  // namespace

int run_copy(const CopyJob& job, const Fd& root) {
    Result<> done = work(job, root.get());
    if (!done) return refuse_copy(std::move(done).error());
    return report("ok\n") ? 0 : 1;
}

int refuse_copy(Error error) {
    static_cast<void>(report(format_report(std::unexpected(std::move(error)))));
    return 1;
}

}  // namespace wherry::image
