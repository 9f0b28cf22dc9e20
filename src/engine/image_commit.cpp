// commit: a container's writable layer becomes an image.
#include <algorithm>

#include "engine/crash_point.hpp"
#include "engine/image_service.hpp"
#include "engine/validate.hpp"
#include "image/reference.hpp"

namespace wherry::engine {
namespace {

image::RunConfig to_run_config(const Config& config) {
    image::RunConfig run;
    run.user = config.user;
    run.env = config.env;
    run.entrypoint = config.entrypoint;
    run.cmd = config.cmd;
    run.working_dir = config.working_dir;
    run.exposed_ports.insert(config.exposed_ports.begin(), config.exposed_ports.end());
    run.volumes.insert(config.volumes.begin(), config.volumes.end());
    run.labels = config.labels;
    run.stop_signal = config.stop_signal;
    if (config.stop_timeout_seconds) run.stop_timeout_seconds = *config.stop_timeout_seconds;
    if (config.shell) run.shell = *config.shell;
    run.on_build = config.on_build;
    run.args_escaped = config.args_escaped;
    if (config.healthcheck) {
        run.healthcheck = image::Healthcheck{.test = config.healthcheck->test,
                                             .interval_ns = config.healthcheck->interval_ns,
                                             .timeout_ns = config.healthcheck->timeout_ns,
                                             .start_period_ns = config.healthcheck->start_period_ns,
                                             .start_interval_ns = config.healthcheck->start_interval_ns,
                                             .retries = config.healthcheck->retries};
    }
    return run;
}

std::string joined(const Strings& words) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
    return text;
}

// Files are read while nothing writes them.
class Standstill {
  public:
    Standstill(Core& core, ContainerPtr container) : core_(core), container_(std::move(container)) {}

    asio::awaitable<void> begin() {
        guard_.emplace(co_await container_->operations.lock());
        if (container_->phase != Phase::running || !container_->shim) co_return;
        shim_ = container_->shim;
        // As with dockerd: what can't be paused is committed as it runs.
        if (!co_await shim_->pause(container_->id)) shim_ = nullptr;
        if (shim_) core_.publish(*container_, "pause");
    }
    asio::awaitable<void> end() {
        if (shim_) {
            std::ignore = co_await shim_->resume(container_->id);
            core_.publish(*container_, "unpause");
        }
        guard_.reset();
    }

  private:
    Core& core_;
    ContainerPtr container_;
    std::optional<Mutex::Guard> guard_;
    std::shared_ptr<supervisor::ShimClient> shim_;
};

}  // namespace

asio::awaitable<Result<std::string>> ImageService::commit(CommitRequest request) {
    if (request.container.empty()) co_return fail(Code::invalid_argument, "invalid name or ID supplied: \"\"");
    CO_TRY(const ContainerPtr container, core_.containers.find(request.container));
    std::string canonical;
    if (!request.repository.empty()) {
        CO_TRY(
            const image::Reference parsed,
            image::parse_reference(request.tag.empty() ? request.repository : request.repository + ":" + request.tag));
        if (!parsed.digest.empty()) co_return fail(Code::invalid_argument, "cannot commit to a digest reference");
        canonical = parsed.canonical();
    }
    image::CommitOptions options;
    options.container_id = container->id;
    options.parent_image_id = container->image_id;
    options.author = request.author;
    options.comment = request.comment;
    options.created_by = joined(container->config().cmd.value_or(Strings{}));
    options.changes = request.changes;
    options.config = to_run_config(container->config());
    if (request.config) {
        CO_CHECK(merge_image_config(*request.config, options.config));
        options.config = to_run_config(*request.config);
    }
    {
        // What is wrong with the instructions is told before anything stands still.
        image::RunConfig tried = options.config;
        for (const std::string& change : options.changes) CO_CHECK(image::apply_change(tried, change));
    }
    Standstill standstill(core_, container);
    if (request.pause) co_await standstill.begin();
    crash_point("commit.paused");
    Result<std::string> id =
        fail(Code::conflict, "You cannot commit container " + container->id + " which is being removed");
    if (!container->removed) id = co_await transfers_.run([this, options] { return core_.images->commit(options); });
    crash_point("commit.stored");
    co_await standstill.end();
    if (!id) co_return id;
    const Mutex::Guard guard = co_await changes_.lock();
    std::vector<std::string> names;
    if (!canonical.empty()) names.push_back(canonical);
    CO_CHECK(co_await adopt(*id, names));
    crash_point("commit.written");
    const std::string shown = canonical.empty() ? std::string() : image::parse_reference(canonical)->familiar();
    if (!shown.empty()) core_.publish("image", "tag", *id, {{"name", shown}});
    core_.publish(*container, "commit", {{"comment", request.comment}, {"imageID", *id}, {"imageRef", shown}});
    co_return id;
}

}  // namespace wherry::engine
