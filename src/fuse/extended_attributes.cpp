// Extended attributes: the user's own may be seen and changed, capabilities of files may be seen. Others are the
// host's (labels, lists of access, its overlays' notes) and do not exist for the client.
#include <fcntl.h>
#include <linux/limits.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>

#include "fuse/file_system.hpp"

namespace wherry::fuse {
namespace {

constexpr std::string_view file_capabilities = "security.capability";

bool is_users(std::string_view name) {
    return name.starts_with("user.") && name.size() > 5;
}

Answer<> check_change(const std::string& name) {
    if (name.size() > XATTR_NAME_MAX) return refuse(ERANGE);
    if (is_users(name)) return {};
    return refuse(name.starts_with("security.") || name.starts_with("trusted.") ? EPERM : EOPNOTSUPP);
}

}  // namespace

Answer<std::vector<char>> FileSystem::get_attribute(std::uint64_t node, const std::string& name, std::size_t limit) {
    if (!is_users(name) && name != file_capabilities) return refuse(EOPNOTSUPP);
    Inode* inode = ASK(inodes_->find(node));
    if (!inode->is_regular() && !inode->is_directory()) return refuse(ENODATA);
    const Fd file = ASK(reopen(node, O_RDONLY));
    std::vector<char> value(std::min<std::size_t>(limit, XATTR_SIZE_MAX));
    const ssize_t size = fgetxattr(file.get(), name.c_str(), value.data(), value.size());
    if (size < 0) return refuse(errno);
    // A limit of nothing asks for the size.
    value.resize(static_cast<std::size_t>(size));
    return value;
}

Answer<std::vector<char>> FileSystem::list_attributes(std::uint64_t node, std::size_t limit) {
    Inode* inode = ASK(inodes_->find(node));
    if (!inode->is_regular() && !inode->is_directory()) return std::vector<char>{};
    const Fd file = ASK(reopen(node, O_RDONLY));
    std::vector<char> all(XATTR_LIST_MAX);
    const ssize_t size = flistxattr(file.get(), all.data(), all.size());
    if (size < 0) return refuse(errno);
    std::vector<char> shown;
    for (std::size_t at = 0; at < static_cast<std::size_t>(size);) {
        const std::string_view name(all.data() + at);
        if (is_users(name) || name == file_capabilities) shown.insert(shown.end(), name.begin(), name.end() + 1);
        at += name.size() + 1;
    }
    if (limit != 0 && shown.size() > limit) return refuse(ERANGE);
    return shown;
}

Answer<> FileSystem::set_attribute(std::uint64_t node, const std::string& name, std::span<const std::byte> value,
                                   std::uint32_t flags) {
    ASK(check_writable());
    ASK(check_change(name));
    if ((flags & ~std::uint32_t{XATTR_CREATE | XATTR_REPLACE}) != 0) return refuse(EINVAL);
    const Fd file = ASK(reopen(node, O_RDONLY));
    if (fsetxattr(file.get(), name.c_str(), value.data(), value.size(), static_cast<int>(flags)) != 0)
        return refuse(errno);
    return {};
}

Answer<> FileSystem::remove_attribute(std::uint64_t node, const std::string& name) {
    ASK(check_writable());
    ASK(check_change(name));
    const Fd file = ASK(reopen(node, O_RDONLY));
    if (fremovexattr(file.get(), name.c_str()) != 0) return refuse(errno);
    return {};
}

}  // namespace wherry::fuse
