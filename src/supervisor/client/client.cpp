#include "supervisor/client/client.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include "base/log.hpp"
#include "supervisor/client/spawn.hpp"
#include "supervisor/client/stream_state.hpp"
#include "supervisor/frame.hpp"

namespace wherry::supervisor {

namespace {

constexpr auto forever = asio::steady_timer::time_point::max();

Error connection_lost() {
    return Error(Code::unavailable, "the connection to the shim is gone");
}

}  // namespace

// The connection: callbacks underneath, so that an idle client holds no buffer and no coroutine.
struct ShimClient::State : std::enable_shared_from_this<ShimClient::State> {
    using Socket = asio::local::stream_protocol::socket;

    struct Pending {
        explicit Pending(const asio::any_io_executor& executor) : signal(executor, forever) {}
        asio::steady_timer signal;
        std::optional<Result<json::object>> result;
    };
    struct Outgoing {
        std::string frame;
        std::size_t sent = 0;
        std::vector<Fd> fds;
    };

    State(asio::any_io_executor executor_in, Fd connected)
        : executor(std::move(executor_in)),
          socket(executor, asio::local::stream_protocol(), connected.release()),
          event_signal(executor, forever) {}

    void start_reading() {
        socket.async_wait(Socket::wait_read, [self = shared_from_this()](const boost::system::error_code& error) {
            if (error) return;
            if (self->receive()) self->start_reading();
        });
    }

    // False: the connection is over.
    bool receive() {
        thread_local std::array<char, 32U << 10U> buffer;
        while (!broken) {
            ssize_t got = ::recv(socket.native_handle(), buffer.data(), buffer.size(), MSG_DONTWAIT);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0 && errno == EAGAIN) return true;
            if (got <= 0) {
                fail_all(connection_lost());
                return false;
            }
            if (auto fed = decoder.feed({buffer.data(), static_cast<std::size_t>(got)}); !fed) {
                fail_all(std::move(fed).error());
                return false;
            }
            while (auto payload = decoder.next()) {
                auto message = parse_message(*payload);
                if (!message) {
                    fail_all(std::move(message).error().context("message from the shim"));
                    return false;
                }
                take(std::move(*message));
            }
        }
        return false;
    }

    void take(Message message) {
        if (message.kind == Message::Kind::event) {
            take_event(message);
            return;
        }
        auto found = pending.find(message.id);
        if (found == pending.end()) return;  // its caller gave up
        std::shared_ptr<Pending> waiting = found->second;
        pending.erase(found);
        if (message.kind == Message::Kind::failure) {
            waiting->result = std::unexpected(error_from_json(JsonReader(message.body)));
        } else {
            waiting->result = std::move(message.body);
        }
        waiting->signal.cancel();
    }

    void take_event(const Message& message) {
        JsonReader reader(message.body, message.name);
        if (message.name == event_name::exit) {
            if (auto event = ExitEvent::parse(reader)) events.emplace_back(std::move(*event));
        } else if (message.name == event_name::oom) {
            if (auto event = OomEvent::parse(reader)) events.emplace_back(std::move(*event));
        }
        // Others are of a newer shim.
        event_signal.cancel();
    }

    void fail_all(const Error& reason) {
        if (broken) return;
        broken = reason.clone();
        boost::system::error_code ignored;
        socket.close(ignored);
        for (auto& [id, waiting] : std::exchange(pending, {})) {
            waiting->result = std::unexpected(reason.clone());
            waiting->signal.cancel();
        }
        outgoing.clear();
        event_signal.cancel();
    }

    void flush() {
        while (!outgoing.empty() && !broken) {
            Outgoing& front = outgoing.front();
            auto sent = send_some(front);
            if (!sent) {
                fail_all(connection_lost());
                return;
            }
            if (!*sent) {
                if (waiting_to_write) return;
                waiting_to_write = true;
                socket.async_wait(Socket::wait_write,
                                  [self = shared_from_this()](const boost::system::error_code& error) {
                                      self->waiting_to_write = false;
                                      if (!error) self->flush();
                                  });
                return;
            }
            if (front.sent == front.frame.size()) outgoing.pop_front();
        }
    }

    // False: the socket takes nothing now.
    Result<bool> send_some(Outgoing& message) {
        iovec piece{message.frame.data() + message.sent, message.frame.size() - message.sent};
        msghdr header{};
        header.msg_iov = &piece;
        header.msg_iovlen = 1;
        alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * max_message_fds)> control{};
        if (!message.fds.empty()) {
            std::vector<int> numbers;
            for (const Fd& fd : message.fds) numbers.push_back(fd.get());
            std::span<const int> values(numbers);
            header.msg_control = control.data();
            header.msg_controllen = CMSG_SPACE(values.size_bytes());
            cmsghdr* rights = CMSG_FIRSTHDR(&header);
            rights->cmsg_level = SOL_SOCKET;
            rights->cmsg_type = SCM_RIGHTS;
            rights->cmsg_len = CMSG_LEN(values.size_bytes());
            // SAFETY: CMSG_DATA points at room for exactly these numbers.
            std::memcpy(CMSG_DATA(rights), values.data(), values.size_bytes());
        }
        ssize_t sent = -1;
        do {
            sent = ::sendmsg(socket.native_handle(), &header, MSG_NOSIGNAL | MSG_DONTWAIT);
        } while (sent < 0 && errno == EINTR);
        if (sent < 0 && errno == EAGAIN) return false;
        if (sent < 0) return fail_errno("send to the shim");
        message.sent += static_cast<std::size_t>(sent);
        message.fds.clear();
        return true;
    }

    asio::any_io_executor executor;
    Socket socket;
    HelloReply server;
    FrameDecoder decoder;
    std::uint64_t next_id = 1;
    std::map<std::uint64_t, std::shared_ptr<Pending>> pending;
    std::deque<Outgoing> outgoing;
    bool waiting_to_write = false;
    std::deque<Event> events;
    asio::steady_timer event_signal;
    std::optional<Error> broken;
};

namespace {

enum class Limit : unsigned char { call_timeout, none };

template <class State>
asio::awaitable<Result<json::object>> call(std::shared_ptr<State> state, std::string_view name, json::object params,
                                           Fd fd = {}, Limit limit = Limit::call_timeout) {
    if (state->broken) co_return std::unexpected(state->broken->clone());
    std::uint64_t id = state->next_id++;
    typename State::Outgoing message;
    message.frame = encode_request(id, name, std::move(params), fd ? 1 : 0);
    if (message.frame.empty()) co_return fail(Code::resource_exhausted, "the request is too large");
    if (fd) message.fds.push_back(std::move(fd));
    auto waiting = std::make_shared<typename State::Pending>(state->executor);
    if (limit == Limit::call_timeout) waiting->signal.expires_after(ShimClient::call_timeout);
    state->pending.emplace(id, waiting);
    state->outgoing.push_back(std::move(message));
    state->flush();
    // An answer that came before this (a broken connection) is not waited for.
    boost::system::error_code error;
    if (!waiting->result) std::tie(error) = co_await waiting->signal.async_wait(tuple);
    if (waiting->result) co_return std::move(*waiting->result);
    state->pending.erase(id);
    if (error) co_return fail(Code::cancelled, std::string(name) + ": cancelled");
    co_return fail(Code::deadline_exceeded, std::string(name) + ": the shim does not answer");
}

template <class T>
Result<T> parsed(Result<json::object> answer, std::string_view name) {
    json::object object = TRY(std::move(answer));
    return T::parse(JsonReader(object, std::string(name)));
}

Result<> emptied(Result<json::object> answer) {
    TRY(std::move(answer));
    return {};
}

json::object reference(std::string container_id, std::string exec_id = {}) {
    return to_json_object(ProcessReference{std::move(container_id), std::move(exec_id)});
}

}  // namespace

ShimClient::ShimClient(std::shared_ptr<State> state) : state_(std::move(state)) {}

ShimClient::~ShimClient() {
    close();
}

namespace {

template <class State>
asio::awaitable<Result<HelloReply>> greet(std::shared_ptr<State> state, Hello hello) {
    hello.client = "wherryd/" WHERRY_VERSION;
    co_return parsed<HelloReply>(co_await call(state, method::hello, to_json_object(hello)), method::hello);
}

}  // namespace

asio::awaitable<Result<std::shared_ptr<ShimClient>>> ShimClient::spawn(asio::any_io_executor executor,
                                                                       SpawnOptions options) {
    CO_TRY(Fd socket, spawn_shim(executor, options), "shim");
    auto state = std::make_shared<State>(executor, std::move(socket));
    std::shared_ptr<ShimClient> client(new ShimClient(state));
    state->start_reading();
    CO_TRY(state->server, co_await greet(state, Hello{}), "greet the shim");
    co_return client;
}

asio::awaitable<Result<std::shared_ptr<ShimClient>>> ShimClient::connect(asio::any_io_executor executor,
                                                                         std::string directory) {
    CO_TRY(Fd socket, connect_unix(directory + "/" + std::string(shim_socket_name), SOCK_NONBLOCK));
    auto state = std::make_shared<State>(executor, std::move(socket));
    std::shared_ptr<ShimClient> client(new ShimClient(state));
    state->start_reading();
    CO_TRY(state->server, co_await greet(state, Hello{}), "greet the shim");
    co_return client;
}

const HelloReply& ShimClient::server() const {
    return state_->server;
}

bool ShimClient::has_feature(std::string_view name) const {
    for (const std::string& feature : state_->server.features) {
        if (feature == name) return true;
    }
    return false;
}

bool ShimClient::alive() const {
    return !state_->broken;
}

void ShimClient::close() {
    state_->fail_all(Error(Code::cancelled, "the connection to the shim was closed"));
}

asio::awaitable<Result<SandboxState>> ShimClient::make_sandbox(SandboxRequest request, Fd netns) {
    auto self = shared_from_this();
    co_return parsed<SandboxState>(co_await call(state_, method::sandbox, to_json_object(request), std::move(netns)),
                                   method::sandbox);
}

asio::awaitable<Result<ContainerState>> ShimClient::create(CreateRequest request, Fd netns) {
    auto self = shared_from_this();
    co_return parsed<ContainerState>(co_await call(state_, method::create, to_json_object(request), std::move(netns)),
                                     method::create);
}

asio::awaitable<Result<ContainerState>> ShimClient::start(std::string container_id) {
    auto self = shared_from_this();
    co_return parsed<ContainerState>(co_await call(state_, method::start, reference(std::move(container_id))),
                                     method::start);
}

asio::awaitable<Result<ContainerState>> ShimClient::run(CreateRequest request, Fd netns) {
    auto self = shared_from_this();
    co_return parsed<ContainerState>(co_await call(state_, method::run, to_json_object(request), std::move(netns)),
                                     method::run);
}

asio::awaitable<Result<ExecState>> ShimClient::exec(ExecRequest request) {
    auto self = shared_from_this();
    co_return parsed<ExecState>(co_await call(state_, method::exec, to_json_object(request)), method::exec);
}

asio::awaitable<Result<>> ShimClient::kill(KillRequest request) {
    auto self = shared_from_this();
    co_return emptied(co_await call(state_, method::kill, to_json_object(request)));
}

asio::awaitable<Result<>> ShimClient::resize(ResizeRequest request) {
    auto self = shared_from_this();
    co_return emptied(co_await call(state_, method::resize, to_json_object(request)));
}

asio::awaitable<Result<ExitStatus>> ShimClient::wait(std::string container_id, std::string exec_id) {
    auto self = shared_from_this();
    co_return parsed<ExitStatus>(
        co_await call(state_, method::wait, reference(std::move(container_id), std::move(exec_id)), {}, Limit::none),
        method::wait);
}

asio::awaitable<Result<>> ShimClient::pause(std::string container_id) {
    auto self = shared_from_this();
    co_return emptied(co_await call(state_, method::pause, reference(std::move(container_id))));
}

asio::awaitable<Result<>> ShimClient::resume(std::string container_id) {
    auto self = shared_from_this();
    co_return emptied(co_await call(state_, method::resume, reference(std::move(container_id))));
}

asio::awaitable<Result<Stats>> ShimClient::stats(std::string container_id) {
    auto self = shared_from_this();
    co_return parsed<Stats>(co_await call(state_, method::stats, reference(std::move(container_id))), method::stats);
}

asio::awaitable<Result<ContainerState>> ShimClient::state(std::string container_id) {
    auto self = shared_from_this();
    co_return parsed<ContainerState>(co_await call(state_, method::state, reference(std::move(container_id))),
                                     method::state);
}

asio::awaitable<Result<SandboxState>> ShimClient::list() {
    auto self = shared_from_this();
    co_return parsed<SandboxState>(co_await call(state_, method::list, {}), method::list);
}

asio::awaitable<Result<>> ShimClient::remove(DeleteRequest request) {
    auto self = shared_from_this();
    co_return emptied(co_await call(state_, method::remove, to_json_object(request)));
}

asio::awaitable<Result<>> ShimClient::remove_exec(std::string container_id, std::string exec_id) {
    auto self = shared_from_this();
    co_return emptied(
        co_await call(state_, method::remove_exec, reference(std::move(container_id), std::move(exec_id))));
}

asio::awaitable<Result<>> ShimClient::update(UpdateRequest request) {
    auto self = shared_from_this();
    co_return emptied(co_await call(state_, method::update, to_json_object(request)));
}

asio::awaitable<Result<>> ShimClient::close_stdin(std::string container_id, std::string exec_id) {
    auto self = shared_from_this();
    co_return emptied(
        co_await call(state_, method::close_stdin, reference(std::move(container_id), std::move(exec_id))));
}

asio::awaitable<Result<>> ShimClient::discard_output(std::string container_id, std::string exec_id) {
    auto self = shared_from_this();
    co_return emptied(
        co_await call(state_, method::discard_output, reference(std::move(container_id), std::move(exec_id))));
}

asio::awaitable<Result<LogProgress>> ShimClient::wait_log(std::string container_id, std::uint64_t after) {
    auto self = shared_from_this();
    LogWaitRequest request{std::move(container_id), after};
    co_return parsed<LogProgress>(co_await call(state_, method::wait_log, to_json_object(request), {}, Limit::none),
                                  method::wait_log);
}

asio::awaitable<Result<>> ShimClient::shutdown() {
    auto self = shared_from_this();
    co_return emptied(co_await call(state_, method::shutdown, {}));
}

asio::awaitable<Result<SandboxState>> ShimClient::subscribe() {
    auto self = shared_from_this();
    co_return parsed<SandboxState>(co_await call(state_, method::subscribe, {}), method::subscribe);
}

asio::awaitable<Result<Event>> ShimClient::next_event() {
    auto self = shared_from_this();
    while (state_->events.empty()) {
        if (state_->broken) co_return std::unexpected(state_->broken->clone());
        state_->event_signal.expires_at(forever);
        co_await state_->event_signal.async_wait(tuple);
        // The signal is given by cancelling the timer; without a reason for it the caller was cancelled.
        if (state_->events.empty() && !state_->broken)
            co_return fail(Code::cancelled, "waiting for an event: cancelled");
    }
    Event event = std::move(state_->events.front());
    state_->events.pop_front();
    co_return event;
}

asio::awaitable<Result<StdioStream>> ShimClient::open_stream(StreamRequest request) {
    auto self = shared_from_this();
    CO_TRY(auto ends, make_socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
    CO_TRY(StreamReply reply,
           parsed<StreamReply>(co_await call(state_, method::stream, to_json_object(request), std::move(ends.second)),
                               method::stream));
    co_return StdioStream(std::make_shared<StdioStream::State>(state_->executor, std::move(ends.first), reply));
}

}  // namespace wherry::supervisor
