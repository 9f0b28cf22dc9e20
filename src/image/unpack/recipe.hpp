// The recipe of a layer: how to write its tar stream again, byte for byte, from the unpacked tree. It holds all bytes
// of the stream that are no file content (headers, padding) and refers to files for the rest, compressed by zstd.
//
// The recipe is written by the confined child and read by the daemon: the reader trusts nothing in it, opens files only
// below the tree, and the stream's digest decides whether the result is right.
//
// Format, after decompression: operations of one byte and operands, numbers little-endian.
//   'L' u32 length, bytes                      these bytes
//   'F' u64 length, string path, u32 n, n x (u64 offset, u64 length)   the content of a file; n 0: from its start, all
//   'R' string path, u32 k                     from here on `path` is another file; before, it is found as replaced/<k>
//   'E'                                        end
// string: u32 length, bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "image/bytes.hpp"
#include "image/tar/reader.hpp"

namespace wherry::image {

class RecipeWriter {
  public:
    // Writes to `fd`, which must outlive the writer.
    explicit RecipeWriter(int fd);
    ~RecipeWriter();
    RecipeWriter(const RecipeWriter&) = delete;
    RecipeWriter& operator=(const RecipeWriter&) = delete;

    Result<> literal(std::span<const std::byte> bytes);
    Result<> file(std::string_view path, std::uint64_t length, std::span<const TarExtent> extents);
    Result<> replaced(std::string_view path, std::uint32_t number);
    Result<> finish();

  private:
    struct Compressor;
    Result<> flush_literal();
    Result<> put(std::span<const std::byte> bytes);

    int fd_;
    std::vector<std::byte> pending_;  // literal bytes not written as an operation yet
    std::unique_ptr<Compressor> compressor_;
};

// Writes the stream that `recipe` describes to `sink`. `tree` is the unpacked root, `replaced` the folder of set-aside
// files (-1: there is none). data_loss when the recipe or the tree is damaged; the caller checks the digest.
Result<> replay_recipe(int recipe, int tree, int replaced, const ByteSink& sink);

}  // namespace wherry::image
