// Health checks: a probe runs in the container again and again; what it says becomes starting, healthy or unhealthy.
// The last results are in the container's record, so that a daemon that starts goes on where the last one was.
#include <algorithm>
#include <csignal>

#include "base/id.hpp"
#include "base/log.hpp"
#include "engine/container_service.hpp"
#include "engine/health.hpp"
#include "oci/container.hpp"
#include "oci/spec.hpp"

namespace wherry::engine {
namespace {

constexpr std::size_t kept_output_bytes = 4096;

std::string joined(const Strings& words) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
    return text;
}

// What a probe under way and the coroutines that wait for it share.
struct Probe {
    std::optional<supervisor::ExitStatus> status;
    bool lost = false;  // nobody will tell its end
    bool output_ended = false;
    std::string output;
    Signal changed;
};

asio::awaitable<void> follow_end(std::shared_ptr<Probe> probe, std::shared_ptr<supervisor::ShimClient> shim,
                                 std::string container_id, std::string exec_id) {
    Result<supervisor::ExitStatus> status = co_await shim->wait(std::move(container_id), std::move(exec_id));
    if (status)
        probe->status = *status;
    else
        probe->lost = true;
    probe->changed.notify_all();
}

asio::awaitable<void> follow_output(std::shared_ptr<Probe> probe, std::shared_ptr<supervisor::StdioStream> stream) {
    while (true) {
        Result<supervisor::StreamChunk> chunk = co_await stream->read();
        if (!chunk || chunk->kind == supervisor::StreamChunk::Kind::end) break;
        const std::size_t room = kept_output_bytes - std::min(kept_output_bytes, probe->output.size());
        probe->output.append(chunk->data, 0, room);
    }
    probe->output_ended = true;
    probe->changed.notify_all();
}

}  // namespace

asio::awaitable<HealthLogEntry> ContainerService::probe_health(ContainerPtr container, HealthPlan plan) {
    HealthLogEntry entry{.start = wall_now(), .end = {}, .exit_code = -1, .output = {}};
    const std::shared_ptr<supervisor::ShimClient> shim = container->shim;
    const std::string command = joined(plan.command);
    supervisor::ExecRequest request;
    request.container_id = container->id;
    request.exec_id = std::string(health_exec_prefix) + make_id();
    const std::string exec_id = request.exec_id;
    Result<oci::ProcessSpec> process =
        build_exec_process(spec_input(*container), plan.command, {}, container->config().user, {}, false, false);
    Result<supervisor::ExecState> running = fail(Code::unavailable, "the container is not running");
    if (process && shim) {
        request.process = oci::to_json(*process);
        core_.publish(*container, "exec_create: " + command, {{"execID", exec_id}});
        core_.publish(*container, "exec_start: " + command, {{"execID", exec_id}});
        running = co_await shim->exec(std::move(request));
    } else if (!process) {
        running = std::unexpected(std::move(process).error());
    }
    if (!running) {
        entry.end = wall_now();
        entry.exit_code = oci::failure_exit_code(running.error());
        entry.output = running.error().describe();
        co_return entry;
    }
    auto probe = std::make_shared<Probe>();
    core_.gate.spawn(follow_end(probe, shim, container->id, exec_id));
    supervisor::StreamRequest wanted;
    wanted.container_id = container->id;
    wanted.exec_id = exec_id;
    wanted.want_stdout = wanted.want_stderr = true;
    wanted.stdout_offset = wanted.stderr_offset = 0;
    std::shared_ptr<supervisor::StdioStream> stream;
    if (auto opened = co_await shim->open_stream(std::move(wanted))) {
        stream = std::make_shared<supervisor::StdioStream>(std::move(*opened));
        core_.gate.spawn(follow_output(probe, stream));
    }
    const auto deadline = Signal::Clock::now() + plan.timeout;
    const auto ended = [&] { return probe->lost || (probe->status && (!stream || probe->output_ended)); };
    while (!ended() && !closing_ && Signal::Clock::now() < deadline) co_await probe->changed.wait(deadline);
    if (!ended() && !closing_) {
        std::ignore = co_await shim->kill({.container_id = container->id, .exec_id = exec_id, .signal = SIGKILL});
        const auto patience = Signal::Clock::now() + std::chrono::seconds(5);
        while (!probe->status && !probe->lost && Signal::Clock::now() < patience)
            co_await probe->changed.wait(patience);
        const auto limit_ms = std::chrono::duration_cast<std::chrono::milliseconds>(plan.timeout).count();
        entry.output = "Health check exceeded timeout (" + duration_text(limit_ms) + ")";
        if (!probe->output.empty()) entry.output += ": " + probe->output;
    } else if (probe->status) {
        entry.exit_code = probe->status->code;
        entry.output = probe->output;
    }
    if (stream) stream->close();
    entry.end = wall_now();
    entry.output = valid_utf8(entry.output);
    if (shim->alive() && !closing_) std::ignore = co_await shim->remove_exec(container->id, exec_id);
    core_.publish(*container, "exec_die", {{"execID", exec_id}, {"exitCode", std::to_string(entry.exit_code)}});
    co_return entry;
}

asio::awaitable<void> ContainerService::end_probe(ContainerPtr container, std::string exec_id,
                                                  std::shared_ptr<supervisor::ShimClient> shim) {
    std::ignore = co_await shim->kill({.container_id = container->id, .exec_id = exec_id, .signal = SIGKILL});
    std::ignore = co_await shim->discard_output(container->id, exec_id);
    if (co_await shim->wait(container->id, exec_id)) std::ignore = co_await shim->remove_exec(container->id, exec_id);
}

asio::awaitable<void> ContainerService::watch_health(ContainerPtr container, HealthPlan plan, std::uint64_t run) {
    const auto current = [&] {
        return !closing_ && container->starts == run && container->is_running() && !container->removed;
    };
    while (current()) {
        const HealthView& health = *container->health;
        const WallTime last =
            health.log.empty() ? container->started_at : std::max(health.log.back().end, container->started_at);
        const WallTime now = wall_now();
        const Nanoseconds wait = std::clamp(last + health_delay(plan, health, container->started_at, now) - now,
                                            Nanoseconds::zero(), std::max(plan.interval, plan.start_interval));
        const auto due = Signal::Clock::now() + wait;
        while (current() && Signal::Clock::now() < due) co_await container->changed.wait(due);
        while (current() && container->phase == Phase::paused) co_await container->changed.wait();
        if (!current()) co_return;
        HealthLogEntry result = co_await probe_health(container, plan);
        if (!current()) co_return;
        const bool changed = take_health_result(plan, *container->health, std::move(result), container->started_at);
        core_.journal->post({store::Put{to_record(*container)}});
        if (changed) {
            log_info("container.health", {{"id", container->id}, {"status", container->health->status}});
            core_.publish(*container, "health_status: " + container->health->status);
            container->changed.notify_all();
        }
    }
}

}  // namespace wherry::engine
