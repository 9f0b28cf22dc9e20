#include "supervisor/server.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include "base/log.hpp"

namespace wherry::supervisor {

namespace {

const std::vector<std::string>& features() {
    static const std::vector<std::string> names{"run",      "stream-fd",    "oom-events",
                                                "wait-log", "log-compress", "sandbox"};
    return names;
}

}  // namespace

Server::Server(EventLoop& loop, std::span<char> scratch, ServerOptions options)
    : loop_(loop),
      scratch_(scratch),
      options_(std::move(options)),
      surroundings_{loop_, scratch_, *this},
      started_at_(wall_now()) {}

Server::~Server() {
    // Streams refer to hubs of containers, and containers announce to connections.
    containers_.clear();
    streams_.clear();
    connections_.clear();
}

Result<> Server::adopt_connection(Fd socket) {
    std::uint64_t id = next_connection_++;
    connections_.emplace(id, TRY(ControlConnection::create(loop_, *this, scratch_, std::move(socket), id)));
    return {};
}

Result<> Server::listen() {
    listener_ = TRY(listen_unix(options_.directory + "/" + std::string(shim_socket_name), 0600));
    listener_watch_ = TRY(loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_connections(); }));
    return {};
}

void Server::accept_connections() {
    while (true) {
        Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!socket) return;
        if (auto adopted = adopt_connection(std::move(socket)); !adopted)
            log_warn("server.accept_failed", {{"error", adopted.error()}});
    }
}

void Server::on_message(ControlConnection& connection, Message message, std::vector<Fd> fds) {
    Call call{connection, message.id, JsonReader(message.body, message.name), fds};
    Answer answer = dispatch(message.name, call);
    if (connection.closed()) return;
    if (!answer) {
        connection.send(encode_failure(message.id, answer.error()));
    } else if (*answer) {
        connection.send(encode_answer(message.id, std::move(**answer)));
    }
}

void Server::on_closed(ControlConnection& connection) {
    loop_.defer([this, id = connection.id()] {
        connections_.erase(id);
        end_if_unused();
    });
}

void Server::answer_later(std::uint64_t connection, std::uint64_t id, Result<json::object> result) {
    auto found = connections_.find(connection);
    if (found == connections_.end()) return;
    found->second->send(result ? encode_answer(id, std::move(*result)) : encode_failure(id, result.error()));
}

void Server::broadcast(std::string_view frame) {
    for (auto& [id, connection] : connections_) {
        if (connection->subscribed) connection->send(frame);
    }
}

void Server::on_exit(const ExitEvent& event) {
    broadcast(encode_event(event_name::exit, to_json_object(event)));
}

void Server::on_oom(const OomEvent& event) {
    broadcast(encode_event(event_name::oom, to_json_object(event)));
}

Result<SupervisedContainer*> Server::find(const std::string& container_id) {
    auto found = containers_.find(container_id);
    if (found == containers_.end()) return fail(Code::not_found, "no such container: " + container_id);
    return found->second.get();
}

Server::Answer Server::dispatch(const std::string& name, Call& call) {
    if (name == method::hello) return hello(call);
    if (ending_) return fail(Code::unavailable, "the supervisor is ending");
    if (name == method::run) return run(call);
    if (name == method::create) return create(call);
    if (name == method::sandbox) return sandbox(call);
    if (name == method::start) return start(call);
    if (name == method::exec) return exec(call);
    if (name == method::stream) return stream(call);
    if (name == method::wait) return wait(call);
    if (name == method::wait_log) return wait_log(call);
    if (name == method::remove) return remove(call);
    if (name == method::subscribe) return subscribe(call);
    if (name == method::shutdown) return shutdown(call);
    if (name == method::list) return to_json_object(sandbox_state());
    if (name == method::kill) {
        KillRequest request = TRY(KillRequest::parse(call.params));
        TRY(TRY(find(request.container_id))->kill(request));
        return json::object();
    }
    if (name == method::resize) {
        ResizeRequest request = TRY(ResizeRequest::parse(call.params));
        TRY(TRY(TRY(find(request.container_id))->process(request.exec_id))->resize(request.width, request.height));
        return json::object();
    }
    if (name == method::update) {
        UpdateRequest request = TRY(UpdateRequest::parse(call.params));
        TRY(TRY(find(request.container_id))->update(request));
        return json::object();
    }
    bool known = name == method::state || name == method::stats || name == method::pause || name == method::resume ||
                 name == method::remove_exec || name == method::close_stdin || name == method::discard_output;
    if (!known) return fail(Code::unimplemented, "unknown method: " + name);
    ProcessReference reference = TRY(ProcessReference::parse(call.params));
    SupervisedContainer* container = TRY(find(reference.container_id));
    if (name == method::state) return to_json_object(container->state());
    if (name == method::stats) return to_json_object(TRY(container->stats()));
    if (name == method::pause) TRY(container->pause());
    if (name == method::resume) TRY(container->resume());
    if (name == method::remove_exec) TRY(container->remove_exec(reference.exec_id));
    if (name == method::close_stdin) {
        SupervisedProcess* process = TRY(container->process(reference.exec_id));
        if (process->input()) process->input()->end();
    }
    if (name == method::discard_output) TRY(container->process(reference.exec_id))->output().discard();
    return json::object();
}

Server::Answer Server::hello(Call& call) {
    Hello request = TRY(Hello::parse(call.params));
    if (!request.directory.empty() && options_.directory.empty()) {
        options_.directory = std::move(request.directory);
        options_.sandbox_id = std::move(request.sandbox_id);
        if (auto listening = listen(); !listening) {
            options_.directory.clear();
            return std::unexpected(std::move(listening).error());
        }
    }
    call.connection.greeted = true;
    HelloReply reply;
    reply.software = options_.software;
    reply.features = features();
    reply.sandbox_id = options_.sandbox_id;
    reply.pid = ::getpid();
    reply.started_at = started_at_;
    return to_json_object(reply);
}

Result<SupervisedContainer*> Server::make_container(Call& call) {
    CreateRequest request = TRY(CreateRequest::parse(call.params));
    if (containers_.contains(request.container_id))
        return fail(Code::already_exists, "container " + request.container_id + " exists");
    if (containers_.size() >= max_containers)
        return fail(Code::resource_exhausted, "too many containers in the sandbox");
    if (!call.fds.empty()) namespaces_.keep_network(std::move(call.fds.front()));
    std::string id = request.container_id;
    auto container = TRY(SupervisedContainer::create(surroundings_, std::move(request), namespaces_));
    SupervisedContainer* raw = container.get();
    containers_.emplace(std::move(id), std::move(container));
    had_containers_ = true;
    return raw;
}

Server::Answer Server::sandbox(Call& call) {
    SandboxRequest request = TRY(SandboxRequest::parse(call.params));
    if (is_sandbox_) return fail(Code::conflict, "the sandbox has its namespaces already");
    if (!containers_.empty()) return fail(Code::conflict, "the sandbox has a container already");
    if (!call.fds.empty()) namespaces_.keep_network(std::move(call.fds.front()));
    TRY(namespaces_.make(request, options_.directory));
    is_sandbox_ = true;
    return to_json_object(sandbox_state());
}

Server::Answer Server::create(Call& call) {
    return to_json_object(TRY(make_container(call))->state());
}

Server::Answer Server::start(Call& call) {
    ProcessReference reference = TRY(ProcessReference::parse(call.params));
    SupervisedContainer* container = TRY(find(reference.container_id));
    TRY(container->start());
    return to_json_object(container->state());
}

Server::Answer Server::run(Call& call) {
    SupervisedContainer* container = TRY(make_container(call));
    if (auto started = container->start(); !started) {
        containers_.erase(std::string(container->id()));
        return std::unexpected(std::move(started).error());
    }
    return to_json_object(container->state());
}

Server::Answer Server::exec(Call& call) {
    ExecRequest request = TRY(ExecRequest::parse(call.params));
    SupervisedContainer* container = TRY(find(request.container_id));
    return to_json_object(TRY(container->exec(std::move(request))));
}

Server::Answer Server::wait(Call& call) {
    ProcessReference reference = TRY(ProcessReference::parse(call.params));
    SupervisedProcess* process = TRY(TRY(find(reference.container_id))->process(reference.exec_id));
    process->wait_exit([this, connection = call.connection.id(), id = call.id](const ExitStatus& status) {
        answer_later(connection, id, to_json_object(status));
    });
    return std::nullopt;
}

Server::Answer Server::wait_log(Call& call) {
    LogWaitRequest request = TRY(LogWaitRequest::parse(call.params));
    SupervisedContainer* container = TRY(find(request.container_id));
    SupervisedProcess* process = TRY(container->process({}));
    OutputHub* hub = &process->output();
    hub->wait_log(request.after, [this, hub, connection = call.connection.id(), id = call.id] {
        LogProgress progress{hub->log_entries(), hub->ended()};
        answer_later(connection, id, to_json_object(progress));
    });
    return std::nullopt;
}

Server::Answer Server::remove(Call& call) {
    DeleteRequest request = TRY(DeleteRequest::parse(call.params));
    SupervisedContainer* container = TRY(find(request.container_id));
    if (container->ended()) {
        erase_container(request.container_id);
        return json::object();
    }
    if (!request.force) return fail(Code::conflict, "the container is running");
    KillRequest kill;
    kill.container_id = request.container_id;
    kill.signal = SIGKILL;
    static_cast<void>(container->kill(kill));
    SupervisedProcess* process = TRY(container->process({}));
    process->wait_exit([this, container_id = request.container_id, connection = call.connection.id(),
                        id = call.id](const ExitStatus&) {
        // From the loop: the container is still on the stack.
        loop_.defer([this, container_id, connection, id] {
            if (containers_.contains(container_id)) erase_container(container_id);
            answer_later(connection, id, json::object());
        });
    });
    return std::nullopt;
}

void Server::erase_container(const std::string& container_id) {
    auto found = containers_.find(container_id);
    found->second->prepare_removal();
    containers_.erase(found);
    loop_.defer([this] { end_if_unused(); });
}

Server::Answer Server::subscribe(Call& call) {
    call.connection.subscribed = true;
    return to_json_object(sandbox_state());
}

SandboxState Server::sandbox_state() const {
    SandboxState state;
    state.sandbox_id = options_.sandbox_id;
    state.pid = ::getpid();
    state.netns_fd = namespaces_.network();
    for (const auto& [id, container] : containers_) state.containers.push_back(container->state());
    return state;
}

Server::Answer Server::stream(Call& call) {
    StreamRequest request = TRY(StreamRequest::parse(call.params));
    SupervisedProcess* process = TRY(TRY(find(request.container_id))->process(request.exec_id));
    if (request.want_stdin && !process->stdin_open() && !process->terminal())
        return fail(Code::conflict, "the process was started without stdin");
    if (process->terminal()) {
        request.want_stdout = request.want_stdout || request.want_stderr;
        request.want_stderr = false;
    }
    bool own_socket = call.fds.empty();
    std::string rest;
    Fd socket = own_socket ? call.connection.release(rest) : std::move(call.fds.front());
    auto created = StreamConnection::create(
        loop_, scratch_, std::move(socket), process->shared_output(), request.want_stdin ? process->input() : nullptr,
        [this](StreamConnection& closed) {
            std::erase_if(streams_, [&](const auto& stream) { return stream.get() == &closed; });
            end_if_unused();
        });
    std::unique_ptr<StreamConnection> stream = TRY(std::move(created));
    OutputInterest interest;
    interest.wanted = {request.want_stdout, request.want_stderr};
    interest.from = {request.stdout_offset, request.stderr_offset};
    StreamConnection& connection = *stream;
    streams_.push_back(std::move(stream));
    StreamOffsets offsets = connection.begin(interest);
    StreamReply reply{offsets[0], offsets[1], process->terminal()};
    if (!own_socket) return to_json_object(reply);
    connection.send_raw(encode_answer(call.id, to_json_object(reply)));
    connection.take_received(rest);
    return std::nullopt;
}

Server::Answer Server::shutdown(Call& call) {
    ending_ = true;
    std::uint64_t connection = call.connection.id();
    std::uint64_t id = call.id;
    auto left = std::make_shared<std::size_t>(1);
    auto one_less = [this, left, connection, id] {
        if (--*left > 0) return;
        loop_.defer([this, connection, id] {
            for (auto& [name, container] : containers_) container->prepare_removal();
            containers_.clear();
            answer_later(connection, id, json::object());
            end_if_unused();
        });
    };
    for (auto& [name, container] : containers_) {
        if (container->ended()) continue;
        ++*left;
        KillRequest kill;
        kill.container_id = name;
        kill.signal = SIGKILL;
        static_cast<void>(container->kill(kill));
        if (auto process = container->process({})) (*process)->wait_exit([one_less](const ExitStatus&) { one_less(); });
    }
    one_less();
    return std::nullopt;
}

// Ends the loop once nothing is left to do: the last container is deleted (or shutdown was asked for), or nobody who
// could create one is connected any more. Streams that still have output to deliver are waited for.
void Server::end_if_unused() {
    if (!containers_.empty()) return;
    if ((!had_containers_ || is_sandbox_) && !ending_ && !connections_.empty()) return;
    if (listener_) {
        listener_watch_.reset();
        listener_.reset();
        ::unlink((options_.directory + "/" + std::string(shim_socket_name)).c_str());
    }
    ending_ = true;
    bool pending = std::ranges::any_of(streams_, [](const auto& stream) { return stream->output_pending(); });
    if (!pending) loop_.stop();
}

void Server::reap_children() {
    while (true) {
        int wait_status = 0;
        pid_t pid = ::waitpid(-1, &wait_status, WNOHANG);
        if (pid < 0 && errno == EINTR) continue;
        if (pid <= 0) return;
        for (auto& [id, container] : containers_) {
            if (container->child_ended(pid, wait_status)) break;
        }
    }
}

}  // namespace wherry::supervisor
