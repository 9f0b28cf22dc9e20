#include <sys/stat.h>

#include <cstring>

#include "base/log.hpp"
#include "confine/digest.hpp"
#include "confine/seccomp_compile/compile.hpp"

namespace wherry::confine {
namespace {

// What is remembered in memory; a daemon sees few different profiles.
constexpr std::size_t most_entries = 256;

std::string seal(const SeccompProgram& program) {
    std::string bytes = serialize(program);
    auto digest = small_sha256(bytes);
    std::memcpy(bytes.data() + seccomp_digest_offset, digest.data(), digest.size());
    return bytes;
}

Result<SeccompProgram> unseal(std::string bytes) {
    SeccompProgram program = TRY(parse_seccomp_program(bytes));
    std::array<std::byte, 32> written{};
    std::memcpy(written.data(), bytes.data() + seccomp_digest_offset, written.size());
    std::memset(bytes.data() + seccomp_digest_offset, 0, written.size());
    if (small_sha256(bytes) != written) return fail(Code::data_loss, "seccomp program: altered");
    return program;
}

}  // namespace

struct SeccompCache::Shared {
    std::string directory;
    std::mutex mutex;  // guards the maps; not held while compiling
    std::unordered_map<std::string, Entry> by_key;
    std::unordered_map<std::uint64_t, Entry> defaults;  // by capabilities

    // Files may be swept away under a running daemon; then the answer is made anew.
    template <class Map, class Key>
    std::optional<Entry> find(const Map& map, const Key& key) {
        std::lock_guard lock(mutex);
        auto found = map.find(key);
        if (found == map.end() || found->second.path.empty() || !path_exists(found->second.path)) return std::nullopt;
        return found->second;
    }
};

SeccompCache::SeccompCache(std::string directory) : shared_(std::make_shared<Shared>()) {
    shared_->directory = std::move(directory);
}

Result<SeccompCache> SeccompCache::open(const std::string& directory) {
    TRY(make_directories(directory, 0700), "seccomp cache");
    // Whoever could write here could choose what containers may do.
    struct stat info{};
    if (::lstat(directory.c_str(), &info) != 0) return fail_errno("seccomp cache " + directory);
    if (!S_ISDIR(info.st_mode) || info.st_uid != ::geteuid())
        return fail(Code::permission_denied, "seccomp cache " + directory + " is not a folder of this user");
    if ((info.st_mode & 0077) != 0 && ::chmod(directory.c_str(), 0700) != 0)
        return fail_errno("seccomp cache " + directory);
    return SeccompCache(directory);
}

Result<SeccompCache::Entry> SeccompCache::get(const SeccompProfile& profile) {
    std::string key = seccomp_cache_key(profile);
    if (auto known = shared_->find(shared_->by_key, key)) return *std::move(known);
    Entry entry;
    std::string path = shared_->directory + '/' + key + ".bpf";
    if (auto bytes = read_file(path, 1U << 20U)) {
        if (auto program = unseal(std::move(*bytes))) {
            entry = {.path = path, .program = std::make_shared<const SeccompProgram>(std::move(*program))};
        } else {
            log_warn("seccomp.cache_rebuilt", {{"file", path}, {"error", program.error()}});
        }
    }
    if (!entry.program) {
        entry.program = std::make_shared<const SeccompProgram>(TRY(compile_seccomp(profile)));
        if (auto written = write_file_atomic(path, seal(*entry.program), 0600, Durability::none))
            entry.path = path;
        else
            log_warn("seccomp.cache_not_written", {{"file", path}, {"error", written.error()}});
    }
    std::lock_guard lock(shared_->mutex);
    if (shared_->by_key.size() >= most_entries) shared_->by_key.clear();
    return shared_->by_key.insert_or_assign(std::move(key), std::move(entry)).first->second;
}

Result<SeccompCache::Entry> SeccompCache::get_default(const SeccompConditions& conditions) {
    std::uint64_t key = conditions.capabilities.bits();
    if (auto known = shared_->find(shared_->defaults, key)) return *std::move(known);
    Entry entry = TRY(get(default_seccomp_profile(conditions)));
    std::lock_guard lock(shared_->mutex);
    if (shared_->defaults.size() >= most_entries) shared_->defaults.clear();
    shared_->defaults.insert_or_assign(key, entry);
    return entry;
}

}  // namespace wherry::confine
