// Unpacking below one folder and nowhere else.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "cli/tar.hpp"

namespace wherry::cli {

namespace {

// Opens the folder `path` below `root` without following any symbolic link, making what is missing.
Result<Fd> open_parent(int root, const std::string& path, bool make) {
    Fd at(::fcntl(root, F_DUPFD_CLOEXEC, 0));
    if (!at) return fail_errno("duplicate descriptor");
    std::string_view rest = path;
    while (!rest.empty()) {
        auto slash = rest.find('/');
        std::string part(rest.substr(0, slash));
        rest.remove_prefix(slash == std::string_view::npos ? rest.size() : slash + 1);
        if (part.empty() || part == ".") continue;
        if (part == "..") return fail(Code::invalid_argument, "tar: a name leaves the folder: " + path);
        if (make && ::mkdirat(at.get(), part.c_str(), 0755) < 0 && errno != EEXIST) return fail_errno("mkdir " + path);
        at = TRY(open_at(at.get(), part, O_PATH | O_DIRECTORY | O_NOFOLLOW), path);
    }
    return at;
}

class Extraction {
  public:
    Extraction(TarReader& reader, int root, const ExtractOptions& options)
        : reader_(reader), root_(root), options_(options) {}

    Result<> run() {
        while (auto entry = TRY(reader_.next())) TRY(place(std::move(*entry)), "copy");
        // Folders' times and modes last: their contents no longer change them.
        for (auto folder = folders_.rbegin(); folder != folders_.rend(); ++folder) {
            auto parent = open_parent(root_, parent_of(folder->name), false);
            if (parent) TRY(finish(parent->get(), leaf_of(folder->name), *folder));
        }
        return {};
    }

  private:
    static std::string parent_of(const std::string& name) {
        auto slash = name.rfind('/');
        return slash == std::string::npos ? "" : name.substr(0, slash);
    }
    static std::string leaf_of(const std::string& name) {
        auto slash = name.rfind('/');
        return slash == std::string::npos ? name : name.substr(slash + 1);
    }

    // The archive's own name of its root is replaced by ours.
    std::string renamed(std::string name) {
        while (name.starts_with("./")) name.erase(0, 2);
        while (name.starts_with('/')) name.erase(0, 1);
        if (name == ".") name.clear();
        if (!root_seen_) {
            root_seen_ = true;
            root_of_archive_ = name;
        }
        std::string_view rest = name;
        if (!root_of_archive_.empty()) {
            bool below = rest == root_of_archive_ || rest.starts_with(root_of_archive_ + "/");
            if (!below) return name;
            rest.remove_prefix(std::min(rest.size(), root_of_archive_.size() + 1));
        }
        std::string out = options_.root_name;
        if (!rest.empty()) out += (out.empty() ? "" : "/") + std::string(rest);
        return out;
    }

    Result<> place(TarEntry entry) {
        entry.name = renamed(entry.name);
        std::string leaf = leaf_of(entry.name);
        if (entry.name.empty() || leaf == "." || leaf.empty()) return {};
        if (leaf == "..") return fail(Code::invalid_argument, "tar: a name leaves the folder: " + entry.name);
        Fd parent = TRY(open_parent(root_, parent_of(entry.name), true));
        struct stat there{};
        bool exists = ::fstatat(parent.get(), leaf.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0;
        if (entry.type == '5') {
            if (exists && !S_ISDIR(there.st_mode))
                return fail(Code::conflict, "cannot overwrite non-directory \"" + entry.name + "\" with a directory");
            if (!exists && ::mkdirat(parent.get(), leaf.c_str(), 0700) < 0) return fail_errno("mkdir " + entry.name);
            folders_.push_back(std::move(entry));
            return {};
        }
        if (exists && S_ISDIR(there.st_mode))
            return fail(Code::conflict, "cannot overwrite directory \"" + entry.name + "\" with a non-directory");
        if (exists && ::unlinkat(parent.get(), leaf.c_str(), 0) < 0) return fail_errno("replace " + entry.name);
        switch (entry.type) {
            case '0':
            case '7':
                return write_file(parent.get(), leaf, entry);
            case '1':
                return hard_link(parent.get(), leaf, entry);
            case '2':
                if (::symlinkat(entry.link.c_str(), parent.get(), leaf.c_str()) < 0)
                    return fail_errno("symlink " + entry.name);
                return finish(parent.get(), leaf, entry);
            case '6':
                if (::mkfifoat(parent.get(), leaf.c_str(), 0600) < 0) return fail_errno("mkfifo " + entry.name);
                return finish(parent.get(), leaf, entry);
            default:
                return {};  // devices have no business on the host
        }
    }

    Result<> write_file(int parent, const std::string& leaf, const TarEntry& entry) {
        Fd file = TRY(open_at(parent, leaf, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
        std::vector<std::byte> buffer(256U << 10U);
        while (true) {
            std::size_t count = TRY(reader_.read(buffer));
            if (count == 0) break;
            // SAFETY: bytes seen as characters.
            TRY(write_all(file.get(), {reinterpret_cast<const char*>(buffer.data()), count}));
        }
        return finish(parent, leaf, entry);
    }

    Result<> hard_link(int parent, const std::string& leaf, const TarEntry& entry) {
        std::string target = renamed(entry.link);
        Fd folder = TRY(open_parent(root_, parent_of(target), false));
        if (::linkat(folder.get(), leaf_of(target).c_str(), parent, leaf.c_str(), 0) < 0)
            return fail_errno("link " + entry.name);
        return {};
    }

    Result<> finish(int parent, const std::string& leaf, const TarEntry& entry) {
        if (options_.owners && ::fchownat(parent, leaf.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) < 0)
            return fail_errno("chown " + entry.name);
        // Set-id bits are a container's privileges, not the host's, unless owners are kept on purpose.
        mode_t mode = options_.owners ? entry.mode : entry.mode & 01777U;
        if (entry.type != '2' && ::fchmodat(parent, leaf.c_str(), mode, 0) < 0)
            return fail_errno("chmod " + entry.name);
        timespec times[2] = {{0, UTIME_OMIT}, {entry.mtime_s, 0}};
        ::utimensat(parent, leaf.c_str(), times, AT_SYMLINK_NOFOLLOW);
        return {};
    }

    TarReader& reader_;
    int root_;
    const ExtractOptions& options_;
    std::vector<TarEntry> folders_;
    std::string root_of_archive_;
    bool root_seen_ = false;
};

}  // namespace

Result<> extract_tar(TarReader& reader, const std::string& path, const ExtractOptions& options) {
    Fd root = TRY(open_file(path, O_PATH | O_DIRECTORY));
    return Extraction(reader, root.get(), options).run();
}

}  // namespace wherry::cli
