// Exec: create, start, json.
#include <array>

#include "api/docker/call.hpp"
#include "api/docker/shapes.hpp"
#include "api/docker/stdio_pump.hpp"

namespace wherry::api::docker {
namespace {

struct ConsoleSize {
    unsigned height = 0;
    unsigned width = 0;
};

// [height, width], or null.
Result<ConsoleSize> console_size(const JsonReader& reader) {
    const json::value* size = reader.find("ConsoleSize");
    if (size == nullptr) return ConsoleSize{};
    if (!size->is_array() || size->get_array().size() != 2)
        return reader.wrong("ConsoleSize", "an array of two numbers");
    unsigned numbers[2] = {};
    for (std::size_t i = 0; i < 2; ++i) {
        const json::value& item = size->get_array()[i];
        if (!item.is_int64() || item.get_int64() < 0 || item.get_int64() > 65535)
            return reader.wrong("ConsoleSize", "numbers from 0 to 65535");
        numbers[i] = static_cast<unsigned>(item.get_int64());
    }
    return ConsoleSize{numbers[0], numbers[1]};
}

Result<engine::ExecSpec> decode_exec(const json::object& body) {
    JsonReader reader(body);
    engine::ExecSpec spec;
    spec.attach_stdin = TRY(reader.boolean_or("AttachStdin", false));
    spec.attach_stdout = TRY(reader.boolean_or("AttachStdout", false));
    spec.attach_stderr = TRY(reader.boolean_or("AttachStderr", false));
    spec.tty = TRY(reader.boolean_or("Tty", false));
    spec.privileged = TRY(reader.boolean_or("Privileged", false));
    spec.user = TRY(reader.string_or("User", ""));
    spec.working_dir = TRY(reader.string_or("WorkingDir", ""));
    spec.detach_keys = TRY(reader.string_or("DetachKeys", ""));
    spec.env = TRY(reader.strings("Env"));
    spec.cmd = TRY(reader.strings("Cmd"));
    ConsoleSize size = TRY(console_size(reader));
    spec.console_height = size.height;
    spec.console_width = size.width;
    if (spec.cmd.empty()) return fail(Code::invalid_argument, "No exec command specified");
    return spec;
}

asio::awaitable<Result<>> create_exec(Call& call) {
    CO_TRY(auto body, co_await call.json_body(Call::Body::required));
    CO_TRY(auto spec, decode_exec(body));
    CO_TRY(auto id, co_await call.engine.containers().exec_create(call.name(), std::move(spec)));
    JsonWriter writer;
    writer.begin_object().member("Id", id).end_object();
    co_return co_await call.send_json(201, std::move(writer));
}

asio::awaitable<Result<>> start_exec(Call& call) {
    CO_TRY(auto body, co_await call.json_body(Call::Body::optional));
    JsonReader reader(body);
    engine::ExecStartOptions options;
    CO_TRY(options.detach, reader.boolean_or("Detach", false));
    CO_TRY(options.tty, reader.boolean("Tty"));
    CO_TRY(auto size, console_size(reader));
    options.console_height = size.height;
    options.console_width = size.width;

    auto& containers = call.engine.containers();
    CO_TRY(auto view, co_await containers.exec_inspect(call.name()));
    if (view.running || view.exit_code)
        co_return fail(Code::conflict,
                       "Error: Exec command " + view.id + (view.running ? " is already running" : " has already run"));
    if (options.detach) {
        CO_TRY(auto none, co_await containers.exec_start(view.id, options));
        static_cast<void>(none);
        co_return co_await call.send_status(200);
    }
    bool terminal = view.spec.tty;
    CO_TRY(auto client, co_await call.exchange.hijack(std::string(stream_content_type(terminal, call.minor))));
    auto session = co_await containers.exec_start(view.id, options);
    if (!session) {
        // The connection is raw by now: what went wrong is told in the stream, and the exit code by exec's json.
        std::string message = session.error().describe() + "\r\n";
        std::string framed;
        if (!terminal) append_frame(framed, engine::StreamId::standard_output, message);
        CO_CHECK(co_await client->write(terminal ? message : framed));
        static_cast<void>(co_await client->shutdown_write());
        co_return std::unexpected(std::move(session).error());
    }
    if (!*session) co_return fail(Code::internal, "exec has no streams");
    co_return co_await pump_stdio(std::move(*session), std::move(client),
                                  view.spec.attach_stdin ? Input::forwarded : Input::none);
}

asio::awaitable<Result<>> inspect_exec(Call& call) {
    CO_TRY(auto view, co_await call.engine.containers().exec_inspect(call.name()));
    JsonWriter writer;
    write_exec(writer, view);
    co_return co_await call.send_json(200, std::move(writer));
}

}  // namespace

std::span<const Route> exec_routes() {
    static constexpr std::array routes = {
        Route{"POST", "/containers/{name}/exec", create_exec},
        Route{"POST", "/exec/{name}/start", start_exec},
        Route{"GET", "/exec/{name}/json", inspect_exec},
    };
    return routes;
}

}  // namespace wherry::api::docker
