// The API's socket and its thread, "fc_api": reads requests, parses them, has the device thread carry them out, and
// answers. One request at a time, as the controller takes them; clients may keep their connections.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/api/controller.hpp"
#include "vmm/core/event_loop.hpp"
#include "vmm/core/http.hpp"

namespace wherry::vmm::api {

class Server {
  public:
    struct Setup {
        std::string socket_path;
        std::size_t payload_limit = 51200;
        std::function<Result<>()> confine;  // on the API's thread, before its first request
    };
    // Listens; already_exists when something is at the path. `controller` and `loop` must outlive the process' work:
    // the thread is never joined.
    static Result<std::unique_ptr<Server>> create(Setup setup, EventLoop& loop, Controller& controller);
    void start();
    // At the end of the process: waits shortly for the answer that is being sent, and takes the socket away.
    void finish();

  private:
    struct Client {
        Fd socket;
        HttpParser parser;
    };
    Server(Setup setup, EventLoop& loop, Controller& controller)
        : setup_(std::move(setup)), loop_(loop), controller_(controller) {}
    void run();
    bool serve(Client& client);  // false: the connection is over
    HttpResponse handle(const HttpRequest& request);

    Setup setup_;
    EventLoop& loop_;
    Controller& controller_;
    Fd listener_;
    std::mutex mutex_;
    std::condition_variable idle_;
    bool busy_ = false;  // guarded by mutex_: a request is between its arrival and its answer
    std::vector<std::unique_ptr<Client>> clients_;
};

// What a refused request answers; one switch for the whole protocol.
int status_of(Code code);

}  // namespace wherry::vmm::api
