// The life of containers. One object, several files: container_create, container_start, container_end, container_stop,
// container_query, container_streams, container_exec, reconcile. Internal; lives on the loop.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/core.hpp"
#include "engine/health.hpp"
#include "engine/sandbox_service.hpp"
#include "engine/spec_builder.hpp"
#include "engine/volume_service.hpp"

namespace wherry::engine {

class ContainerService final : public Containers {
  public:
    ContainerService(Core& core, VolumeService& volumes, SandboxService& sandboxes)
        : core_(core), volumes_(volumes), sandboxes_(sandboxes) {}

    asio::awaitable<Result<CreateResult>> create(CreateRequest request) override;
    asio::awaitable<Result<Outcome>> start(std::string reference) override;
    asio::awaitable<Result<Outcome>> stop(std::string reference, StopOptions options) override;
    asio::awaitable<Result<>> kill(std::string reference, std::string signal) override;
    asio::awaitable<Result<>> restart(std::string reference, StopOptions options) override;
    asio::awaitable<Result<>> remove(std::string reference, RemoveOptions options) override;
    asio::awaitable<Result<std::vector<RemovedContainer>>> list_removed(bool with_size) override;
    asio::awaitable<Result<std::string>> restore(std::string reference, std::string name) override;
    asio::awaitable<Result<>> pause(std::string reference) override;
    asio::awaitable<Result<>> unpause(std::string reference) override;
    asio::awaitable<Result<>> rename(std::string reference, std::string name) override;
    asio::awaitable<Result<Strings>> update(std::string reference, UpdateRequest request) override;
    asio::awaitable<Result<>> resize(std::string reference, unsigned height, unsigned width) override;
    asio::awaitable<Result<std::unique_ptr<WaitHandle>>> wait(std::string reference, WaitCondition condition) override;
    asio::awaitable<Result<std::unique_ptr<StdioSession>>> attach(std::string reference,
                                                                  AttachOptions options) override;
    asio::awaitable<Result<std::unique_ptr<LogStream>>> logs(std::string reference, LogsOptions options) override;
    asio::awaitable<Result<TopResult>> top(std::string reference, std::string ps_arguments) override;
    asio::awaitable<Result<StatsView>> stats(std::string reference) override;
    asio::awaitable<Result<ContainerView>> inspect(std::string reference, bool with_size) override;
    asio::awaitable<Result<std::vector<ContainerSummary>>> list(ListOptions options) override;
    std::uint64_t revision() const override { return core_.revision; }
    asio::awaitable<Result<PruneResult>> prune(Filters filters) override;
    asio::awaitable<Result<std::string>> exec_create(std::string reference, ExecSpec spec) override;
    asio::awaitable<Result<std::unique_ptr<StdioSession>>> exec_start(std::string id,
                                                                      ExecStartOptions options) override;
    asio::awaitable<Result<ExecView>> exec_inspect(std::string id) override;
    asio::awaitable<Result<>> exec_resize(std::string id, unsigned height, unsigned width) override;
    asio::awaitable<Result<PathStat>> stat_path(std::string reference, std::string path) override;
    asio::awaitable<Result<std::unique_ptr<ArchiveTransfer>>> read_archive(std::string reference, std::string path,
                                                                           Fd out) override;
    asio::awaitable<Result<>> write_archive(std::string reference, std::string path, ExtractOptions options,
                                            Fd archive) override;
    asio::awaitable<Result<std::unique_ptr<ArchiveTransfer>>> export_root(std::string reference, Fd out) override;
    asio::awaitable<Result<std::vector<FileChange>>> changes(std::string reference) override;
    asio::awaitable<Result<std::string>> why(std::string reference) override;
    asio::awaitable<Result<std::vector<Timing>>> timings(std::string reference) override;

    // At the daemon's start, after the records were read: brings records and what is there into agreement.
    asio::awaitable<Result<>> reconcile();
    asio::awaitable<void> expire_kept();  // as long as the daemon lives
    // Restart policies of a daemon that starts.
    void apply_restart_policies();
    void close();  // ends waits and streams; containers go on
    ContainerSummary summarize(const Container& container, WallTime now) const;

  private:
    struct Prepared;

    // container_create
    asio::awaitable<Result<>> make_mounts(const ContainerPtr& container, std::vector<std::string>& made_volumes);
    Result<> resolve_shared_namespaces(ContainerSpec& spec) const;
    Result<std::vector<MountPoint>> inherited_mounts(const HostConfig& host_config) const;

    // container_start: `launch` with container->operations held and the container not running.
    asio::awaitable<Result<>> launch(ContainerPtr container);
    asio::awaitable<Result<>> launch_steps(ContainerPtr container);
    asio::awaitable<Result<Prepared>> prepare(ContainerPtr container);
    asio::awaitable<Result<std::shared_ptr<supervisor::ShimClient>>> spawn_shim(ContainerPtr container);
    asio::awaitable<void> undo_launch(ContainerPtr container, std::shared_ptr<supervisor::ShimClient> shim,
                                      std::shared_ptr<Prepared> prepared);
    Result<> fill(const Container& container, SpecInput& input, int network_pid, Prepared& prepared);
    // Closes a sandbox's ports and gives its address back. On the pool.
    void let_go(const std::string& sandbox_id, const std::optional<net::Endpoint>& endpoint, bool published);
    asio::awaitable<void> discard_output(ContainerPtr container, std::shared_ptr<supervisor::ShimClient> shim);
    SpecInput spec_input(const Container& container) const;
    Result<std::string> seccomp_path(const Container& container);
    NetworkKind network_kind(const Container& container) const;
    Result<ContainerPtr> shared_container(const std::string& mode) const;
    // The one it shares with others; nullptr for a container that is a sandbox of its own.
    SandboxPtr sandbox_of(const Container& container) const { return core_.sandboxes.by_id(container.sandbox_id); }
    // Where the hosts, hostname and resolv.conf of its network are: its own or those of whom it joined.
    std::string network_files_of(const Container& container) const;
    std::string hostname_of(const Container& container) const;

    // container_end
    void adopt_running(const ContainerPtr& container, const std::shared_ptr<supervisor::ShimClient>& shim);
    asio::awaitable<void> watch(ContainerPtr container, std::shared_ptr<supervisor::ShimClient> shim,
                                std::uint64_t run);
    asio::awaitable<void> follow_events(ContainerPtr container, std::shared_ptr<supervisor::ShimClient> shim);
    asio::awaitable<void> ended(ContainerPtr container, supervisor::ExitStatus status);
    asio::awaitable<void> restart_later(ContainerPtr container, std::uint64_t exits);
    bool should_restart(const Container& container) const;
    asio::awaitable<void> clean_sandbox(ContainerPtr container, std::shared_ptr<supervisor::ShimClient> shim);

    // container_stop
    asio::awaitable<Result<Outcome>> stop_locked(ContainerPtr container, StopOptions options);
    asio::awaitable<Result<>> send_signal(ContainerPtr container, int signal);
    enum class Keep : std::uint8_t { nothing, for_a_while };
    asio::awaitable<Result<>> remove_record(ContainerPtr container, bool volumes, Keep keep);
    asio::awaitable<void> remove_files(ContainerPtr container, std::vector<std::string> volumes, bool kept);

    // container_undelete
    store::Record kept_record(const Container& container, WallTime removed_at) const;
    void note_kept(const Container& container);
    asio::awaitable<void> keep_files(ContainerPtr container);
    asio::awaitable<std::int64_t> expire(std::string id);  // bytes freed
    asio::awaitable<PruneResult> prune_kept(const Filters& filters, std::optional<WallTime> until);
    Result<std::string> find_kept(const std::string& reference) const;
    asio::awaitable<Result<>> reconcile_kept();

    // container_health
    asio::awaitable<void> watch_health(ContainerPtr container, HealthPlan plan, std::uint64_t run);
    asio::awaitable<void> end_probe(ContainerPtr container, std::string exec_id,
                                    std::shared_ptr<supervisor::ShimClient> shim);
    asio::awaitable<HealthLogEntry> probe_health(ContainerPtr container, HealthPlan plan);

    // container_exec
    Result<std::pair<ContainerPtr, std::shared_ptr<Exec>>> find_exec(const std::string& id) const;
    asio::awaitable<void> watch_exec(ContainerPtr container, std::shared_ptr<Exec> exec,
                                     std::shared_ptr<supervisor::ShimClient> shim);

    // container_copy
    asio::awaitable<Result<std::shared_ptr<RootHelper>>> start_copy(ContainerPtr container, image::CopyJob job,
                                                                    Fd input, Fd output);

    // reconcile
    asio::awaitable<void> leave_shim(ContainerPtr container, std::shared_ptr<supervisor::ShimClient> shim);
    asio::awaitable<void> forget_the_ended();
    void adopt_exec(const ContainerPtr& container, const supervisor::ExecState& state,
                    std::shared_ptr<supervisor::ShimClient> shim);

    void save(const Container& container);  // posted: what a restart can find out again
    asio::awaitable<Result<>> save_durably(const Container& container);
    ContainerPaths paths(const Container& container) const {
        return container_paths(core_.options.data_root, core_.options.exec_root, container);
    }

    Core& core_;
    VolumeService& volumes_;
    SandboxService& sandboxes_;
    bool closing_ = false;
    // The last image name that summarize() looked up.
    mutable std::string resolved_name_, resolved_id_;
    mutable std::uint64_t resolved_revision_ = ~std::uint64_t{0};
};

}  // namespace wherry::engine
