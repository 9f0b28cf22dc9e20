#include "image/layers/overlay_store.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <memory>
#include <thread>

#include "base/digest.hpp"
#include "base/id.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "image/layers/compare.hpp"
#include "image/reference.hpp"
#include "image/unpack/recipe.hpp"
#include "image/unpack/spawn.hpp"

namespace wherry::image {

namespace {

constexpr std::string_view temporary_prefix = "tmp-";

Result<std::vector<std::string>> names_in(const std::string& folder) {
    std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(folder.c_str()), &::closedir);
    if (!stream) return fail_errno("list " + folder);
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(stream.get())) {
        std::string name = entry->d_name;
        if (name != "." && name != "..") names.push_back(std::move(name));
    }
    return names;
}

// Deletes a tree that was set aside. A child of a daemon that was killed may still be writing into it for a moment.
void bury(const std::string& path) {
    constexpr int attempts = 20;
    for (int attempt = 1;; ++attempt) {
        auto removed = remove_tree(path);
        if (removed) return;
        if (attempt == attempts) {
            log_warn("trash.remove", {{"path", path}, {"error", removed.error()}});
            return;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
}

// Marks what the child noted as opaque: it has no right to set trusted attributes. Returns whether the root is among
// them.
Result<bool> mark_opaque_folders(int workspace) {
    Fd list = TRY(open_at(workspace, "opaque", O_RDONLY | O_NOFOLLOW));
    Fd tree = TRY(open_at(workspace, "diff", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    std::string pending;
    std::vector<char> chunk(64U << 10U);
    bool root = false;
    for (;;) {
        ssize_t count = ::read(list.get(), chunk.data(), chunk.size());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return fail_errno("read opaque folders");
        if (count == 0) return root;
        pending.append(chunk.data(), static_cast<std::size_t>(count));
        std::size_t start = 0;
        for (std::size_t end = pending.find('\0'); end != std::string::npos; end = pending.find('\0', start)) {
            std::string path = pending.substr(start, end - start);
            start = end + 1;
            if (path.empty()) {
                root = true;
                continue;
            }
            auto folder = open_in_root(tree.get(), path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
            if (!folder) continue;  // a later entry took its place
            if (::fsetxattr(folder->get(), "trusted.overlay.opaque", "y", 1, 0) < 0)
                return fail_errno("mark opaque folder " + path);
        }
        pending.erase(0, start);
        if (pending.size() > chunk.size()) return fail(Code::internal, "list of opaque folders is damaged");
    }
}

}  // namespace

Result<std::unique_ptr<LayerStore>> open_overlay_layer_store(LayerStoreOptions options) {
    auto store = std::make_unique<OverlayLayerStore>(std::move(options));
    TRY(store->start(), "layer store");
    return std::unique_ptr<LayerStore>(std::move(store));
}

std::string OverlayLayerStore::layer_folder(std::string_view diff_id) const {
    return options_.data_root + "/layers/" + std::string(digest_hex(diff_id));
}

Result<> OverlayLayerStore::start() {
    if (options_.unpack_program.empty()) options_.unpack_program = TRY(default_unpack_program());
    for (const char* folder : {"/layers", "/containers", "/trash", "/empty"})
        TRY(make_directories(options_.data_root + folder, 0700));
    boot_id_ = TRY(read_file("/proc/sys/kernel/random/boot_id", 100));
    boot_id_.resize(std::min<std::size_t>(boot_id_.size(), 36));
    for (const auto& name : TRY(names_in(options_.data_root + "/trash"))) {
        std::string path = options_.data_root + "/trash/" + name;
        background_.submit([path] { bury(path); });
    }
    return read_layers();
}

Result<> OverlayLayerStore::read_layers() {
    std::string root = options_.data_root + "/layers";
    for (const auto& name : TRY(names_in(root))) {
        std::string digest = "sha256:" + name;
        std::string path = root + "/" + name;
        auto layer = is_sha256_digest(digest) ? read_layer(path) : fail(Code::not_found, "not a layer");
        if (!layer || layer->info.diff_id != digest) {
            if (!name.starts_with(temporary_prefix))
                log_warn("layer.discard", {{"name", name}, {"reason", layer ? "wrong id" : layer.error().describe()}});
            set_aside(path);
            continue;
        }
        if (!path_exists(path + "/durable")) sync_later(digest);
        layers_.emplace(std::move(digest), std::move(*layer));
    }
    return {};
}

Result<OverlayLayerStore::Stored> OverlayLayerStore::read_layer(const std::string& folder) const {
    json::object object = TRY(parse_json_object(TRY(read_file(folder + "/layer.json", 64U << 10U))));
    JsonReader reader(object);
    Stored stored;
    stored.info.diff_id = TRY(reader.required_string("diff_id"));
    stored.info.tar_bytes = TRY(reader.unsigned_integer("tar_bytes")).value_or(0);
    stored.info.size_bytes = TRY(reader.unsigned_integer("size_bytes")).value_or(0);
    stored.info.entries = TRY(reader.unsigned_integer("entries")).value_or(0);
    stored.root_opaque = TRY(reader.boolean_or("root_opaque", false));
    if (!path_exists(folder + "/durable") && TRY(reader.required_string("boot_id")) != boot_id_) {
        return fail(Code::data_loss, "the machine went down before it was written out");
    }
    return stored;
}

// Renames now, deletes later: the caller does not wait for thousands of unlinks.
void OverlayLayerStore::set_aside(const std::string& path) {
    std::string grave = options_.data_root + "/trash/" + make_id();
    if (::rename(path.c_str(), grave.c_str()) < 0) {
        if (errno != ENOENT) log_warn("layer.set_aside", {{"path", path}, {"errno", errno}});
        return;
    }
    background_.submit([grave] { bury(grave); });
}

// A layer serves as soon as it is whole; that it survives a power cut is made sure of in the background
// (docs/decisions/0032).
void OverlayLayerStore::sync_later(const std::string& diff_id) {
    std::string folder = layer_folder(diff_id);
    background_.submit([folder] {
        auto opened = open_file(folder, O_RDONLY | O_DIRECTORY);
        if (!opened) return;  // removed meanwhile
        if (::syncfs(opened->get()) < 0) return;
        if (auto mark = open_at(opened->get(), "durable", O_WRONLY | O_CREAT, 0600)) ::fsync(mark->get());
        ::fsync(opened->get());
    });
}

bool OverlayLayerStore::has(std::string_view diff_id) const {
    std::lock_guard lock(mutex_);
    return layers_.find(diff_id) != layers_.end();
}

Result<LayerInfo> OverlayLayerStore::info(std::string_view diff_id) const {
    std::lock_guard lock(mutex_);
    auto found = layers_.find(diff_id);
    if (found == layers_.end()) return fail(Code::not_found, "no layer " + std::string(diff_id));
    return found->second.info;
}

Result<std::vector<LayerInfo>> OverlayLayerStore::list() const {
    std::lock_guard lock(mutex_);
    std::vector<LayerInfo> all;
    for (const auto& [digest, stored] : layers_) all.push_back(stored.info);
    return all;
}

Result<LayerInfo> OverlayLayerStore::add(ByteSource& source, const AddLayerOptions& options) {
    if (options.expected_diff_id.empty()) return unpack(source, options);
    if (!is_sha256_digest(options.expected_diff_id))
        return fail(Code::invalid_argument, "not a sha256 digest: " + options.expected_diff_id);
    {
        std::unique_lock lock(mutex_);
        arrived_.wait(lock, [&] { return !arriving_.contains(options.expected_diff_id); });
        auto found = layers_.find(options.expected_diff_id);
        if (found != layers_.end()) return found->second.info;
        arriving_.insert(options.expected_diff_id);
    }
    auto result = unpack(source, options);
    {
        std::lock_guard lock(mutex_);
        arriving_.erase(options.expected_diff_id);
    }
    arrived_.notify_all();
    return result;
}

Result<LayerInfo> OverlayLayerStore::unpack(ByteSource& source, const AddLayerOptions& options) {
    std::string path = options_.data_root + "/layers/" + std::string(temporary_prefix) + make_id();
    TRY(make_directories(path + "/replaced", 0700));
    TRY(make_directories(path + "/diff", 0755));
    auto attempt = [&]() -> Result<LayerInfo> {
        if (::chmod((path + "/diff").c_str(), 0755) < 0) return fail_errno("layer folder");
        Fd workspace = TRY(open_file(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
        LayerInfo layer = TRY(run_unpack_program(options_.unpack_program, workspace.get(), source, options));
        if (!options.expected_diff_id.empty() && layer.diff_id != options.expected_diff_id) {
            return fail(Code::data_loss, "layer is not what it should be: expected " + options.expected_diff_id +
                                             ", got " + layer.diff_id);
        }
        bool root_opaque = TRY(mark_opaque_folders(workspace.get()));
        ::unlinkat(workspace.get(), "opaque", 0);
        ::unlinkat(workspace.get(), "replaced", AT_REMOVEDIR);  // stays when it is not empty
        return publish(path, std::move(layer), root_opaque);
    };
    auto result = attempt();
    if (!result) set_aside(path);
    return result;
}

Result<LayerInfo> OverlayLayerStore::publish(const std::string& workspace, LayerInfo layer, bool root_opaque) {
    json::object object;
    object["diff_id"] = layer.diff_id;
    object["tar_bytes"] = layer.tar_bytes;
    object["size_bytes"] = layer.size_bytes;
    object["entries"] = layer.entries;
    object["root_opaque"] = root_opaque;
    object["boot_id"] = boot_id_;
    TRY(write_file_atomic(workspace + "/layer.json", to_json(json::value(object)), 0600, Durability::none));
    {
        std::lock_guard lock(mutex_);
        if (auto found = layers_.find(layer.diff_id); found != layers_.end()) {
            set_aside(workspace);  // someone else was quicker
            return found->second.info;
        }
        if (::rename(workspace.c_str(), layer_folder(layer.diff_id).c_str()) < 0) return fail_errno("publish layer");
        layers_.emplace(layer.diff_id, Stored{layer, root_opaque});
    }
    sync_later(layer.diff_id);
    layer.fresh = true;
    return layer;
}

Result<> OverlayLayerStore::remove(std::string_view diff_id) {
    std::lock_guard lock(mutex_);
    auto found = layers_.find(diff_id);
    if (found == layers_.end()) return {};
    set_aside(layer_folder(diff_id));
    layers_.erase(found);
    return {};
}

Result<> OverlayLayerStore::write_tar(std::string_view diff_id, const ByteSink& sink) const {
    if (!has(diff_id)) return fail(Code::not_found, "no layer " + std::string(diff_id));
    Fd folder = TRY(open_file(layer_folder(diff_id), O_RDONLY | O_DIRECTORY));
    Fd recipe = TRY(open_at(folder.get(), "recipe", O_RDONLY | O_NOFOLLOW));
    Fd tree = TRY(open_at(folder.get(), "diff", O_PATH | O_DIRECTORY | O_NOFOLLOW));
    auto replaced = open_at(folder.get(), "replaced", O_PATH | O_DIRECTORY | O_NOFOLLOW);
    Sha256 hash;
    ByteSink hashing = [&](std::span<const std::byte> bytes) -> Result<> {
        hash.update(bytes);
        return sink(bytes);
    };
    TRY(replay_recipe(recipe.get(), tree.get(), replaced ? replaced->get() : -1, hashing),
        "layer " + std::string(diff_id));
    if (hash.finish_digest() != diff_id) return fail(Code::data_loss, "layer " + std::string(diff_id) + " was changed");
    return {};
}

// The stream is made again from the tree and unpacked again beside it: what differs then was not in the stream.
Result<> OverlayLayerStore::verify(std::string_view diff_id, const std::function<bool()>& cancelled) const {
    const std::string what = "layer " + std::string(diff_id);
    if (!has(diff_id)) return fail(Code::not_found, "no layer " + std::string(diff_id));
    const Fd tree = TRY(open_file(layer_folder(diff_id) + "/diff", O_RDONLY | O_DIRECTORY | O_NOFOLLOW), what);
    const std::string path = options_.data_root + "/trash/" + make_id();  // what a crash leaves is swept from there
    TRY(make_directories(path + "/replaced", 0700));
    TRY(make_directories(path + "/diff", 0755));
    auto compare = [&]() -> Result<> {
        if (::chmod((path + "/diff").c_str(), 0755) < 0) return fail_errno("scratch folder");
        const Fd workspace = TRY(open_file(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
        Pipe pipe = TRY(make_pipe());
        Result<> written;
        std::thread writer([&, output = std::move(pipe.write)]() mutable {
            sigset_t broken_pipe;
            ::sigemptyset(&broken_pipe);
            ::sigaddset(&broken_pipe, SIGPIPE);
            ::pthread_sigmask(SIG_BLOCK, &broken_pipe, nullptr);
            const ByteSink sink = sink_to_fd(output.get());
            written = write_tar(diff_id, [&](std::span<const std::byte> bytes) -> Result<> {
                if (cancelled && cancelled()) return fail(Code::cancelled, "cancelled");
                return sink(bytes);
            });
            output.reset();
        });
        ByteSource source = ByteSource::from_fd(std::move(pipe.read));
        auto unpacked = run_unpack_program(options_.unpack_program, workspace.get(), source, {});
        source = ByteSource::from_string({});  // closes the pipe: the writer ends, whatever happened
        writer.join();
        if (!written && written.error().os_errno() != EPIPE) return std::unexpected(std::move(written).error());
        TRY(std::move(unpacked));
        TRY(mark_opaque_folders(workspace.get()));
        const Fd again = TRY(open_at(workspace.get(), "diff", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
        return compare_trees(again.get(), tree.get(), cancelled);
    };
    auto outcome = compare();
    if (auto gone = remove_tree(path); !gone) log_warn("trash.remove", {{"path", path}, {"error", gone.error()}});
    if (!outcome && outcome.error().describe().contains(diff_id)) return outcome;
    if (!outcome) return std::unexpected(std::move(outcome).error().context(what));
    return {};
}

Result<std::vector<std::string>> OverlayLayerStore::lowers(const std::vector<std::string>& diff_ids) const {
    std::vector<std::string> paths;
    std::lock_guard lock(mutex_);
    for (auto id = diff_ids.rbegin(); id != diff_ids.rend(); ++id) {
        auto found = layers_.find(*id);
        if (found == layers_.end()) return fail(Code::not_found, "no layer " + *id);
        std::string path = layer_folder(*id) + "/diff";
        // overlayfs refuses the same folder twice, and a second time below adds nothing.
        if (std::ranges::find(paths, path) == paths.end()) paths.push_back(std::move(path));
        if (found->second.root_opaque) break;
    }
    if (paths.empty()) paths.push_back(options_.data_root + "/empty");  // an image without layers; overlayfs wants one
    return paths;
}

}  // namespace wherry::image
