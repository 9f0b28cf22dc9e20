// cp.
#include <sys/stat.h>
#include <unistd.h>

#include "base/encoding.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/mounts.hpp"
#include "cli/session.hpp"
#include "cli/tar.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option cp_options[] = {
    {"archive", 'a', {}, "Archive mode (copy all uid/gid information)"},
    {"follow-link", 'L', {}, "Always follow symbol link in SRC_PATH"},
    {"quiet",
     'q',
     {},
     "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached"},
};

struct Place {
    std::string container;  // empty: here
    std::string path;
};

Place parse_place(const std::string& text) {
    if (text.starts_with('/')) return {"", text};
    auto colon = text.find(':');
    if (colon == std::string::npos || text.starts_with('.')) return {"", text};
    return {text.substr(0, colon), text.substr(colon + 1)};
}

std::string without_trailing_slashes(std::string path) {
    while (path.size() > 1 && path.ends_with('/')) path.pop_back();
    return path;
}
std::string parent_of(const std::string& whole) {
    std::string path = without_trailing_slashes(whole);
    auto slash = path.rfind('/');
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : path.substr(0, slash);
}
std::string leaf_of(const std::string& whole) {
    std::string path = without_trailing_slashes(whole);
    auto slash = path.rfind('/');
    return slash == std::string::npos ? path : path.substr(slash + 1);
}
// "folder/." means the folder's contents.
bool contents_only(const std::string& path) {
    return path == "." || path.ends_with("/.");
}
bool names_folder(const std::string& path) {
    return path.ends_with('/') || contents_only(path);
}

struct PathStat {
    std::string name;
    bool folder = false;
    std::string link_target;  // not empty: a symbolic link
};

Result<PathStat> decode_stat(const http::ClientResponse& response) {
    std::string header(response.headers().get("X-Docker-Container-Path-Stat"));
    std::string text = TRY(base64_decode(header), "path stat");
    json::value document(TRY(parse_json_object(text), "path stat"));
    constexpr std::int64_t go_mode_folder = 1LL << 31;
    constexpr std::int64_t go_mode_link = 1LL << 27;
    std::int64_t mode = integer_at(document, "mode");
    PathStat stat{text_at(document, "name"), (mode & go_mode_folder) != 0, ""};
    if ((mode & go_mode_link) != 0) stat.link_target = text_at(document, "linkTarget");
    return stat;
}

// nullopt: nothing of that name in the container.
Result<std::optional<PathStat>> stat_in_container(Session& session, const std::string& container,
                                                  const std::string& path) {
    auto response = TRY(
        session.send("HEAD", "/containers/" + segment(container) + "/archive" + QueryText().add("path", path).text()));
    if (response.status() == 404) {
        // No body says which is missing, the path or the container.
        TRY(session.get("/containers/" + segment(container) + "/json"));
        return std::nullopt;
    }
    if (response.status() >= 400) return std::unexpected(Session::response_error(response));
    return TRY(decode_stat(response));
}

void report(Session& session, const Invocation& invocation, std::uint64_t bytes, const std::string& target) {
    if (!invocation.options.flag("quiet") && session.stderr_is_terminal())
        session.error("Successfully copied " + human_size(static_cast<double>(bytes)) + " to " + target);
}

Result<int> copy_out(Session& session, const Invocation& invocation, const Place& from, const std::string& target) {
    std::string source = from.path;
    if (target == "-" && session.stdout_is_terminal())
        return fail(Code::invalid_argument, "cowardly refusing to copy to a terminal. Use a path or redirect");
    if (invocation.options.flag("follow-link")) {
        auto stat = TRY(stat_in_container(session, from.container, source));
        if (stat && !stat->link_target.empty())
            source =
                stat->link_target.starts_with('/') ? stat->link_target : parent_of(source) + "/" + stat->link_target;
    }
    auto response = TRY(session.checked(
        {.method = "GET",
         .target = "/containers/" + segment(from.container) + "/archive" + QueryText().add("path", source).text()}));
    if (target == "-") {
        std::vector<char> buffer(256U << 10U);
        while (std::size_t count = TRY(response.read_some(std::as_writable_bytes(std::span(buffer)))))
            TRY(write_all(STDOUT_FILENO, {buffer.data(), count}));
        return 0;
    }
    PathStat stat = TRY(decode_stat(response));
    struct stat info{};
    bool exists = ::stat(target.c_str(), &info) == 0;
    bool into_folder = exists && S_ISDIR(info.st_mode);
    std::string destination = into_folder ? target : parent_of(target);
    ExtractOptions options;
    options.owners = invocation.options.flag("archive");
    if (into_folder) {
        options.root_name = contents_only(source) ? "" : leaf_of(source);
        if (options.root_name == "/" || options.root_name == "..") options.root_name.clear();
    } else {
        if (exists && stat.folder) return fail(Code::conflict, "cannot copy directory");
        if (!exists && names_folder(target) && !stat.folder)
            return fail(Code::not_found, "destination directory must exist: " + target);
        if (!path_exists(destination))
            return fail(Code::not_found, "invalid output path: directory \"" + destination + "\" does not exist");
        options.root_name = leaf_of(contents_only(target) ? parent_of(target) : target);
    }
    std::uint64_t bytes = 0;
    TarReader reader([&](std::span<std::byte> buffer) -> Result<std::size_t> {
        auto count = response.read_some(buffer);
        if (count) bytes += *count;
        return count;
    });
    TRY(extract_tar(reader, destination, options));
    TRY(reader.drain());
    report(session, invocation, bytes, target);
    return 0;
}

Result<int> put_archive(Session& session, const Invocation& invocation, const std::string& container,
                        const std::string& folder, http::BodySource source) {
    QueryText query;
    query.add("path", folder).add("noOverwriteDirNonDir", "true");
    if (invocation.options.flag("archive")) query.add("copyUIDGID", "true");
    http::ClientRequest request{.method = "PUT",
                                .target = "/containers/" + segment(container) + "/archive" + query.text()};
    request.content_type = "application/x-tar";
    request.body_source = std::move(source);
    TRY(session.checked(request));
    return 0;
}

Result<int> copy_in(Session& session, const Invocation& invocation, const std::string& source, const Place& to) {
    std::string target = to.path.empty() ? "/" : to.path;
    if (!target.starts_with('/')) target.insert(0, "/");
    if (source == "-") {
        return put_archive(session, invocation, to.container, target,
                           [](std::span<std::byte> buffer) -> Result<std::size_t> {
                               ssize_t count = 0;
                               do count = ::read(STDIN_FILENO, buffer.data(), buffer.size());
                               while (count < 0 && errno == EINTR);
                               if (count < 0) return fail_errno("read stdin");
                               return static_cast<std::size_t>(count);
                           });
    }
    bool follow = invocation.options.flag("follow-link");
    struct stat info{};
    if ((follow || names_folder(source) ? ::stat(source.c_str(), &info) : ::lstat(source.c_str(), &info)) < 0)
        return fail(Code::not_found, "lstat " + absolute_path(source) + ": no such file or directory");
    bool folder = S_ISDIR(info.st_mode);
    auto stat = TRY(stat_in_container(session, to.container, target));
    if (stat && !stat->link_target.empty()) {
        std::string resolved =
            stat->link_target.starts_with('/') ? stat->link_target : parent_of(target) + "/" + stat->link_target;
        if (auto behind = TRY(stat_in_container(session, to.container, resolved))) {
            target = resolved;
            stat = std::move(behind);
        }
    }
    std::string inside;
    std::string name;
    if (stat && stat->folder) {
        inside = target;
        name = contents_only(source) ? "." : leaf_of(absolute_path(source));
        if (name == "/" || name.empty()) name = ".";
    } else {
        if (stat && folder) return fail(Code::conflict, "cannot copy directory");
        if (!stat && names_folder(target) && !folder)
            return fail(Code::not_found, "destination directory must exist: " + to.container + ":" + to.path);
        inside = parent_of(target);
        name = leaf_of(target);
        if (!stat && !TRY(stat_in_container(session, to.container, inside)))
            return fail(Code::not_found, "Could not find the file " + inside + " in container " + to.container);
    }
    auto archive = std::make_shared<TarOfPath>(TRY(TarOfPath::open(
        contents_only(source) ? source : without_trailing_slashes(source), name, follow || names_folder(source))));
    auto bytes = std::make_shared<std::uint64_t>(0);
    int code = TRY(put_archive(session, invocation, to.container, inside,
                               [archive, bytes](std::span<std::byte> buffer) -> Result<std::size_t> {
                                   auto count = archive->read(buffer);
                                   if (count) *bytes += *count;
                                   return count;
                               }));
    report(session, invocation, *bytes, to.container + ":" + to.path);
    return code;
}

Result<int> copy(Session& session, const Invocation& invocation) {
    const std::string& first = invocation.arguments[0];
    const std::string& second = invocation.arguments[1];
    if (first.empty()) return fail(Code::invalid_argument, "source can not be empty");
    if (second.empty()) return fail(Code::invalid_argument, "destination can not be empty");
    Place from = parse_place(first);
    Place to = parse_place(second);
    if (!from.container.empty() && !to.container.empty())
        return fail(Code::invalid_argument, "copying between containers is not supported");
    if (!from.container.empty()) return copy_out(session, invocation, from, to.path);
    if (!to.container.empty()) return copy_in(session, invocation, from.path, to);
    return fail(Code::invalid_argument, "must specify at least one container source");
}

}  // namespace

void add_copy_verbs(std::vector<const Command*>& all) {
    static const Command command{
        .names = {"cp", "container cp"},
        .usage = "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n        wherry cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
        .summary = "Copy files/folders between a container and the local filesystem",
        .example = "wherry cp web:/etc/nginx ./nginx\ntar -c site | wherry cp - web:/srv",
        .options = cp_options,
        .minimum = 2,
        .maximum = 2,
        .run = copy};
    all.push_back(&command);
}

}  // namespace wherry::cli
