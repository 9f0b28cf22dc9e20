// The writable layers of containers.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>

#include "image/layers/overlay_store.hpp"
#include "image/layers/tree.hpp"

namespace wherry::image {

Result<std::string> OverlayLayerStore::container_folder(std::string_view container_id) const {
    bool fine = !container_id.empty() && container_id.size() <= 128 && container_id.front() != '.' &&
                std::ranges::all_of(container_id, [](unsigned char c) {
                    return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
                });
    if (!fine) return fail(Code::invalid_argument, "not a container id");
    return options_.data_root + "/containers/" + std::string(container_id);
}

Result<RootFilesystem> OverlayLayerStore::root_filesystem(std::string_view container_id,
                                                          const std::vector<std::string>& diff_ids) const {
    std::string folder = TRY(container_folder(container_id));
    RootFilesystem root;
    root.lowers = TRY(lowers(diff_ids));
    root.upper = folder + "/upper";
    root.work = folder + "/work";
    return root;
}

Result<RootFilesystem> OverlayLayerStore::prepare(std::string_view container_id,
                                                  const std::vector<std::string>& diff_ids) {
    RootFilesystem root = TRY(root_filesystem(container_id, diff_ids));
    std::string folder = TRY(container_folder(container_id));
    TRY(make_directories(folder, 0700));
    // The root folder of the mounted whole has the attributes of its topmost layer, which is this one.
    struct stat status{};
    if (::stat(root.lowers.front().c_str(), &status) < 0) return fail_errno("topmost layer");
    if (root.lowers.front().ends_with("/empty")) status.st_mode = 0755;
    if (::mkdir(root.upper.c_str(), 0700) < 0) return fail_errno("writable layer");
    if (::chown(root.upper.c_str(), status.st_uid, status.st_gid) < 0 ||
        ::chmod(root.upper.c_str(), status.st_mode & 07777U) < 0 ||
        (::mkdir(root.work.c_str(), 0700) < 0 && errno != EEXIST)) {
        auto error = fail_errno("writable layer");
        ::rmdir(root.upper.c_str());
        return error;
    }
    return root;
}

Result<> OverlayLayerStore::remove_container(std::string_view container_id) {
    set_aside(TRY(container_folder(container_id)));
    return {};
}

Result<std::uint64_t> OverlayLayerStore::upper_size(std::string_view container_id) const {
    Fd upper = TRY(open_file(TRY(container_folder(container_id)) + "/upper", O_RDONLY | O_DIRECTORY));
    return tree_size(upper.get());
}

Result<std::vector<Change>> OverlayLayerStore::changes(std::string_view container_id,
                                                       const std::vector<std::string>& diff_ids,
                                                       const std::set<std::string>& made) const {
    RootFilesystem root = TRY(root_filesystem(container_id, diff_ids));
    Fd upper = TRY(open_file(root.upper, O_RDONLY | O_DIRECTORY));
    Fd lower;
    if (root.lowers.size() == 1) {
        lower = TRY(open_file(root.lowers.front(), O_RDONLY | O_DIRECTORY));
    } else {
        root.upper.clear();
        lower = TRY(mount_detached_overlay(root, RootAccess::read_only, options_.data_root + "/empty"));
    }
    return compare_upper(upper.get(), lower.get(), made);
}

Result<> OverlayLayerStore::write_upper_tar(std::string_view container_id, const ByteSink& sink) const {
    Fd upper = TRY(open_file(TRY(container_folder(container_id)) + "/upper", O_RDONLY | O_DIRECTORY));
    return write_tree_tar(upper.get(), TreeKind::overlay_upper, sink);
}

Result<> OverlayLayerStore::write_root_tar(std::string_view container_id, const std::vector<std::string>& diff_ids,
                                           const ByteSink& sink) const {
    Fd root = TRY(open_root(container_id, diff_ids, RootAccess::read_only));
    return write_tree_tar(root.get(), TreeKind::plain, sink);
}

Result<Fd> OverlayLayerStore::open_root(std::string_view container_id, const std::vector<std::string>& diff_ids,
                                        RootAccess access) const {
    RootFilesystem root = TRY(root_filesystem(container_id, diff_ids));
    if (access == RootAccess::read_only) {
        // As one more lower layer: that is allowed while the container's own mount writes to it.
        root.lowers.insert(root.lowers.begin(), root.upper);
        root.upper.clear();
    }
    return mount_detached_overlay(root, access, options_.data_root + "/empty");
}

}  // namespace wherry::image
