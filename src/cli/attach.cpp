#include "cli/attach.hpp"

#include <unistd.h>

namespace wherry::cli {

Result<DetachKeys> detach_keys(Session& session, const ParsedOptions& options) {
    DetachKeys keys;
    keys.text = options.text("detach-keys");
    if (keys.text.empty()) keys.text = session.configured("detachKeys");
    keys.bytes = TRY(parse_detach_keys(keys.text.empty() ? default_detach_keys : std::string_view(keys.text)));
    return keys;
}

Result<AttachedTerminal> AttachedTerminal::prepare(const AttachPlan& plan) {
    if (plan.terminal && plan.input && ::isatty(STDIN_FILENO) != 1)
        return fail(Code::invalid_argument, "the input device is not a TTY");
    AttachedTerminal terminal;
    terminal.wants_raw_ = plan.terminal && plan.input;
    terminal.wants_resizes_ = plan.terminal;
    terminal.wants_signals_ = plan.proxy_signals;
    return terminal;
}

Result<> AttachedTerminal::catch_signals() {
    if (!signals_ && (wants_resizes_ || wants_signals_)) signals_.emplace(TRY(SignalInbox::open(wants_signals_)));
    return {};
}

void AttachedTerminal::restore() {
    raw_.reset();
    signals_.reset();
}

Result<> AttachedTerminal::enter_raw_mode() {
    if (wants_raw_ && !raw_) raw_ = std::make_unique<RawMode>(TRY(RawMode::enter(STDIN_FILENO)));
    return {};
}

Result<http::ClientResponse> open_stream(Session& session, std::string target, std::string body) {
    http::ClientRequest request{.method = "POST", .target = std::move(target), .upgrade = true};
    request.content_type = "application/json";
    request.body = std::move(body);
    return session.checked(request);
}

Result<PumpEnd> pump_attached(Session& session, http::ClientResponse& response, const AttachPlan& plan,
                              AttachedTerminal& terminal) {
    http::RawStream stream = TRY(response.take_stream());
    auto resize = [&] {
        if (auto size = window_size(); size && plan.resize) plan.resize(*size);
    };
    if (plan.terminal) resize();
    PumpOptions options;
    options.terminal = plan.terminal;
    options.input = plan.input;
    options.can_poll = !session.encrypted();
    options.detach_keys = plan.detach_keys;
    if (plan.terminal) options.on_resize = resize;
    options.on_signal = [&](int number) {
        if (plan.signal) plan.signal(signal_name(number));
    };
    session.flush();
    return pump(stream, options, terminal.signals());
}

int start_failure_code(const Error& error) {
    std::string text = error.describe();
    auto has = [&](std::string_view part) { return text.find(part) != std::string::npos; };
    if (has("executable file not found") || has("no such file or directory") || has("No such file or directory") ||
        has("system cannot find the file specified"))
        return 127;
    if (has("permission denied") || has("Permission denied") || has("is a directory") || has("Is a directory") ||
        has("exec format error") || has("not a directory"))
        return 126;
    return 125;
}

void resize_container(Session& session, const std::string& id, WindowSize size) {
    // A container that is already gone needs no size.
    [[maybe_unused]] auto resized =
        session.post("/containers/" + id + "/resize" +
                     QueryText().add("h", std::to_string(size.rows)).add("w", std::to_string(size.columns)).text());
}

void signal_container(Session& session, const std::string& id, std::string_view signal) {
    if (!signal.empty()) [[maybe_unused]]
        auto sent = session.post("/containers/" + id + "/kill" + QueryText().add("signal", signal).text());
}

}  // namespace wherry::cli
