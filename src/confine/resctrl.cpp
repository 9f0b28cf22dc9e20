#include "confine/resctrl.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <optional>
#include <thread>
#include <utility>

#include "base/number.hpp"
#include "confine/cgroup.hpp"
#include "confine/cgroup_internal.hpp"
#include "confine/mountinfo.hpp"

namespace wherry::confine {

namespace {

using std::chrono::milliseconds;

constexpr std::size_t control_file_limit = 1U << 16U;

// One line of a schemata file.
struct Schema {
    std::string_view resource;                                       // "L3"
    std::vector<std::pair<std::uint64_t, std::string_view>> shares;  // id of a cache -> bit mask or bandwidth
};

// nullopt: what the kernel's own grammar does not know (NAME:ID=VALUE;ID=VALUE).
std::optional<Schema> parse_schema(std::string_view line) {
    line = cgroup_detail::trimmed(line);
    Schema schema;
    std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return std::nullopt;
    schema.resource = cgroup_detail::trimmed(line.substr(0, colon));
    // It becomes the name of a directory in info.
    bool is_name = !schema.resource.empty() && std::ranges::all_of(schema.resource, [](char letter) {
        return (letter >= 'A' && letter <= 'Z') || (letter >= '0' && letter <= '9') || letter == '_';
    });
    if (!is_name) return std::nullopt;
    for (std::string_view share : cgroup_detail::split(line.substr(colon + 1), ';')) {
        std::size_t equals = share.find('=');
        if (equals == std::string_view::npos) return std::nullopt;
        auto id = parse_number<std::uint64_t>(cgroup_detail::trimmed(share.substr(0, equals)));
        std::string_view value = cgroup_detail::trimmed(share.substr(equals + 1));
        if (!id || value.empty()) return std::nullopt;
        schema.shares.emplace_back(*id, value);
    }
    if (schema.shares.empty()) return std::nullopt;
    return schema;
}

Result<> check_schema(std::string_view member, std::string_view line) {
    bool printable = std::ranges::all_of(line, [](char letter) { return letter >= 0x20 && letter < 0x7f; });
    if (!printable || !parse_schema(line))
        return fail(Code::invalid_argument,
                    std::string(member) + ": \"" + std::string(line) + "\" is no line like \"L3:0=7f0;1=1f\"");
    return {};
}

// A file of resctrl that tells one thing; empty when it is not there.
std::string text_at(int directory, const std::string& path) {
    auto text = read_file_at(directory, path, control_file_limit);
    return text ? std::string(cgroup_detail::trimmed(*text)) : std::string();
}

// The error of a failed command with what the kernel says of it.
Error refused(int status, Error error) {
    std::string words;
    if (status >= 0 && ::lseek(status, 0, SEEK_SET) == 0) {
        if (auto text = read_to_end(status, control_file_limit)) words = cgroup_detail::trimmed(*text);
    }
    if (words.empty() || words == "ok") return error;
    std::ranges::replace(words, '\n', ';');
    return std::move(error).context("the kernel says \"" + words + "\"");
}

Fd open_status(int mount) {
    auto status = open_at(mount, "info/last_cmd_status", O_RDONLY | O_NOFOLLOW);
    return status ? std::move(*status) : Fd();
}

std::unexpected<Error> refused_at(int mount, Error error, std::string what) {
    Fd status = open_status(mount);
    return std::unexpected(refused(status.get(), std::move(error)).context(std::move(what)));
}

// Locked among resctrl's users until it is closed. Whoever may read the directory may hold the lock, also for ever.
Result<Fd> open_locked(const std::string& mount) {
    Fd directory = TRY(open_file(mount, O_RDONLY | O_DIRECTORY), "resctrl");
    constexpr milliseconds patience(2000);
    constexpr milliseconds pause(5);
    for (milliseconds waited(0); ::flock(directory.get(), LOCK_EX | LOCK_NB) < 0; waited += pause) {
        if (errno != EWOULDBLOCK && errno != EINTR) return fail_errno("lock " + mount);
        if (waited >= patience) return fail(Code::deadline_exceeded, "another process keeps " + mount + " locked");
        std::this_thread::sleep_for(pause);
    }
    return directory;
}

Result<> check_group_name(std::string_view member, std::string_view name) {
    bool clean = std::ranges::none_of(
        name, [](char letter) { return letter == '/' || static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f; });
    if (clean && !name.empty() && name != "." && name != ".." && name.size() <= 255) return {};
    return fail(Code::invalid_argument,
                std::string(member) + ": \"" + std::string(name) + "\" is no name of a resctrl group");
}

std::unexpected<Error> lacks(std::string_view member, const std::string& mount, const std::string& what) {
    return fail(Code::unimplemented, std::string(member) + ": the resctrl of this host (" + mount + ") has no " + what);
}

// Whether the resources that the lines speak of are there.
Result<> check_resources(int directory, const std::string& mount, const std::vector<std::string>& lines) {
    for (const std::string& line : lines) {
        std::string resource(parse_schema(line).value_or(Schema()).resource);
        if (cgroup_detail::exists_at(directory, ("info/" + resource).c_str())) continue;
        if (resource == "MB") return lacks("memBwSchema", mount, "memory bandwidth allocation (MBA: info/MB)");
        if (resource == "L3" && cgroup_detail::exists_at(directory, "info/L3CODE"))
            return lacks("l3CacheSchema", mount, "L3 for code and data alike (mounted with cdp: L3CODE and L3DATA)");
        return lacks("l3CacheSchema", mount, resource + " cache allocation (CAT: info/" + resource + ")");
    }
    return {};
}

Result<> check_monitoring(int directory, const std::string& mount, const ResctrlRequest& request) {
    if (!request.monitors_cache && !request.monitors_bandwidth) return {};
    std::string text = text_at(directory, "info/L3_MON/mon_features");
    std::vector<std::string_view> features = cgroup_detail::split(text, '\n');
    if (request.monitors_cache && !cgroup_detail::contains(features, "llc_occupancy"))
        return lacks("enableCMT", mount, "cache monitoring (CMT: llc_occupancy in info/L3_MON/mon_features)");
    if (request.monitors_bandwidth && !cgroup_detail::contains(features, "mbm_total_bytes") &&
        !cgroup_detail::contains(features, "mbm_local_bytes"))
        return lacks("enableMBM", mount, "bandwidth monitoring (MBM: mbm_total_bytes in info/L3_MON/mon_features)");
    return {};
}

Result<> write_schemata_at(int mount, int group, const std::vector<std::string>& lines) {
    if (lines.empty()) return {};
    std::string text;
    for (const std::string& line : lines) text += line + '\n';
    if (auto written = write_control_file_at(group, "schemata", text); !written) {
        text.pop_back();
        std::ranges::replace(text, '\n', ' ');
        return refused_at(mount, std::move(written).error(), "schemata " + text);
    }
    return {};
}

// Whether two values of a resource are one and the same to the kernel, which writes masks without leading zeros and
// rounds bandwidth up to what the hardware can do.
bool same_share(std::string_view wanted, std::string_view present, std::optional<std::uint64_t> granularity) {
    if (wanted == present) return true;
    if (granularity) {
        auto bandwidth = parse_number<std::uint64_t>(wanted);
        auto now = parse_number<std::uint64_t>(present);
        if (!bandwidth || !now || *granularity == 0) return bandwidth && bandwidth == now;
        std::uint64_t missing = (*granularity - *bandwidth % *granularity) % *granularity;
        return *bandwidth == *now || (*now >= missing && *now - missing == *bandwidth);
    }
    auto mask = [](std::string_view text) -> std::optional<std::uint64_t> {
        if (text.starts_with("0x") || text.starts_with("0X")) text.remove_prefix(2);
        std::uint64_t value = 0;
        auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
        if (problem != std::errc() || end != text.data() + text.size()) return std::nullopt;
        return value;
    };
    auto bits = mask(wanted);
    return bits && bits == mask(present);
}

// Whether `present`, a schemata file, says all that `line` asks for.
bool already_says(std::string_view present, std::string_view line, std::optional<std::uint64_t> granularity) {
    Schema wanted = parse_schema(line).value_or(Schema());
    for (std::string_view text : cgroup_detail::split(present, '\n')) {
        auto now = parse_schema(text);
        if (!now || now->resource != wanted.resource) continue;
        return std::ranges::all_of(wanted.shares, [&](const auto& share) {
            auto found =
                std::ranges::find(now->shares, share.first, &std::pair<std::uint64_t, std::string_view>::first);
            return found != now->shares.end() && same_share(share.second, found->second, granularity);
        });
    }
    return false;
}

// make() in its steps, under the lock.
class ResctrlMaker {
  public:
    ResctrlMaker(const ResctrlMount& mount, const ResctrlRequest& request, std::string name, Fd directory)
        : mount_(mount), request_(request), name_(std::move(name)), directory_(std::move(directory)) {}

    Result<> check_features(const std::vector<std::string>& lines) const {
        TRY(check_resources(directory_.get(), mount_.path, lines));
        return check_monitoring(directory_.get(), mount_.path, request_);
    }
    Result<bool> make_or_find(const std::vector<std::string>& lines);  // -> it was made
    Result<> write_schemata(const std::vector<std::string>& lines) const;
    Result<> make_monitoring_group() const;

  private:
    Result<> compare(const std::vector<std::string>& lines) const;

    const ResctrlMount& mount_;
    const ResctrlRequest& request_;
    std::string name_;
    Fd directory_;
    Fd group_;
};

Result<bool> ResctrlMaker::make_or_find(const std::vector<std::string>& lines) {
    constexpr int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
    bool named = !request_.clos_id.empty();
    auto found = open_at(directory_.get(), name_, flags);
    if (found) {
        group_ = std::move(*found);
        // "info" is there as well.
        if (!cgroup_detail::exists_at(group_.get(), "tasks"))
            return fail(Code::invalid_argument, "closID: " + mount_.path + "/" + name_ + " is no resctrl group");
        if (named) TRY(compare(lines));
        return false;
    }
    if (found.error().os_errno() != ENOENT) return std::unexpected(std::move(found).error().context("closID"));
    if (named && lines.empty())
        return fail(Code::not_found, "closID: there is no group " + name_ + " in " + mount_.path +
                                         ", and no l3CacheSchema or memBwSchema to make it with");
    if (::mkdirat(directory_.get(), name_.c_str(), 0755) < 0)
        return refused_at(directory_.get(), fail_errno("mkdir " + mount_.path + "/" + name_).error(), "resctrl group");
    auto made = open_at(directory_.get(), name_, flags);
    if (!made) {
        ::unlinkat(directory_.get(), name_.c_str(), AT_REMOVEDIR);
        return std::unexpected(std::move(made).error().context("resctrl group"));
    }
    group_ = std::move(*made);
    return true;
}

Result<> ResctrlMaker::compare(const std::vector<std::string>& lines) const {
    std::string present =
        lines.empty() ? std::string() : TRY(read_file_at(group_.get(), "schemata", control_file_limit));
    for (const std::string& line : lines) {
        std::string resource(parse_schema(line).value_or(Schema()).resource);
        auto granularity =
            parse_number<std::uint64_t>(text_at(directory_.get(), "info/" + resource + "/bandwidth_gran"));
        if (granularity && mount_.bandwidth_in_megabytes) granularity = 1;
        if (already_says(present, line, granularity)) continue;
        std::string now;
        for (std::string_view text : cgroup_detail::split(present, '\n')) {
            if (!now.empty()) now += ", ";
            now += cgroup_detail::trimmed(text);
        }
        return fail(Code::conflict, "closID: the group " + name_ + " is there already and does not say " + line +
                                        " but " + (now.empty() ? "nothing" : now));
    }
    return {};
}

Result<> ResctrlMaker::write_schemata(const std::vector<std::string>& lines) const {
    return write_schemata_at(directory_.get(), group_.get(), lines);
}

Result<> ResctrlMaker::make_monitoring_group() const {
    std::string path = "mon_groups/" + request_.container_id;
    if (::mkdirat(group_.get(), path.c_str(), 0755) == 0) return {};
    return refused_at(directory_.get(), fail_errno("mkdir " + mount_.path + "/" + name_ + "/" + path).error(),
                      "monitoring group");
}

}  // namespace

std::vector<ResctrlMount> find_resctrl(std::string_view mountinfo) {
    std::vector<ResctrlMount> out;
    for (MountedFileSystem& mounted : find_mounts(mountinfo, {"resctrl"})) {
        if (mounted.root != "/") continue;
        out.push_back({.path = std::move(mounted.mount_point),
                       .bandwidth_in_megabytes = cgroup_detail::contains(mounted.options, "mba_MBps")});
    }
    return out;
}

Result<ResctrlMount> resctrl_of_this_host() {
    std::string mountinfo = TRY(read_file("/proc/self/mountinfo"), "finding resctrl");
    for (ResctrlMount& mount : find_resctrl(mountinfo)) {
        struct statfs info{};
        // Something else may be mounted over it.
        if (::statfs(mount.path.c_str(), &info) == 0 && info.f_type == RDTGROUP_SUPER_MAGIC) return std::move(mount);
    }
    return fail(Code::unimplemented,
                "no resctrl file system is mounted on this host (Intel RDT: mount -t resctrl resctrl /sys/fs/resctrl)");
}

Result<std::vector<std::string>> ResctrlSchemata::lines() const {
    std::vector<std::string> out;
    for (std::string_view line : cgroup_detail::split(l3_cache, '\n')) {
        if (cgroup_detail::trimmed(line).empty()) continue;
        TRY(check_schema("l3CacheSchema", line));
        if (parse_schema(line)->resource != "MB") out.emplace_back(line);
    }
    if (memory_bandwidth.empty()) {
        if (out.empty() && !l3_cache.empty())
            return fail(Code::invalid_argument, "l3CacheSchema: no line is of a cache (MB: belongs into memBwSchema)");
        return out;
    }
    if (!memory_bandwidth.starts_with("MB:"))
        return fail(Code::invalid_argument, "memBwSchema: \"" + memory_bandwidth + "\" does not begin with MB:");
    TRY(check_schema("memBwSchema", memory_bandwidth));
    out.push_back(memory_bandwidth);
    return out;
}

Result<> ResctrlJoin::enter() const {
    for (const Fd& tasks : tasks_) {
        const int file = tasks.get();
        if (int error = post_fork::join_cgroups(std::span(&file, 1)); error != 0)
            return std::unexpected(refused(status_.get(), fail_errno(error, "enter the resctrl group").error()));
    }
    return {};
}

std::vector<int> ResctrlJoin::descriptors() const {
    std::vector<int> out{status_.get()};
    for (const Fd& tasks : tasks_) out.push_back(tasks.get());
    return out;
}

Result<ResctrlGroup> ResctrlGroup::make(const ResctrlMount& mount, const ResctrlRequest& request) {
    ResctrlGroup group;
    group.named_ = !request.clos_id.empty();
    std::string name = group.named_ ? request.clos_id : request.container_id;
    TRY(check_group_name(group.named_ ? "closID" : "container id", name));
    TRY(check_group_name("container id", request.container_id));
    group.mount_ = mount.path;
    group.path_ = mount.path + "/" + name;
    std::vector<std::string> lines = TRY(request.schemata.lines());
    ResctrlMaker maker(mount, request, name, TRY(open_locked(mount.path)));
    TRY(maker.check_features(lines));
    group.made_ = TRY(maker.make_or_find(lines));
    auto filled = [&]() -> Result<> {
        if (group.made_ || !group.named_) TRY(maker.write_schemata(lines));
        if (!request.monitors_cache && !request.monitors_bandwidth) return {};
        TRY(maker.make_monitoring_group());
        group.monitoring_path_ = group.path_ + "/mon_groups/" + request.container_id;
        return {};
    }();
    if (!filled) {
        // One that was made is nobody else's yet: they wait for the lock.
        [[maybe_unused]] auto removed = group.remove_directories(group.made_);
        return std::unexpected(std::move(filled).error());
    }
    return group;
}

Result<ResctrlGroup> ResctrlGroup::restore(const json::object& state) {
    JsonReader reader(state, "intelRdt");
    ResctrlGroup group;
    group.mount_ = TRY(reader.required_string("mount"));
    group.path_ = TRY(reader.required_string("group"));
    group.monitoring_path_ = TRY(reader.string_or("monitoringGroup", ""));
    group.made_ = TRY(reader.boolean_or("made", false));
    group.named_ = TRY(reader.boolean_or("named", false));
    return group;
}

json::object ResctrlGroup::state() const {
    json::object state;
    state["mount"] = mount_;
    state["group"] = path_;
    state["monitoringGroup"] = monitoring_path_;
    state["made"] = made_;
    state["named"] = named_;
    return state;
}

Result<ResctrlJoin> ResctrlGroup::prepare_join() const {
    ResctrlJoin join;
    // A monitoring group takes only tasks of its group: that one first.
    join.tasks_.push_back(TRY(open_file(path_ + "/tasks", O_WRONLY), "resctrl group"));
    if (!monitoring_path_.empty())
        join.tasks_.push_back(TRY(open_file(monitoring_path_ + "/tasks", O_WRONLY), "monitoring group"));
    Fd mount = TRY(open_file(mount_, O_PATH | O_DIRECTORY), "resctrl");
    join.status_ = open_status(mount.get());
    return join;
}

Result<> ResctrlGroup::update(const ResctrlSchemata& schemata) const {
    std::vector<std::string> lines = TRY(schemata.lines());
    Fd mount = TRY(open_locked(mount_));
    TRY(check_resources(mount.get(), mount_, lines));
    Fd group = TRY(open_file(path_, O_RDONLY | O_DIRECTORY), "resctrl group");
    return write_schemata_at(mount.get(), group.get(), lines);
}

// The kernel takes such a directory away with all that is in it; its tasks go one up.
Result<> ResctrlGroup::remove_directories(bool group_too) const {
    auto remove_one = [](const std::string& path) -> Result<> {
        if (::unlinkat(AT_FDCWD, path.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return {};
        return fail_errno("remove " + path);
    };
    if (!monitoring_path_.empty()) TRY(remove_one(monitoring_path_));
    if (group_too) TRY(remove_one(path_));
    return {};
}

Result<> ResctrlGroup::remove() const {
    return remove_directories(made_ && !named_);
}

}  // namespace wherry::confine
