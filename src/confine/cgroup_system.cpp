// Which cgroup hierarchies are mounted here.
#include <algorithm>
#include <charconv>

#include "confine/cgroup_internal.hpp"
#include "confine/mountinfo.hpp"

namespace wherry::confine {
namespace cgroup_detail {

std::string_view trimmed(std::string_view text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
    while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
    return text;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> out;
    while (!text.empty()) {
        auto end = text.find(separator);
        if (end != 0) out.push_back(text.substr(0, end));
        if (end == std::string_view::npos) break;
        text.remove_prefix(end + 1);
    }
    return out;
}

std::optional<std::uint64_t> parse_counter(std::string_view text) {
    text = trimmed(text);
    if (text == "max" || text == "-1") return ~std::uint64_t{0};
    std::uint64_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

std::optional<std::uint64_t> find_counter(std::string_view text, std::string_view key) {
    for (std::string_view line : split(text, '\n'))
        if (line.size() > key.size() && line.starts_with(key) && line[key.size()] == ' ')
            return parse_counter(line.substr(key.size() + 1));
    return std::nullopt;
}

}  // namespace cgroup_detail

namespace {

using cgroup_detail::contains;
using cgroup_detail::split;

std::vector<MountedFileSystem> cgroup_mounts(std::string_view mountinfo) {
    return find_mounts(mountinfo, {"cgroup", "cgroup2"});
}

bool is_unified(const MountedFileSystem& mounted) {
    return mounted.type == "cgroup2";
}

// The mount of a hierarchy; one that shows the hierarchy's root wins over bind mounts of parts.
const MountedFileSystem* find_mount(const std::vector<MountedFileSystem>& mounts, bool unified,
                                    const std::vector<std::string>& controllers) {
    const MountedFileSystem* found = nullptr;
    for (const MountedFileSystem& mounted : mounts) {
        if (is_unified(mounted) != unified) continue;
        bool all = std::ranges::all_of(
            controllers, [&](const std::string& controller) { return contains(mounted.options, controller); });
        if (!all) continue;
        if (found == nullptr || (found->root != "/" && mounted.root == "/")) found = &mounted;
    }
    return found;
}

}  // namespace

std::string_view to_string(CgroupMode mode) {
    switch (mode) {
        case CgroupMode::v1:
            return "v1";
        case CgroupMode::v2:
            return "v2";
        case CgroupMode::hybrid:
            return "hybrid";
    }
    return "unknown";
}

bool CgroupHierarchy::has(std::string_view controller) const {
    return cgroup_detail::contains(controllers, controller);
}

Result<CgroupSystem> CgroupSystem::parse(std::string_view mountinfo, std::string_view cgroup,
                                         std::string_view available) {
    std::vector<MountedFileSystem> mounts = cgroup_mounts(mountinfo);
    CgroupSystem system;
    bool v1_controllers = false;
    bool unified = false;
    for (std::string_view line : split(cgroup, '\n')) {
        auto first = line.find(':');
        if (first == std::string_view::npos) continue;
        auto second = line.find(':', first + 1);
        if (second == std::string_view::npos) continue;
        CgroupHierarchy hierarchy;
        hierarchy.own_path = line.substr(second + 1);
        std::string_view names = line.substr(first + 1, second - first - 1);
        hierarchy.unified = line.substr(0, first) == "0" && names.empty();
        for (std::string_view name : split(names, ',')) hierarchy.controllers.emplace_back(name);
        const MountedFileSystem* mounted = find_mount(mounts, hierarchy.unified, hierarchy.controllers);
        if (mounted == nullptr) continue;
        hierarchy.mount_point = mounted->mount_point;
        if (hierarchy.unified) {
            unified = true;
            for (std::string_view name : split(cgroup_detail::trimmed(available), ' ')) {
                hierarchy.controllers.emplace_back(name);
                system.v2_controllers_.emplace_back(name);
            }
        } else {
            v1_controllers = v1_controllers || !hierarchy.controllers.front().starts_with("name=");
        }
        system.hierarchies_.push_back(std::move(hierarchy));
    }
    if (system.hierarchies_.empty()) return fail(Code::unimplemented, "no cgroup hierarchy is mounted");
    system.mode_ = !unified ? CgroupMode::v1 : v1_controllers ? CgroupMode::hybrid : CgroupMode::v2;
    return system;
}

Result<CgroupSystem> CgroupSystem::detect() {
    std::string mountinfo = TRY(read_file("/proc/self/mountinfo"), "finding cgroups");
    std::string cgroup = TRY(read_file("/proc/self/cgroup"), "finding cgroups");
    std::string available;
    for (const MountedFileSystem& mounted : cgroup_mounts(mountinfo)) {
        if (!is_unified(mounted)) continue;
        if (auto text = read_file(mounted.mount_point + "/cgroup.controllers")) available = std::move(*text);
        break;
    }
    return parse(mountinfo, cgroup, available);
}

Result<const CgroupSystem*> CgroupSystem::of_this_host() {
    static const Result<CgroupSystem> detected = detect();
    if (!detected) return std::unexpected(detected.error().clone());
    return &*detected;
}

const CgroupHierarchy* CgroupSystem::unified() const {
    for (const CgroupHierarchy& hierarchy : hierarchies_)
        if (hierarchy.unified) return &hierarchy;
    return nullptr;
}

const CgroupHierarchy* CgroupSystem::v1_with(std::string_view controller) const {
    for (const CgroupHierarchy& hierarchy : hierarchies_)
        if (!hierarchy.unified && hierarchy.has(controller)) return &hierarchy;
    return nullptr;
}

bool CgroupSystem::on_v2(std::string_view controller) const {
    return cgroup_detail::contains(v2_controllers_, controller);
}

bool CgroupSystem::has(std::string_view controller) const {
    return v1_with(controller) != nullptr || on_v2(controller);
}

Result<> validate_cgroup_path(std::string_view path) {
    auto refuse = [&](std::string_view why) {
        return fail(Code::invalid_argument, "invalid cgroup path \"" + std::string(path) + "\": " + std::string(why));
    };
    if (path.size() < 2 || path.front() != '/') return refuse("it must be absolute and not the root");
    if (path.size() > 2048) return refuse("it is too long");
    std::string_view rest = path.substr(1);
    while (true) {
        auto end = rest.find('/');
        std::string_view part = rest.substr(0, end);
        if (part.empty() || part == "." || part == "..") return refuse("empty, \".\" and \"..\" parts are not allowed");
        if (part.size() > 255) return refuse("a part is longer than 255 bytes");
        for (char c : part)
            if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return refuse("it has control characters");
        if (end == std::string_view::npos) return {};
        rest.remove_prefix(end + 1);
    }
}

}  // namespace wherry::confine
