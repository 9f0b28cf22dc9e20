// A layer's tar stream again, byte for byte, from what Docker keeps: the unpacked tree and tar-split.json.gz, which has
// all bytes that are no file content (github.com/vbatts/tar-split). One JSON object a line:
// {"type":2,"payload":"base64"} is a piece of the stream, {"type":1,"name":"etc/passwd","size":12} the content of that
// file. Whether the result is the layer, its digest decides: whoever reads the stream checks it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::adopt {

struct TarSplitEntry {
    bool is_file = false;
    std::string payload;  // of a piece
    std::string name;     // of a file
    std::uint64_t size = 0;
};
Result<TarSplitEntry> parse_tar_split_line(std::string_view line);

// Lines of a gzip file, at most 16 MiB each.
class GzipLines {
  public:
    explicit GzipLines(Fd file);
    ~GzipLines();
    GzipLines(GzipLines&&) noexcept;
    GzipLines& operator=(GzipLines&&) noexcept;
    // False: the end. data_loss for what is no gzip or is cut.
    Result<bool> next(std::string& line);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

class LayerStream {
  public:
    // `tar_split` and `tree` as DockerRoot opens them.
    LayerStream(Fd tar_split, Fd tree) : lines_(std::move(tar_split)), tree_(std::move(tree)) {}
    // 0: the end. data_loss when a file is not as long as it was.
    Result<std::size_t> read(std::span<std::byte> buffer);

    // How long the stream is, without reading a file.
    static Result<std::uint64_t> length(Fd tar_split);

  private:
    Result<bool> advance();
    Result<> open_content(const TarSplitEntry& entry);

    GzipLines lines_;
    Fd tree_;
    std::string piece_;
    std::size_t piece_at_ = 0;
    Fd file_;
    std::string file_name_;
    std::uint64_t file_left_ = 0;
};

}  // namespace wherry::adopt
