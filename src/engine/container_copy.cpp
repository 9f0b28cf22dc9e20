// cp, export and diff. A running container's root is reached by its mount namespace, a stopped one's is mounted by the
// child alone; while that lasts, its operations wait.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "engine/container_service.hpp"
#include "engine/mounts.hpp"
#include "engine/root_helper.hpp"

namespace wherry::engine {
namespace {

struct Source {
    Fd root;
    std::vector<Fd> trees;
};

// What the container was given, as far as it is there: the order is that of its start.
struct WantedMount {
    std::string source;
    image::CopyMount mount;
};

bool lies_below(std::string_view path, std::string_view folder) {
    return path == folder || (path.starts_with(folder) && path.size() > folder.size() && path[folder.size()] == '/');
}

// What the runtime mounts by itself is nobody's files, as with Docker.
Strings hidden_places(const Container& container) {
    Strings hidden;
    for (const char* place : {"/proc", "/sys", "/dev"}) {
        const bool used = std::ranges::any_of(
            container.mounts, [&](const MountPoint& point) { return lies_below(point.destination, place); });
        if (!used) hidden.emplace_back(place);
    }
    return hidden;
}

std::vector<WantedMount> wanted_mounts(const Container& container, const ContainerPaths& where) {
    std::vector<WantedMount> wanted;
    const auto taken = [&](std::string_view destination) {
        return std::ranges::any_of(container.mounts,
                                   [&](const MountPoint& point) { return point.destination == destination; });
    };
    for (const auto& [source, destination] :
         {std::pair(where.resolv_conf, "/etc/resolv.conf"), std::pair(where.hostname, "/etc/hostname"),
          std::pair(where.hosts, "/etc/hosts")}) {
        if (!taken(destination)) wanted.push_back({.source = source, .mount = {.destination = destination}});
    }
    for (const MountPoint& point : container.mounts) {
        if (point.type == "tmpfs") continue;  // empty until it runs
        wanted.push_back(
            {.source = point.source, .mount = {.destination = point.destination, .read_only = !point.read_write}});
    }
    return wanted;
}

// The child's words for a user, and codes for what a user can provoke.
Error explain(Error error, const Container& container, const std::string& reference, const std::string& path,
              bool started) {
    switch (error.os_errno()) {
        case EROFS: {
            const std::string place = clean_path(path);
            const MountPoint* deepest = nullptr;
            for (const MountPoint& point : container.mounts) {
                if (lies_below(place, point.destination) &&
                    (deepest == nullptr || point.destination.size() > deepest->destination.size()))
                    deepest = &point;
            }
            return {Code::permission_denied, deepest != nullptr && !deepest->read_write
                                                 ? "mounted volume is marked read-only"
                                                 : "container rootfs is marked read-only"};
        }
        case ENOENT:
            if (!started) return {Code::not_found, "Could not find the file " + path + " in container " + reference};
            return std::move(error).with_code(Code::invalid_argument);
        case ENOTDIR:
        case EISDIR:
        case ELOOP:
        case ENAMETOOLONG:
        case EEXIST:
        case EBUSY:
        case EXDEV:
        case EINVAL:
        case ENXIO:
            return std::move(error).with_code(Code::invalid_argument);
        case EPERM:
        case EACCES:
            return std::move(error).with_code(Code::permission_denied);
        case ECONNRESET:
            return std::move(error).with_code(Code::cancelled);
        default:
            return error;
    }
}

class Transfer final : public ArchiveTransfer {
  public:
    Transfer(std::shared_ptr<RootHelper> helper, PathStat stat) : helper_(std::move(helper)), stat_(std::move(stat)) {}

    const PathStat& stat() const override { return stat_; }
    asio::awaitable<Result<>> finish() override {
        const std::shared_ptr<RootHelper> helper = helper_;
        CO_TRY(const std::string report, co_await helper->next_report());
        if (report != "ok") co_return fail(Code::internal, "wherry-unpack reported nonsense");
        co_return Result<>{};
    }

  private:
    std::shared_ptr<RootHelper> helper_;
    PathStat stat_;
};

}  // namespace

asio::awaitable<Result<std::shared_ptr<RootHelper>>> ContainerService::start_copy(ContainerPtr container,
                                                                                  image::CopyJob job, Fd input,
                                                                                  Fd output) {
    std::optional<Mutex::Guard> guard;
    while (!container->is_running()) {
        if (!guard) {
            guard.emplace(co_await container->operations.lock());
            continue;
        }
        if (container->removed) co_return fail(Code::not_found, "No such container: " + container->id);
        if (!container->exit_pending) break;
        co_await container->changed.wait();
    }
    auto source = std::make_shared<Source>();
    if (container->is_running()) {
        guard.reset();
        job.root = image::CopyRoot::mount_namespace;
        job.hidden = hidden_places(*container);
        const int pid = container->pid;
        const auto shim = container->shim;
        CO_CHECK(co_await core_.pool.run([source, pid]() -> Result<> {
            source->root = TRY(open_file("/proc/" + std::to_string(pid) + "/ns/mnt", O_RDONLY));
            return {};
        }),
                 "the container's mounts");
        // The number was the container's as long as its supervisor has not seen it end.
        if (!shim) co_return fail(Code::conflict, "container " + container->id + " is not running");
        CO_TRY(const supervisor::ContainerState state, co_await shim->state(container->id));
        if (state.pid != pid ||
            (state.status != supervisor::Status::running && state.status != supervisor::Status::paused))
            co_return fail(Code::conflict, "container " + container->id + " has just ended");
    } else {
        co_await end_copies(container);  // of its last run
        job.root = image::CopyRoot::detached_mount;
        job.root_read_only = container->host_config().readonly_rootfs;
        const bool bare = job.action == image::CopyAction::tree;
        auto wanted = bare ? std::vector<WantedMount>{} : wanted_mounts(*container, paths(*container));
        auto mounts = std::make_shared<std::vector<image::CopyMount>>();
        CO_CHECK(co_await core_.pool.run([this, source, mounts, container, wanted, bare]() -> Result<> {
            source->root = TRY(
                core_.images->layers().open_root(container->id, container->diff_ids,
                                                 bare ? image::RootAccess::read_only : image::RootAccess::read_write));
            for (const WantedMount& one : wanted) {
                auto tree = image::take_tree(one.source);
                if (!tree && tree.error().code() == Code::not_found) continue;
                if (!tree) return std::unexpected(std::move(tree).error());
                source->trees.push_back(std::move(*tree));
                mounts->push_back(one.mount);
            }
            return {};
        }),
                 "the container's root");
        job.mounts = std::move(*mounts);
        if (bare) guard.reset();  // nothing is written, and it is a mount of its own
    }
    struct Streams {
        Fd input;
        Fd output;
    };
    auto streams = std::make_shared<Streams>(Streams{.input = std::move(input), .output = std::move(output)});
    CO_TRY(image::CopyProcess process, co_await core_.pool.run([this, source, streams, job] {
        image::CopyDescriptors descriptors{.root = source->root.get(),
                                           .input = streams->input ? streams->input.get() : -1,
                                           .output = streams->output ? streams->output.get() : -1,
                                           .trees = {}};
        for (const Fd& tree : source->trees) descriptors.trees.push_back(tree.get());
        auto started = image::spawn_copy(core_.options.unpack_path, job, descriptors);
        source->root.reset();
        source->trees.clear();
        streams->input.reset();
        streams->output.reset();
        return started;
    }));
    const bool snapshot = job.root == image::CopyRoot::detached_mount && job.action == image::CopyAction::tree;
    co_return RootHelper::adopt(core_, container, std::move(process), std::move(guard),
                                snapshot ? RootHelper::Holds::snapshot : RootHelper::Holds::layer);
}

asio::awaitable<Result<PathStat>> ContainerService::stat_path(std::string reference, std::string path) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    image::CopyJob job{.action = image::CopyAction::stat, .path = path};
    CO_TRY(const auto helper, co_await start_copy(container, std::move(job), {}, {}));
    auto report = co_await helper->next_report();
    if (!report) co_return std::unexpected(explain(std::move(report).error(), *container, reference, path, false));
    co_return image::parse_stat(*report);
}

asio::awaitable<Result<std::unique_ptr<ArchiveTransfer>>> ContainerService::read_archive(std::string reference,
                                                                                         std::string path, Fd out) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    image::CopyJob job{.action = image::CopyAction::read, .path = path};
    CO_TRY(auto helper, co_await start_copy(container, std::move(job), {}, std::move(out)));
    auto report = co_await helper->next_report();
    if (!report) co_return std::unexpected(explain(std::move(report).error(), *container, reference, path, false));
    CO_TRY(PathStat stat, image::parse_stat(*report));
    core_.publish(*container, "archive-path");
    co_return std::make_unique<Transfer>(std::move(helper), std::move(stat));
}

asio::awaitable<Result<>> ContainerService::write_archive(std::string reference, std::string path,
                                                          ExtractOptions options, Fd archive) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    image::CopyJob job{.action = image::CopyAction::write, .path = path, .keep_kinds = options.keep_kinds};
    if (options.copy_owners) job.owner = container->config().user;
    CO_TRY(const auto helper, co_await start_copy(container, std::move(job), std::move(archive), {}));
    bool started = false;
    while (true) {
        auto report = co_await helper->next_report();
        if (!report)
            co_return std::unexpected(explain(std::move(report).error(), *container, reference, path, started));
        if (*report == "ok") break;
        started = true;
    }
    core_.publish(*container, "extract-to-dir");
    co_return Result<>{};
}

asio::awaitable<Result<std::unique_ptr<ArchiveTransfer>>> ContainerService::export_root(std::string reference, Fd out) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    CO_TRY(auto helper,
           co_await start_copy(container, image::CopyJob{.action = image::CopyAction::tree}, {}, std::move(out)));
    core_.publish(*container, "export");
    co_return std::make_unique<Transfer>(std::move(helper), PathStat{});
}

asio::awaitable<Result<std::vector<FileChange>>> ContainerService::changes(std::string reference) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    co_return co_await core_.pool.run([this, container] {
        // Places for mounts that every container has.
        const std::set<std::string> made{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"};
        return core_.images->layers().changes(container->id, container->diff_ids, made);
    });
}

}  // namespace wherry::engine
