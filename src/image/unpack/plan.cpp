#include "image/unpack/plan.hpp"

#include <algorithm>

namespace wherry::image {

namespace {

constexpr std::size_t max_path_bytes = 4095;
constexpr std::size_t max_name_bytes = 255;
constexpr std::string_view whiteout_prefix = ".wh.";
constexpr std::string_view bookkeeping_prefix = ".wh..wh.";  // of aufs
constexpr std::string_view opaque_name = ".wh..wh..opq";

// Names come from outside and end up in messages: short, and printable.
std::string shown(std::string_view name) {
    std::string text(name.substr(0, 200));
    std::ranges::replace_if(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
    return "'" + text + (name.size() > 200 ? "...'" : "'");
}

}  // namespace

Result<std::string> clean_path(std::string_view path) {
    if (path.size() > max_path_bytes)
        return fail(Code::invalid_argument, "name is longer than 4095 bytes: " + shown(path));
    std::string clean;
    while (!path.empty()) {
        std::size_t slash = std::min(path.find('/'), path.size());
        std::string_view part = path.substr(0, slash);
        path.remove_prefix(std::min(slash + 1, path.size()));
        if (part.empty() || part == ".") continue;
        if (part == "..") {
            if (clean.empty())
                return fail(Code::invalid_argument, "name leads outside of the root: it has too many \"..\"");
            std::size_t last = clean.rfind('/');
            clean.resize(last == std::string::npos ? 0 : last);
            continue;
        }
        if (part.size() > max_name_bytes)
            return fail(Code::invalid_argument, "name has a part longer than 255 bytes: " + shown(part));
        if (!clean.empty()) clean += '/';
        clean += part;
    }
    return clean;
}

bool accepts_xattr(std::string_view name) {
    if (name.starts_with("user.")) return !name.starts_with("user.overlay.");
    return name == "security.capability" || name == "system.posix_acl_access" || name == "system.posix_acl_default";
}

Result<Plan> plan_entry(const TarEntry& entry) {
    if (entry.path.find('\0') != std::string::npos || entry.target.find('\0') != std::string::npos) {
        return fail(Code::invalid_argument, "name holds a zero byte");
    }
    Plan plan;
    plan.path = TRY(clean_path(entry.path), "entry " + shown(entry.path));
    if (plan.path.empty()) {
        if (entry.type != TarType::directory) {
            return fail(Code::invalid_argument, "entry " + shown(entry.path) + " would replace the root folder");
        }
        plan.kind = PlanKind::root;
        return plan;
    }
    std::size_t slash = plan.path.rfind('/');
    std::string_view base = std::string_view(plan.path).substr(slash == std::string::npos ? 0 : slash + 1);
    std::string parent = plan.path.substr(0, slash == std::string::npos ? 0 : slash);
    for (std::string_view rest = parent; !rest.empty();) {
        std::string_view part = rest.substr(0, rest.find('/'));
        if (part.starts_with(bookkeeping_prefix)) {
            plan.kind = PlanKind::ignore;
            return plan;
        }
        if (part.starts_with(whiteout_prefix)) {
            return fail(Code::invalid_argument, "folder with a name reserved for whiteouts: " + shown(entry.path));
        }
        rest.remove_prefix(std::min(part.size() + 1, rest.size()));
    }
    if (base == opaque_name) {
        plan.kind = PlanKind::opaque;
        plan.path = parent;
        return plan;
    }
    if (base.starts_with(bookkeeping_prefix)) {
        plan.kind = PlanKind::ignore;
        return plan;
    }
    if (base.starts_with(whiteout_prefix)) {
        std::string_view hidden = base.substr(whiteout_prefix.size());
        if (hidden.empty() || hidden == "." || hidden == "..") {
            return fail(Code::invalid_argument, "whiteout without a name: " + shown(entry.path));
        }
        plan.kind = PlanKind::whiteout;
        plan.path = parent + (parent.empty() ? "" : "/") + std::string(hidden);
        return plan;
    }
    if (entry.type == TarType::hard_link) {
        plan.target = TRY(clean_path(entry.target), "link " + shown(entry.path) + " to " + shown(entry.target));
        if (plan.target.empty())
            return fail(Code::invalid_argument, "link " + shown(entry.path) + " to the root folder");
    }
    if (entry.type == TarType::symlink && (entry.target.empty() || entry.target.size() > max_path_bytes)) {
        return fail(Code::invalid_argument, "link " + shown(entry.path) + " has an impossible target");
    }
    return plan;
}

}  // namespace wherry::image
