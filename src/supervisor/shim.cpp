#include "supervisor/shim.hpp"

#include <fcntl.h>

#include <charconv>
#include <string>

#include "base/fd.hpp"
#include "base/log.hpp"
#include "supervisor/event_loop.hpp"
#include "supervisor/server.hpp"
#include "supervisor/surroundings.hpp"

namespace wherry::supervisor {

namespace {

struct Arguments {
    int control_fd = -1;
    std::string directory;
    std::string sandbox_id;
};

Result<Arguments> parse_arguments(std::span<char*> arguments) {
    Arguments parsed;
    for (std::size_t i = 1; i < arguments.size(); i += 2) {
        std::string_view name = arguments[i];
        if (i + 1 >= arguments.size()) return fail(Code::invalid_argument, "value missing after " + std::string(name));
        std::string_view value = arguments[i + 1];
        if (name == "--control-fd") {
            auto [rest, error] = std::from_chars(value.data(), value.data() + value.size(), parsed.control_fd);
            if (error != std::errc() || rest != value.data() + value.size() || parsed.control_fd < 0)
                return fail(Code::invalid_argument, "--control-fd: not a descriptor");
        } else if (name == "--directory") {
            parsed.directory = value;
        } else if (name == "--sandbox-id") {
            parsed.sandbox_id = value;
        } else {
            return fail(Code::invalid_argument, "unknown option: " + std::string(name));
        }
    }
    if (parsed.control_fd < 0 && parsed.directory.empty())
        return fail(Code::invalid_argument, "--control-fd or --directory is needed");
    return parsed;
}

Result<> serve(const Arguments& arguments, std::string_view software) {
    TRY(become_supervisor("wherry-shim"));
    std::span<char> scratch = TRY(map_scratch());
    std::unique_ptr<EventLoop> loop = TRY(EventLoop::create());
    ServerOptions options{std::string(software), arguments.sandbox_id, arguments.directory};
    Server server(*loop, scratch, std::move(options));
    ChildWatch children;
    TRY(children.begin(*loop, [&server] { server.reap_children(); }));
    if (!arguments.directory.empty()) TRY(server.listen());
    if (arguments.control_fd >= 0) {
        if (::fcntl(arguments.control_fd, F_SETFD, FD_CLOEXEC) < 0) return fail_errno("control descriptor");
        TRY(server.adopt_connection(Fd(arguments.control_fd)));
    }
    MemoryReturner memory(scratch);
    loop->set_idle_callback(idle_delay, [&memory] { memory.run(); });
    loop->run();
    return {};
}

}  // namespace

int run_shim(std::span<char*> arguments, std::string_view software) {
    auto parsed = parse_arguments(arguments);
    if (!parsed) {
        log_error("shim.usage", {{"error", parsed.error()}});
        return 2;
    }
    if (auto served = serve(*parsed, software); !served) {
        log_error("shim.failed", {{"error", served.error()}});
        return 1;
    }
    return 0;
}

}  // namespace wherry::supervisor
