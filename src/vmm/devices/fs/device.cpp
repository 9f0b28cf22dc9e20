#include "vmm/devices/fs/device.hpp"

#include <fcntl.h>
#include <linux/virtio_fs.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

#include "base/log.hpp"

namespace wherry::vmm::fs {
namespace {

// One for requests that must not wait (forgets), one for all others; of the size virtiofsd gives them.
constexpr std::array<std::uint16_t, 2> queue_sizes = {1024, 1024};
constexpr std::uint16_t queue_count = queue_sizes.size();
// How often another process is looked for, and how long one may take to answer while the guest runs.
constexpr std::chrono::milliseconds retry_after{250};
constexpr std::chrono::seconds patience_meanwhile{1};
constexpr std::uint64_t wanted_features = feature_event_index | feature_indirect_descriptors;

}  // namespace

FsDevice::FsDevice(EventLoop& loop, const Config& config, vhost_user::Frontend frontend, vhost_user::Inflight notes)
    : Device(loop, config.id, queue_sizes),
      config_(config),
      frontend_(std::move(frontend)),
      notes_(std::move(notes)),
      features_offered_(frontend_->features()),
      kick_watches_(queue_sizes.size()) {}

Result<std::shared_ptr<FsDevice>> FsDevice::create(EventLoop& loop, const Config& config) {
    return create(loop, config, TRY(connect_unix(config.socket), "socket of the shared folder"));
}

Result<std::shared_ptr<FsDevice>> FsDevice::create(EventLoop& loop, const Config& config, Fd socket) {
    auto frontend = TRY(vhost_user::Frontend::greet(std::move(socket), wanted_features, queue_sizes.size()),
                        "process of the shared folder");
    auto notes = TRY(vhost_user::Inflight::create(queue_sizes.size(), queue_sizes[0]));
    std::shared_ptr<FsDevice> device(new FsDevice(loop, config, std::move(frontend), std::move(notes)));
    TRY(device->prepare());
    return device;
}

Result<> FsDevice::prepare() {
    for (std::size_t i = 0; i < queue_sizes.size(); ++i) {
        own_events_.push_back(TRY(make_eventfd()));
        kicks_.push_back(own_events_.back().get());
        // Made now: drivers start the device on a processor's thread, which may not.
        const auto index = static_cast<std::uint16_t>(i);
        Call call;
        call.event = TRY(make_eventfd());
        call.watch = TRY(watch(call.event.get(), EPOLLIN, [this, index](std::uint32_t) -> Result<> {
            drain_eventfd(calls_[index].event.get());
            if (active()) interrupt().queue_used(index);
            return {};
        }));
        calls_.push_back(std::move(call));
    }
    retry_ = TRY(make_timer([this] { return look_for_server(); }));
    return watch_server();
}

Result<> FsDevice::watch_server() {
    end_watch_ = TRY(watch(frontend_->socket(), EPOLLRDHUP, [this](std::uint32_t) {
        return lose_server("the process that serves the shared folder is gone");
    }));
    return {};
}

void FsDevice::drop_server() {
    end_watch_.reset();
    frontend_.reset();
    metrics.backend_gone_count.add();
    last_failure_.clear();
    if (!config_.socket.empty()) retry_->arm(retry_after);
}

Result<> FsDevice::lose_server(const std::string& why) {
    if (!frontend_) return {};
    const bool noted = frontend_->notes_requests();
    drop_server();
    log_error("fs.server_gone", {{"id", id()}, {"error", why}});
    if (!working()) return {};
    if (!noted) return fail(Code::unavailable, why);
    for (std::uint16_t i = 0; i < queue_count; ++i)
        if (queue(i).started()) TRY(take_over(i));
    return {};
}

Result<> FsDevice::look_for_server() {
    if (frontend_) return {};
    auto found = [&]() -> Result<vhost_user::Frontend> {
        // Other devices wait for this thread: neither a full backlog nor a process that says nothing holds it for long.
        Fd socket = TRY(connect_unix(config_.socket, SOCK_NONBLOCK));
        const int flags = fcntl(socket.get(), F_GETFL);
        if (flags < 0 || fcntl(socket.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) return fail_errno("socket");
        auto frontend = TRY(
            vhost_user::Frontend::greet(std::move(socket), wanted_features, queue_sizes.size(), patience_meanwhile));
        if ((features_offered_ & ~frontend.features()) != 0)
            return fail(Code::invalid_argument, "it can do less than the one before");
        return frontend;
    }();
    if (!found) {
        // Nobody there is what there is to wait for.
        std::string told = found.error().code() == Code::not_found ? "" : found.error().describe();
        if (!told.empty() && told != last_failure_) log_warn("fs.no_server", {{"id", id()}, {"error", told}});
        last_failure_ = std::move(told);
        retry_->arm(retry_after);
        return {};
    }
    frontend_.emplace(std::move(*found));
    TRY(watch_server());
    metrics.backend_back_count.add();
    log_info("fs.server_back", {{"id", id()}});
    if (!working()) return {};
    for (Watch& watch : kick_watches_) watch.reset();
    if (auto started = start_server(); !started) return lose_server(started.error().describe());
    // What the guest told us of meanwhile.
    for (int kick : kicks_) signal_eventfd(kick);
    return {};
}

std::vector<std::byte> FsDevice::configuration() const {
    virtio_fs_config layout = {};
    std::memcpy(layout.tag, config_.tag.data(), std::min(config_.tag.size(), longest_tag));
    layout.num_request_queues = queue_sizes.size() - 1;
    std::vector<std::byte> bytes(sizeof layout);
    std::memcpy(bytes.data(), &layout, sizeof layout);
    return bytes;
}

bool FsDevice::takes_queue_events(std::span<const int> events) {
    kicks_.assign(events.begin(), events.end());
    own_events_.clear();
    return true;
}

Result<> FsDevice::start_server() {
    for (std::uint16_t i = 0; i < queue_count; ++i)
        if (queue(i).started()) notes_.begin(i, memory().load_acquire(queue(i).state.used + 2).value_or(0));
    TRY(frontend_->start(features(), memory(), &notes_));
    for (std::uint16_t i = 0; i < queue_count; ++i)
        if (queue(i).started()) TRY(start_queue(i));
    return {};
}

Result<> FsDevice::start_queue(std::uint16_t index) {
    int call = interrupt().queue_event(index);
    if (call < 0) call = calls_[index].event.get();  // the transport wants to hear of it first
    return frontend_->start_queue(index, queue(index).state, kicks_[index], call);
}

Result<> FsDevice::on_activate() {
    metrics.activate_count.add();
    if (!frontend_) return {};
    if (auto started = start_server(); !started) {
        metrics.activate_fails.add();
        return lose_server(started.error().describe());
    }
    return {};
}

void FsDevice::on_reset() {
    for (Watch& watch : kick_watches_) watch.reset();
    for (std::uint16_t i = 0; i < queue_count && frontend_; ++i) {
        if (!queue(i).started()) continue;
        if (auto stopped = frontend_->stop_queue(i); !stopped) {
            log_error("fs.not_stopped", {{"id", id()}, {"error", stopped.error()}});
            drop_server();
        }
    }
}

// Reached for a first look at each queue when the driver is ready, and for all kicks where the transport keeps them.
Result<> FsDevice::on_queue(std::uint16_t index) {
    if (!frontend_) return refuse_all(index);
    signal_eventfd(kicks_[index]);
    return {};
}

}  // namespace wherry::vmm::fs
