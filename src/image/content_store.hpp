// Blobs by their SHA-256 below <root>/blobs/sha256/<hex>. A blob is there whole and right or not at all: it is hashed
// while it is written to <root>/ingest/<random>, then renamed. Thread-safe; functions block on the file system.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/digest.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"
#include "image/bytes.hpp"

namespace wherry::image {

struct BlobInfo {
    std::string digest;
    std::uint64_t size_bytes = 0;
};

class ContentStore;

// A blob being written. Destroyed before commit(): nothing stays behind.
class Ingest {
  public:
    Ingest(Ingest&&) noexcept = default;
    Ingest& operator=(Ingest&&) = delete;
    Ingest(const Ingest&) = delete;
    Ingest& operator=(const Ingest&) = delete;
    ~Ingest();

    Result<> write(std::span<const std::byte> data);
    std::uint64_t size_bytes() const noexcept { return size_; }
    // Makes the blob durable and visible. data_loss when expected_digest is given and differs from what was written.
    Result<BlobInfo> commit(std::string_view expected_digest = {});

  private:
    friend class ContentStore;
    Ingest(const ContentStore* store, std::string path, Fd file)
        : store_(store), path_(std::move(path)), file_(std::move(file)) {}

    const ContentStore* store_;
    std::string path_;
    Fd file_;
    Sha256 hash_;
    std::uint64_t size_ = 0;
};

class ContentStore {
  public:
    // Makes the directories and removes ingests that a crash left. One process per root.
    static Result<std::unique_ptr<ContentStore>> open(std::string root);

    Result<Ingest> begin() const;
    Result<BlobInfo> put(std::string_view bytes, std::string_view expected_digest = {}) const;
    // From a source, at most limit bytes (resource_exhausted beyond).
    Result<BlobInfo> put(ByteSource& source, std::uint64_t limit_bytes, std::string_view expected_digest = {}) const;

    bool has(std::string_view digest) const;
    Result<BlobInfo> info(std::string_view digest) const;
    Result<Fd> open_blob(std::string_view digest) const;                                           // not_found
    Result<std::string> read(std::string_view digest, std::size_t limit_bytes = 8U << 20U) const;  // small ones
    Result<> remove(std::string_view digest) const;                                                // missing is fine
    Result<std::vector<BlobInfo>> list() const;
    // Reads the whole blob again; data_loss when it is not what its name says.
    Result<> verify(std::string_view digest) const;

  private:
    friend class Ingest;
    explicit ContentStore(std::string root) : root_(std::move(root)) {}
    // invalid_argument unless digest is sha256 and 64 hex digits: only then it becomes a file name.
    Result<std::string> path_of(std::string_view digest) const;

    std::string root_;
};

}  // namespace wherry::image
