#include "api/containerd/event_publisher.hpp"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <vector>

#include "base/clock.hpp"
#include "base/log.hpp"

namespace wherry::api::containerd {

namespace {

constexpr std::chrono::milliseconds answer_timeout{10'000};
constexpr std::chrono::milliseconds first_delay{100};
constexpr std::chrono::milliseconds longest_delay{5'000};
// containerd refuses what it can't understand; asking again would block all that follows.
constexpr int max_refusals = 3;

std::string socket_path(std::string_view address) {
    constexpr std::string_view scheme = "unix://";
    if (address.starts_with(scheme)) address.remove_prefix(scheme.size());
    return std::string(address);
}

}  // namespace

EventPublisher::EventPublisher(supervisor::EventLoop& loop, std::span<char> scratch, PublisherOptions options)
    : loop_(loop), scratch_(scratch), options_(std::move(options)) {
    options_.ttrpc_address = socket_path(options_.ttrpc_address);
}

void EventPublisher::publish(std::string topic, Any event) {
    if (options_.ttrpc_address.empty() && options_.publish_binary.empty()) return;
    if (queue_.size() >= max_queued) {
        auto oldest = queue_.begin() + (in_flight_ ? 1 : 0);
        log_warn("events.dropped", {{"topic", oldest->topic}});
        queue_.erase(oldest);
    }
    queue_.push_back({std::move(topic), std::move(event), timestamp_of(wall_now())});
    send_next();
}

void EventPublisher::send_next() {
    if (in_flight_ || queue_.empty() || timer_) return;
    if (options_.ttrpc_address.empty()) {
        send_by_command();
    } else {
        send_by_ttrpc();
    }
}

Result<> EventPublisher::connect() {
    if (socket_) return {};
    // A connect to a unix socket is done at once or fails.
    socket_ = TRY(connect_unix(options_.ttrpc_address, SOCK_NONBLOCK));
    watch_ = TRY(loop_.watch(socket_.get(), EPOLLIN, [this](std::uint32_t events) { on_events(events); }));
    decoder_ = {};
    unsent_ = {};
    next_stream_ = 1;
    return {};
}

void EventPublisher::send_by_ttrpc() {
    if (auto connected = connect(); !connected) {
        log_debug("events.not_connected", {{"error", connected.error()}});
        try_again();
        return;
    }
    Queued& item = queue_.front();
    ForwardRequest forward;
    forward.envelope = Envelope{item.time, options_.name_space, item.topic, item.event};
    TtrpcRequest request;
    request.service = events_service_name;
    request.method = "Forward";
    request.payload = encode(forward);
    request.timeout_ns = std::chrono::nanoseconds(answer_timeout).count();
    request.metadata.push_back({"containerd-namespace-ttrpc", options_.name_space});
    stream_ = next_stream_;
    next_stream_ += 2;
    unsent_.append(encode_frame(TtrpcType::request, stream_, encode(request)));
    in_flight_ = true;
    if (!unsent_.flush(socket_.get())) {
        try_again();
        return;
    }
    if (!unsent_.empty()) watch_.set_events(EPOLLIN | EPOLLOUT);
    loop_.schedule(timer_, answer_timeout, [this] { try_again(); });
}

void EventPublisher::on_events(std::uint32_t events) {
    bool alive = true;
    if ((events & EPOLLOUT) != 0) {
        alive = unsent_.flush(socket_.get());
        if (alive && unsent_.empty()) watch_.set_events(EPOLLIN);
    }
    if (alive && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) alive = receive();
    if (alive) return;
    if (in_flight_) {
        try_again();
    } else {
        disconnect();
    }
}

bool EventPublisher::receive() {
    ssize_t got = -1;
    do {
        got = ::recv(socket_.get(), scratch_.data(), scratch_.size(), MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    decoder_.feed({scratch_.data(), static_cast<std::size_t>(got)});
    for (;;) {
        auto frame = decoder_.next();
        if (!frame) return false;
        if (!*frame) return true;
        if ((*frame)->type != static_cast<std::uint8_t>(TtrpcType::response) || (*frame)->stream != stream_ ||
            !in_flight_)
            continue;
        auto response = decode<TtrpcResponse>((*frame)->payload);
        if (!response) return false;
        if (response->status && response->status->code != 0) {
            refused(response->status->message);
        } else {
            delivered();
        }
        if (!socket_) return true;
    }
}

void EventPublisher::delivered() {
    queue_.pop_front();
    in_flight_ = false;
    timer_.reset();
    delay_ = {};
    send_next();
}

void EventPublisher::refused(std::string_view why) {
    if (++queue_.front().attempts < max_refusals) {
        try_again();
        return;
    }
    log_warn("events.refused", {{"topic", queue_.front().topic}, {"error", why}});
    delivered();
}

void EventPublisher::try_again() {
    disconnect();
    in_flight_ = false;
    delay_ = delay_.count() == 0 ? first_delay : std::min(delay_ * 2, longest_delay);
    loop_.schedule(timer_, delay_, [this] { send_next(); });
}

void EventPublisher::disconnect() {
    watch_.reset();
    socket_.reset();
}

// ---- by command

Result<> EventPublisher::spawn_command(const Queued& item) {
    // The event goes to its stdin; a file in memory, so that nobody has to wait for a reader.
    Fd input(::memfd_create("event", MFD_CLOEXEC));
    if (!input) return fail_errno("memfd_create");
    TRY(write_all(input.get(), encode(item.event)));
    if (::lseek(input.get(), 0, SEEK_SET) < 0) return fail_errno("lseek");
    Fd null = TRY(open_file("/dev/null", O_WRONLY));
    std::vector<std::string> words{
        options_.publish_binary, "--address",        options_.address, "publish", "--topic", item.topic,
        "--namespace",           options_.name_space};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_t pid = ::fork();
    if (pid < 0) return fail_errno("fork");
    if (pid == 0) {
        // SAFETY: after fork: async-signal-safe calls only. All other descriptors are close-on-exec.
        ::dup2(input.get(), 0);
        ::dup2(null.get(), 1);
        ::execv(argv[0], argv.data());
        ::_exit(127);
    }
    command_ = pid;
    return {};
}

void EventPublisher::send_by_command() {
    in_flight_ = true;
    if (auto spawned = spawn_command(queue_.front()); !spawned) {
        log_warn("events.publish_failed", {{"error", spawned.error()}});
        refused("the publish command could not be started");
        return;
    }
    loop_.schedule(timer_, answer_timeout, [this] {
        if (command_ > 0) ::kill(command_, SIGKILL);
    });
}

bool EventPublisher::child_ended(pid_t pid, int wait_status) {
    if (pid != command_) return false;
    command_ = -1;
    timer_.reset();
    if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0) {
        delivered();
    } else {
        refused("the publish command failed");
    }
    return true;
}

}  // namespace wherry::api::containerd
