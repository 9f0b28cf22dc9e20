// The supervisor's side of the protocol: accepts connections, dispatches requests, keeps the containers of one sandbox.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "supervisor/connection.hpp"
#include "supervisor/container.hpp"
#include "supervisor/event_loop.hpp"

namespace wherry::supervisor {

struct ServerOptions {
    std::string software;    // "wherry-shim/0.1.0"
    std::string sandbox_id;  // both may be empty: then the first hello brings them
    std::string directory;
};

class Server final : public MessageHandler, public ContainerObserver {
  public:
    static constexpr std::size_t max_containers = 256;

    Server(EventLoop& loop, std::span<char> scratch, ServerOptions options);
    ~Server() override;

    // A connection that was inherited or made by other means.
    Result<> adopt_connection(Fd socket);
    // <directory>/shim.sock, mode 0600.
    Result<> listen();
    // Reaps every child that has ended.
    void reap_children();

    void on_message(ControlConnection& connection, Message message, std::vector<Fd> fds) override;
    void on_closed(ControlConnection& connection) override;
    void on_exit(const ExitEvent& event) override;
    void on_oom(const OomEvent& event) override;

  private:
    struct Call {
        ControlConnection& connection;
        std::uint64_t id;
        JsonReader params;
        std::vector<Fd>& fds;
    };
    // nullopt: the answer comes later.
    using Answer = Result<std::optional<json::object>>;

    void accept_connections();
    Answer dispatch(const std::string& name, Call& call);
    Answer hello(Call& call);
    Answer sandbox(Call& call);
    Answer create(Call& call);
    Answer start(Call& call);
    Answer run(Call& call);
    Answer exec(Call& call);
    Answer wait(Call& call);
    Answer remove(Call& call);
    Answer wait_log(Call& call);
    Answer subscribe(Call& call);
    Answer stream(Call& call);
    Answer shutdown(Call& call);

    Result<SupervisedContainer*> find(const std::string& container_id);
    Result<SupervisedContainer*> make_container(Call& call);
    void erase_container(const std::string& container_id);
    SandboxState sandbox_state() const;
    void answer_later(std::uint64_t connection, std::uint64_t id, Result<json::object> result);
    void broadcast(std::string_view frame);
    void end_if_unused();

    EventLoop& loop_;
    std::span<char> scratch_;
    ServerOptions options_;
    Surroundings surroundings_;
    WallTime started_at_;
    Fd listener_;
    Watch listener_watch_;
    SandboxNamespaces namespaces_;
    std::uint64_t next_connection_ = 1;
    std::map<std::uint64_t, std::unique_ptr<ControlConnection>> connections_;
    std::vector<std::unique_ptr<StreamConnection>> streams_;
    std::map<std::string, std::unique_ptr<SupervisedContainer>> containers_;
    bool had_containers_ = false;
    bool is_sandbox_ = false;  // it stays without containers while somebody is connected
    bool ending_ = false;
};

}  // namespace wherry::supervisor
