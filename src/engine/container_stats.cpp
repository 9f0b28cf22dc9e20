// One reading of what a container uses.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "engine/container_service.hpp"
#include "engine/process_table.hpp"

namespace wherry::engine {
namespace {

std::vector<BlockIoStats> block_views(const std::vector<supervisor::BlockIo>& entries) {
    std::vector<BlockIoStats> views;
    views.reserve(entries.size());
    for (const supervisor::BlockIo& entry : entries) {
        views.push_back(
            {.major = entry.major, .minor = entry.minor, .operation = entry.operation, .value = entry.value});
    }
    return views;
}

}  // namespace

asio::awaitable<Result<StatsView>> ContainerService::stats(std::string reference) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    StatsView view;
    view.read = wall_now();
    view.id = container->id;
    view.name = container->name;
    const std::shared_ptr<supervisor::ShimClient> shim = container->shim;
    if (!container->is_running() || !shim) co_return view;
    CO_TRY(const supervisor::Stats stats, co_await shim->stats(container->id));
    view.read = stats.read_at;
    view.pids = stats.pids_current;
    view.pids_limit = stats.pids_limit;
    view.cpu_total_ns = stats.cpu_total_ns;
    view.cpu_user_ns = stats.cpu_user_ns;
    view.cpu_system_ns = stats.cpu_system_ns;
    view.throttled_periods = stats.cpu_throttled_periods;
    view.periods = stats.cpu_periods;
    view.throttled_ns = stats.cpu_throttled_ns;
    view.memory_bytes = stats.memory_usage_bytes;
    view.memory_max_bytes = stats.memory_max_usage_bytes;
    view.memory_limit_bytes = stats.memory_limit_bytes;
    view.memory_failures = stats.memory_failures;
    view.memory_details = stats.memory_stat;
    view.block_bytes = block_views(stats.io_service_bytes);
    view.block_operations = block_views(stats.io_serviced);
    if (spec_input(*container).network != NetworkKind::host && container->pid > 0) {
        if (auto text = read_file("/proc/" + std::to_string(container->pid) + "/net/dev"))
            view.interfaces = parse_interface_stats(*text);
    }
    view.online_cpus = static_cast<unsigned>(::sysconf(_SC_NPROCESSORS_ONLN));
    view.host_cpu_ns = host_cpu_time_ns();
    co_return view;
}

}  // namespace wherry::engine
