#include "adopt/docker_root.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <set>

#include "base/digest.hpp"

namespace wherry::adopt {

namespace {

constexpr std::size_t document_limit = 8U << 20U;
constexpr std::size_t max_layers = 512;
constexpr std::size_t max_entries = 100'000;  // of one folder
constexpr std::string_view driver = "overlay2";

Result<std::string> read_plain(int root, const std::string& path, std::size_t limit = document_limit) {
    Fd file = TRY(open_plain(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
    struct stat info{};
    if (::fstat(file.get(), &info) < 0) return fail_errno(path);
    if (!S_ISREG(info.st_mode)) return fail(Code::invalid_argument, path + " is not a file");
    return read_to_end(file.get(), limit);
}

Result<std::vector<std::string>> names_in(int root, const std::string& path) {
    Fd folder = TRY(open_plain(root, path, O_RDONLY | O_DIRECTORY));
    std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(folder.get()), &::closedir);
    if (!stream) return fail_errno(path);
    static_cast<void>(folder.release());
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(stream.get())) {
        std::string name = entry->d_name;
        if (name == "." || name == "..") continue;
        if (names.size() >= max_entries) return fail(Code::resource_exhausted, path + " has too many entries");
        names.push_back(std::move(name));
    }
    std::ranges::sort(names);
    return names;
}

std::string hex_of(const std::string& digest) {
    return digest.substr(std::string_view("sha256:").size());
}

Result<std::string> digest_in(std::string text, const std::string& where) {
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
    if (!is_sha256_digest(text)) return fail(Code::invalid_argument, where + ": not a sha256 digest");
    return text;
}

bool is_hex_id(std::string_view text) {
    return text.size() == 64 &&
           std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// A folder of overlay2: 64 hexadecimal digits, for a container's first layer with "-init" behind.
Result<std::string> cache_id_in(std::string text, const std::string& where) {
    while (!text.empty() && text.back() == '\n') text.pop_back();
    std::string_view stem = text;
    if (stem.ends_with("-init")) stem.remove_suffix(5);
    if (!is_hex_id(stem)) return fail(Code::invalid_argument, where + ": not the name of a folder of overlay2");
    return text;
}

// What a volume may be called (Docker's rule).
bool is_volume_name(std::string_view name) {
    auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
    return name.size() >= 2 && name.size() <= 255 && plain(name.front()) &&
           std::ranges::all_of(name, [&](char c) { return plain(c) || c == '_' || c == '.' || c == '-'; });
}

std::string layer_path(const DockerLayer& layer) {
    return "image/overlay2/layerdb/sha256/" + hex_of(layer.chain_id);
}

}  // namespace

Result<Fd> open_plain(int root, const std::string& path, int flags) {
    open_how how{};
    how.flags = static_cast<std::uint64_t>(flags) | O_CLOEXEC;  // a link is an error, not followed or opened
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    // SAFETY: openat2 reads one open_how of the size given.
    long opened = ::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how);
    if (opened >= 0) return Fd(static_cast<int>(opened));
    if (errno == ELOOP)
        return fail(Code::invalid_argument, path + ": a symbolic link, which Docker never makes there", ELOOP);
    return fail_errno(path);
}

Result<DockerRoot> DockerRoot::open(const std::string& path) {
    DockerRoot root(TRY(open_file(path, O_RDONLY | O_DIRECTORY)));
    auto drivers = names_in(root.root_.get(), "image");
    if (!drivers) {
        if (drivers.error().code() == Code::not_found)
            return fail(
                Code::invalid_argument,
                path +
                    ": not a data root of Docker, or one with containerd's image store (it has no folder \"image\")");
        return std::unexpected(std::move(drivers).error());
    }
    if (std::ranges::find(*drivers, driver) == drivers->end())
        return fail(Code::invalid_argument, path + ": of storage driver " +
                                                (drivers->empty() ? "none" : drivers->front()) +
                                                "; only overlay2 can be adopted");
    TRY(open_plain(root.root_.get(), "overlay2", O_PATH | O_DIRECTORY), path);
    return root;
}

// ---- images

Result<DockerLayer> DockerRoot::layer(const std::string& chain_id, const std::string& diff_id) const {
    DockerLayer layer;
    layer.chain_id = chain_id;
    const std::string path = layer_path(layer);
    layer.diff_id = TRY(digest_in(TRY(read_plain(root_.get(), path + "/diff", 256)), path + "/diff"));
    if (layer.diff_id != diff_id) return fail(Code::data_loss, path + "/diff: another layer than the image names");
    layer.cache_id = TRY(cache_id_in(TRY(read_plain(root_.get(), path + "/cache-id", 256)), path + "/cache-id"));
    return layer;
}

Result<DockerImage> DockerRoot::image(const std::string& id) const {
    DockerImage image;
    image.id = id;
    image.config = TRY(read_plain(root_.get(), "image/overlay2/imagedb/content/sha256/" + hex_of(id)));
    if (sha256_digest(image.config) != id) return fail(Code::data_loss, "its configuration was changed");
    json::object object = TRY(parse_json_object(image.config), "configuration");
    JsonReader reader(object);
    std::vector<std::string> diff_ids;
    if (auto rootfs = TRY(reader.child("rootfs"))) diff_ids = TRY(rootfs->strings("diff_ids"));
    if (diff_ids.size() > max_layers) return fail(Code::invalid_argument, "configuration: too many layers");
    std::string chain;
    for (const std::string& diff_id : diff_ids) {
        if (!is_sha256_digest(diff_id)) return fail(Code::invalid_argument, "configuration: a layer that is no digest");
        chain = chain.empty() ? diff_id : sha256_digest(chain + " " + diff_id);
        image.layers.push_back(TRY(layer(chain, diff_id)));
    }
    return image;
}

Result<std::vector<DockerImage>> DockerRoot::images(const Complaint& complain) const {
    // Names: {"Repositories": {"busybox": {"busybox:latest": "sha256:...", "busybox@sha256:...": ...}}}
    std::map<std::string, std::vector<std::string>> names;
    auto text = read_plain(root_.get(), "image/overlay2/repositories.json");
    if (text) {
        json::object object = TRY(parse_json_object(*text), "repositories.json");
        if (auto repositories = TRY(JsonReader(object, "repositories.json").child("Repositories"))) {
            for (const auto& item : repositories->object()) {
                for (const auto& [name, id] : TRY(repositories->string_map(item.key()))) {
                    TRY(digest_in(id, "repositories.json: " + name));
                    std::vector<std::string>& list = names[id];
                    if (name.find('@') == std::string::npos) list.push_back(name);
                }
            }
        }
    } else if (text.error().code() != Code::not_found) {
        return std::unexpected(std::move(text).error());
    }
    std::set<std::string> needed;
    for (const DockerContainer& container : TRY(containers([](const std::string&, const Error&) {})))
        needed.insert(container.image_id);
    // Whose parent which one is: what `docker build` left on the way to another image stays behind.
    std::set<std::string> parents;
    auto metadata = names_in(root_.get(), "image/overlay2/imagedb/metadata/sha256");
    if (metadata) {
        for (const std::string& name : *metadata) {
            auto parent = read_plain(root_.get(), "image/overlay2/imagedb/metadata/sha256/" + name + "/parent", 256);
            if (parent && is_sha256_digest(*parent)) parents.insert(*parent);
        }
    }
    std::vector<DockerImage> found;
    for (const std::string& name : TRY(names_in(root_.get(), "image/overlay2/imagedb/content/sha256"))) {
        std::string id = "sha256:" + name;
        if (!is_sha256_digest(id)) {
            complain("image " + name, Error(Code::invalid_argument, "not the name of an image"));
            continue;
        }
        bool named = names.contains(id);
        if (!named && !needed.contains(id) && parents.contains(id)) continue;
        auto one = image(id);
        if (!one) {
            complain("image " + (named && !names.at(id).empty() ? names.at(id).front() : name.substr(0, 12)),
                     one.error());
            continue;
        }
        if (named) one->names = names.at(id);
        found.push_back(std::move(*one));
    }
    return found;
}

// ---- volumes

Result<std::vector<DockerVolume>> DockerRoot::volumes(const Complaint& complain) const {
    auto names = names_in(root_.get(), "volumes");
    if (!names) {
        if (names.error().code() == Code::not_found) return std::vector<DockerVolume>();
        return std::unexpected(std::move(names).error());
    }
    std::vector<DockerVolume> found;
    for (const std::string& name : *names) {
        if (name == "metadata.db" || name == "backingFsBlockDev") continue;
        DockerVolume volume{.name = name};
        auto tree =
            is_volume_name(name) ? volume_tree(volume) : fail(Code::invalid_argument, "not the name of a volume");
        if (!tree) {
            complain("volume " + name, tree.error());
            continue;
        }
        auto options = read_plain(root_.get(), "volumes/" + name + "/opts.json");
        volume.has_options = options && *options != "{}" && *options != "null" && !options->empty();
        found.push_back(std::move(volume));
    }
    return found;
}

// ---- containers

Result<DockerContainer> DockerRoot::container(const std::string& id) const {
    DockerContainer container;
    container.id = id;
    const std::string folder = "containers/" + id;
    json::object object =
        TRY(parse_json_object(TRY(read_plain(root_.get(), folder + "/config.v2.json"))), "config.v2.json");
    JsonReader reader(object, "config.v2.json");
    if (TRY(reader.required_string("ID")) != id)
        return fail(Code::invalid_argument, "config.v2.json: of another container");
    container.name = TRY(reader.required_string("Name"));
    if (container.name.starts_with('/')) container.name.erase(0, 1);
    container.image_id = TRY(digest_in(TRY(reader.required_string("Image")), "config.v2.json: Image"));
    if (std::string used = TRY(reader.string_or("Driver", driver)); used != driver)
        return fail(Code::unimplemented, "its storage driver is " + used);
    if (auto state = TRY(reader.child("State"))) container.running = TRY(state->boolean_or("Running", false));
    if (auto config = TRY(reader.child("Config"))) container.config = config->object();
    container.host_config =
        TRY(parse_json_object(TRY(read_plain(root_.get(), folder + "/hostconfig.json"))), "hostconfig.json");
    if (auto mounts = TRY(reader.child("MountPoints"))) {
        for (const auto& item : mounts->object()) {
            auto mount = TRY(mounts->child(item.key()));
            if (!mount) continue;
            std::string name = TRY(mount->string_or("Name", ""));
            if (name.empty()) continue;  // a bind, which the host's configuration has
            if (!is_volume_name(name)) return fail(Code::invalid_argument, "config.v2.json: a volume's name is none");
            container.mounts.push_back({std::move(name), std::string(item.key()), TRY(mount->boolean_or("RW", true))});
        }
    }
    const std::string mount = "image/overlay2/layerdb/mounts/" + id + "/mount-id";
    container.mount_id = TRY(cache_id_in(TRY(read_plain(root_.get(), mount, 256)), mount));
    return container;
}

Result<std::vector<DockerContainer>> DockerRoot::containers(const Complaint& complain) const {
    auto names = names_in(root_.get(), "containers");
    if (!names) {
        if (names.error().code() == Code::not_found) return std::vector<DockerContainer>();
        return std::unexpected(std::move(names).error());
    }
    std::vector<DockerContainer> found;
    for (const std::string& name : *names) {
        auto one = is_hex_id(name) ? container(name) : fail(Code::invalid_argument, "not the id of a container");
        if (one) {
            found.push_back(std::move(*one));
        } else {
            complain("container " + name.substr(0, 12), one.error());
        }
    }
    return found;
}

// ---- folders

Result<Fd> DockerRoot::layer_tree(const DockerLayer& layer) const {
    return open_plain(root_.get(), "overlay2/" + layer.cache_id + "/diff", O_RDONLY | O_DIRECTORY);
}

Result<Fd> DockerRoot::tar_split(const DockerLayer& layer) const {
    return open_plain(root_.get(), layer_path(layer) + "/tar-split.json.gz", O_RDONLY | O_NONBLOCK);
}

Result<Fd> DockerRoot::container_tree(const DockerContainer& container) const {
    return open_plain(root_.get(), "overlay2/" + container.mount_id + "/diff", O_RDONLY | O_DIRECTORY);
}

Result<Fd> DockerRoot::volume_tree(const DockerVolume& volume) const {
    return open_plain(root_.get(), "volumes/" + volume.name + "/_data", O_RDONLY | O_DIRECTORY);
}

}  // namespace wherry::adopt
