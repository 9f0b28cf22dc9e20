#include "image/content_store.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>

#include "base/id.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t buffer_bytes = 256U << 10U;

Result<> sync_folder(const std::string& path) {
    Fd folder = TRY(open_file(path, O_RDONLY | O_DIRECTORY));
    if (::fsync(folder.get()) < 0) return fail_errno("sync " + path);
    return {};
}

}  // namespace

Ingest::~Ingest() {
    if (file_) ::unlink(path_.c_str());
}

Result<> Ingest::write(std::span<const std::byte> data) {
    hash_.update(data);
    TRY(write_all(file_.get(), as_text(data)), "write blob");
    size_ += data.size();
    return {};
}

Result<BlobInfo> Ingest::commit(std::string_view expected_digest) {
    BlobInfo blob{.digest = hash_.finish_digest(), .size_bytes = size_};
    if (!expected_digest.empty() && blob.digest != expected_digest) {
        return fail(Code::data_loss,
                    "digest mismatch: expected " + std::string(expected_digest) + ", got " + blob.digest);
    }
    std::string path = TRY(store_->path_of(blob.digest));
    if (::access(path.c_str(), F_OK) == 0) return blob;  // the destructor drops our copy
    if (::fchmod(file_.get(), 0444) < 0) return fail_errno("blob mode");
    if (::fdatasync(file_.get()) < 0) return fail_errno("sync blob");
    if (::rename(path_.c_str(), path.c_str()) < 0) return fail_errno("publish blob");
    file_.reset();
    TRY(sync_folder(store_->root_ + "/blobs/sha256"));
    return blob;
}

Result<std::unique_ptr<ContentStore>> ContentStore::open(std::string root) {
    TRY(make_directories(root + "/blobs/sha256", 0700), "content store");
    TRY(remove_tree(root + "/ingest"), "content store");
    TRY(make_directories(root + "/ingest", 0700), "content store");
    return std::unique_ptr<ContentStore>(new ContentStore(std::move(root)));  // private constructor
}

Result<std::string> ContentStore::path_of(std::string_view digest) const {
    if (!is_sha256_digest(digest))
        return fail(Code::invalid_argument, "not a sha256 digest: " + std::string(digest.substr(0, 80)));
    return root_ + "/blobs/sha256/" + std::string(digest.substr(7));
}

Result<Ingest> ContentStore::begin() const {
    std::string path = root_ + "/ingest/" + make_id();
    Fd file = TRY(open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0600), "new blob");
    return Ingest(this, std::move(path), std::move(file));
}

Result<BlobInfo> ContentStore::put(std::string_view bytes, std::string_view expected_digest) const {
    Ingest ingest = TRY(begin());
    TRY(ingest.write(as_bytes(bytes)));
    return ingest.commit(expected_digest);
}

Result<BlobInfo> ContentStore::put(ByteSource& source, std::uint64_t limit_bytes,
                                   std::string_view expected_digest) const {
    Ingest ingest = TRY(begin());
    std::vector<std::byte> buffer(buffer_bytes);
    for (;;) {
        std::size_t count = TRY(source.read(buffer));
        if (count == 0) return ingest.commit(expected_digest);
        if (count > limit_bytes - ingest.size_bytes()) {
            return fail(Code::resource_exhausted, "blob is larger than " + std::to_string(limit_bytes) + " bytes");
        }
        TRY(ingest.write(std::span(buffer).first(count)));
    }
}

bool ContentStore::has(std::string_view digest) const {
    auto path = path_of(digest);
    return path && path_exists(*path);
}

Result<BlobInfo> ContentStore::info(std::string_view digest) const {
    std::string path = TRY(path_of(digest));
    struct stat status{};
    if (::stat(path.c_str(), &status) < 0) return fail_errno("blob " + std::string(digest));
    return BlobInfo{.digest = std::string(digest), .size_bytes = static_cast<std::uint64_t>(status.st_size)};
}

Result<Fd> ContentStore::open_blob(std::string_view digest) const {
    std::string path = TRY(path_of(digest));
    return open_file(path, O_RDONLY | O_NOFOLLOW);
}

Result<std::string> ContentStore::read(std::string_view digest, std::size_t limit_bytes) const {
    Fd blob = TRY(open_blob(digest));
    return read_to_end(blob.get(), limit_bytes);
}

Result<> ContentStore::remove(std::string_view digest) const {
    std::string path = TRY(path_of(digest));
    if (::unlink(path.c_str()) < 0 && errno != ENOENT) return fail_errno("remove blob");
    return {};
}

Result<std::vector<BlobInfo>> ContentStore::list() const {
    std::string folder = root_ + "/blobs/sha256";
    std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(folder.c_str()), &::closedir);
    if (!stream) return fail_errno("list blobs");
    std::vector<BlobInfo> blobs;
    while (const dirent* entry = ::readdir(stream.get())) {
        std::string digest = "sha256:" + std::string(entry->d_name);
        if (!is_sha256_digest(digest)) continue;
        if (auto blob = info(digest)) blobs.push_back(std::move(*blob));  // else removed meanwhile
    }
    return blobs;
}

Result<> ContentStore::verify(std::string_view digest) const {
    Fd blob = TRY(open_blob(digest));
    Sha256 hash;
    std::vector<std::byte> buffer(buffer_bytes);
    ByteSource source = ByteSource::borrow_fd(blob.get());
    for (;;) {
        std::size_t count = TRY(source.read(buffer));
        if (count == 0) break;
        hash.update(std::span(buffer).first(count));
    }
    std::string found = hash.finish_digest();
    if (found != digest)
        return fail(Code::data_loss, "blob " + std::string(digest) + " was changed: it hashes to " + found);
    return {};
}

}  // namespace wherry::image
