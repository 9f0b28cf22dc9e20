#include "oci/overlay.hpp"

#include <fcntl.h>

#include <cerrno>

#include "oci/mount_calls.hpp"

namespace wherry::oci {

Result<Fd> mount_overlay(const OverlayRoot& overlay, OverlayMethod method) {
    FileSystem file_system;
    file_system.type = "overlay";
    file_system.source = "overlay";
    if (!overlay.upper.empty()) {
        file_system.values.emplace_back("upperdir", overlay.upper);
        file_system.values.emplace_back("workdir", overlay.work);
    }
    for (const std::string& option : overlay.options) {
        auto equals = option.find('=');
        if (equals == std::string::npos) {
            file_system.flags.push_back(option);
        } else {
            file_system.values.emplace_back(option.substr(0, equals), option.substr(equals + 1));
        }
    }
    if (method == OverlayMethod::automatic) {
        FileSystem appended = file_system;
        for (const std::string& layer : overlay.lower) appended.values.emplace_back("lowerdir+", layer);
        auto mount = make_mount(appended);
        if (mount) return mount;
        int problem = mount.error().os_errno();
        if (problem != EINVAL && problem != ENOENT && problem != ENOTSUP) return mount;
    }
    // Kernels before 6.7 know no lowerdir+, and one string of long names may be longer than they take: names of
    // descriptors are short.
    std::vector<Fd> folders;
    std::string lower;
    auto short_name = [&](const std::string& path) -> Result<std::string> {
        Fd folder = TRY(open_file(path, O_PATH | O_DIRECTORY));
        std::string name = "/proc/self/fd/" + std::to_string(folder.get());
        folders.push_back(std::move(folder));
        return name;
    };
    for (const std::string& layer : overlay.lower) {
        std::string name = TRY(short_name(layer));
        if (!lower.empty()) lower += ':';
        lower += name;
    }
    for (auto& [key, value] : file_system.values) {
        if (key == "upperdir" || key == "workdir") value = TRY(short_name(value));
    }
    file_system.values.emplace_back("lowerdir", lower);
    return make_mount(file_system);
}

}  // namespace wherry::oci
