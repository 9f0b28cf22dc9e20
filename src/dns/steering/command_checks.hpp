// Health checks that are commands run in a process of their own, forked before the server gives up its rights: the
// server itself may then start no program. The process reads the configuration for itself and runs the commands that
// stand there, nothing else that it is asked for.
//
//     auto checks = TRY(CommandChecks::start([] { return leave_privileges(); }, [] { return commands_of(...); }));
//     Result<> healthy = checks->run({"/usr/bin/check", "web"}, 2s);
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::dns::steering {

using Command = std::vector<std::string>;

class CommandChecks {
  public:
    // Forks: one thread may be running. `prepare` is called in the new process, once; `read` there too, at the start
    // and with each reload(): the commands that may be run. The process ends with this object, or its process.
    static Result<std::shared_ptr<CommandChecks>> start(const std::function<Result<>()>& prepare,
                                                        const std::function<Result<std::vector<Command>>()>& read);

    // Nothing when it ended with 0 within `timeout`, else what was wrong. Blocks that long. Thread-safe.
    Result<> run(const Command& command, std::chrono::milliseconds timeout) const;
    // The configuration is read again; an error there keeps the commands as they are.
    Result<> reload() const;
    int socket() const { return socket_.get(); }  // for other children to close

  private:
    explicit CommandChecks(Fd socket) : socket_(std::move(socket)) {}
    Result<> ask(std::string_view request, std::chrono::milliseconds timeout) const;
    Fd socket_;
};

}  // namespace wherry::dns::steering
