// wherryd's flags and its configuration file: dockerd's names for what dockerd has too.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "base/result.hpp"
#include "engine/engine.hpp"

namespace wherry::daemon {

struct Options {
    std::vector<std::string> hosts;  // empty: the default socket
    std::string pidfile;
    LogLevel log_level = LogLevel::info;
    std::string group;
    bool tls = false;
    bool tls_verify = false;
    std::string tls_ca;
    std::string tls_certificate;
    std::string tls_key;
    std::chrono::seconds shutdown_timeout{15};
    engine::EngineOptions engine;

    enum class Action : std::uint8_t { run, help, version, validate };
    Action action = Action::run;
};

inline constexpr const char* default_host = "unix:///run/wherry/wherry.sock";

// From the command line and the file it names (or /etc/wherry/daemon.json where there is one). invalid_argument with
// dockerd's words; a setting given in both places is one of them.
Result<Options> read_options(const std::vector<std::string>& arguments);
std::string help_text();

}  // namespace wherry::daemon
