// What run, start -a, attach and exec share: the user's side of a container's streams.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "cli/options.hpp"
#include "cli/session.hpp"
#include "cli/stream.hpp"
#include "cli/terminal.hpp"

namespace wherry::cli {

inline constexpr std::string_view default_detach_keys = "ctrl-p,ctrl-q";

struct AttachPlan {
    bool terminal = false;
    bool input = false;
    bool proxy_signals = true;
    std::string detach_keys;                       // bytes
    std::function<void(WindowSize)> resize;        // of the container's terminal
    std::function<void(std::string_view)> signal;  // a proxied signal's name
};

// --detach-keys, or detachKeys of the configuration, or Docker's default: bytes, and the text to hand to the daemon
// (empty when it is the default).
struct DetachKeys {
    std::string bytes;
    std::string text;
};
Result<DetachKeys> detach_keys(Session& session, const ParsedOptions& options);

// The user's terminal set up for a plan: signals caught, raw mode. Undone by restore() or when this goes.
class AttachedTerminal {
  public:
    // Fails with "the input device is not a TTY" where the plan needs one. Changes nothing yet.
    static Result<AttachedTerminal> prepare(const AttachPlan& plan);
    // From here on signals are for the container; to be called before it is started, so that none is lost.
    Result<> catch_signals();
    // Raw mode from here on (only with a terminal and input).
    Result<> enter_raw_mode();
    SignalInbox* signals() { return signals_ ? &*signals_ : nullptr; }
    // The terminal as it was, and signals are ours again.
    void restore();

  private:
    std::optional<SignalInbox> signals_;
    std::unique_ptr<RawMode> raw_;
    bool wants_raw_ = false;
    bool wants_resizes_ = false;
    bool wants_signals_ = false;
};

// Moves bytes until the end or detachment. With a terminal the container's is resized to ours first.
Result<PumpEnd> pump_attached(Session& session, http::ClientResponse& response, const AttachPlan& plan,
                              AttachedTerminal& terminal);

// POST with Upgrade: the response whose stream is to be pumped; an error status is the error.
Result<http::ClientResponse> open_stream(Session& session, std::string target, std::string body = {});

// What `docker run` ends with when the daemon could not start the process: 127 not found, 126 not executable, else 125.
int start_failure_code(const Error& error);

void resize_container(Session& session, const std::string& id, WindowSize size);
void signal_container(Session& session, const std::string& id, std::string_view signal);

}  // namespace wherry::cli
