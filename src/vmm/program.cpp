#include "vmm/program.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <charconv>
#include <memory>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/log.hpp"
#include "vmm/api/controller.hpp"
#include "vmm/api/request.hpp"
#include "vmm/api/server.hpp"
#include "vmm/core/event_loop.hpp"
#include "vmm/core/exit_code.hpp"
#include "vmm/core/logger.hpp"
#include "vmm/core/metrics.hpp"
#include "vmm/core/seccomp_filter.hpp"
#include "vmm/snapshot/file.hpp"

namespace wherry::vmm {
namespace {

constexpr std::string_view usage = "wherry-vmm " WHERRY_VERSION R"(: a microVM monitor with Firecracker's API

  --api-sock PATH                      socket of the API (/run/firecracker.socket)
  --id ID                              name of the machine (anonymous-instance)
  --config-file PATH                   configuration to start with
  --no-api                             no API; needs --config-file
  --metadata PATH                      first contents of the metadata service
  --no-seccomp | --seccomp-filter PATH no filters, or those of a JSON file
  --log-path PATH --level LEVEL --module NAME --show-level --show-log-origin
  --metrics-path PATH                  metrics as lines of JSON
  --enable-pci                         devices are PCI functions instead of virtio-mmio, and can be plugged and
                                       unplugged while the guest runs
  --boot-timer                         log how long the guest took to boot
  --http-api-max-payload-size BYTES    (51200)
  --mmds-size-limit BYTES              (the same)
  --snapshot-version                   the version of snapshots that this program writes and reads
  --describe-snapshot PATH             the version of a snapshot's state file
  --start-time-us N --start-time-cpu-us N --parent-cpu-time-us N
  --version --help
)";

// SAFETY (to install_signal_handlers()): async-signal-safe calls only.
void write_error(std::string_view text) {
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
}

// A short text in a handler.
class SignalText {
  public:
    SignalText& add(std::string_view text) {
        for (const char c : text.substr(0, text_.size() - size_)) text_[size_++] = c;
        return *this;
    }
    SignalText& add(int number) {
        std::array<char, 12> digits = {};
        return add({digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr});
    }
    std::string_view text() const { return {text_.data(), size_}; }

  private:
    std::array<char, 128> text_ = {};
    std::size_t size_ = 0;
};

// The rest of the process may be in any state: what is written was prepared.
[[noreturn]] void end_by_signal(const SignalText& why, ExitCode code) {
    write_error(why.text());
    log_from_signal(why.text());
    LastMetrics::write_from_signal();
    _exit(static_cast<int>(code));
}

void on_bad_system_call(int, siginfo_t* info, void*) {
    signal_metrics().seccomp_faults.add();
    end_by_signal(
        SignalText().add("Shutting down VM after intercepting a bad syscall (").add(info->si_syscall).add(").\n"),
        ExitCode::bad_system_call);
}

struct FatalSignal {
    int number;
    ExitCode code;
    Counter SignalMetrics::* counter;
};
constexpr std::array fatal_signals = {
    FatalSignal{SIGBUS, ExitCode::sigbus, &SignalMetrics::sigbus},
    FatalSignal{SIGSEGV, ExitCode::sigsegv, &SignalMetrics::sigsegv},
    FatalSignal{SIGXFSZ, ExitCode::sigxfsz, &SignalMetrics::sigxfsz},
    FatalSignal{SIGXCPU, ExitCode::sigxcpu, &SignalMetrics::sigxcpu},
    FatalSignal{SIGHUP, ExitCode::sighup, &SignalMetrics::sighup},
    FatalSignal{SIGILL, ExitCode::sigill, &SignalMetrics::sigill},
};

void on_fatal(int signal, siginfo_t* info, void*) {
    ExitCode code = ExitCode::unexpected_error;
    for (const FatalSignal& fatal : fatal_signals) {
        if (fatal.number != signal) continue;
        (signal_metrics().*fatal.counter).add();
        code = fatal.code;
    }
    end_by_signal(SignalText()
                      .add("Shutting down VM after intercepting signal ")
                      .add(signal)
                      .add(", code ")
                      .add(info->si_code)
                      .add(".\n"),
                  code);
}

// Whoever wrote hears of it by EPIPE.
void on_broken_pipe(int, siginfo_t*, void*) {
    signal_metrics().sigpipe.add();
}

void install_signal_handlers() {
    signal_metrics();  // made here, not in a handler
    struct sigaction action = {};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = on_bad_system_call;
    sigaction(SIGSYS, &action, nullptr);
    action.sa_sigaction = on_fatal;
    for (const FatalSignal& fatal : fatal_signals) sigaction(fatal.number, &action, nullptr);
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    action.sa_sigaction = on_broken_pipe;
    sigaction(SIGPIPE, &action, nullptr);
}

// A stack of the usual 8 MiB holds room for a huge page, which its first touch would take where those are always on.
void use_small_stacks() {
    constexpr std::size_t stack_bytes = 512U << 10U;
    pthread_attr_t attributes = {};
    if (pthread_attr_init(&attributes) != 0) return;
    if (pthread_attr_setstacksize(&attributes, stack_bytes) == 0) pthread_setattr_default_np(&attributes);
    pthread_attr_destroy(&attributes);
}

// A terminal as stdin is the guest's keyboard: raw while the machine runs.
class RawTerminal {
  public:
    RawTerminal() {
        if (isatty(STDIN_FILENO) == 0 || tcgetattr(STDIN_FILENO, &before_) != 0) return;
        termios raw = before_;
        cfmakeraw(&raw);
        raw.c_oflag |= OPOST;  // lines of the log stay lines
        is_changed_ = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
    }
    ~RawTerminal() {
        if (is_changed_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
    }
    RawTerminal(const RawTerminal&) = delete;
    RawTerminal& operator=(const RawTerminal&) = delete;

  private:
    termios before_ = {};
    bool is_changed_ = false;
};

std::int64_t clock_us(clockid_t clock) {
    timespec time = {};
    clock_gettime(clock, &time);
    return time.tv_sec * 1'000'000 + time.tv_nsec / 1000;
}

int complain(const Error& error, ExitCode code) {
    log_line(LogLevel::error, error.describe());
    write_error(fmt::format("Error: {}\n", error.describe()));
    return static_cast<int>(code);
}

Result<> configure_from_flags(const Options& options) {
    LoggerConfig config;
    config.path = options.log_path;
    if (options.level) config.level = TRY(parse_logger_level(*options.level));
    if (options.show_level) config.show_level = true;
    if (options.show_log_origin) config.show_origin = true;
    config.module = options.module;
    return configure_logger(config);
}

Result<> configure_from_files(const Options& options, api::Controller& controller) {
    constexpr std::size_t largest_file = 16U << 20U;
    if (options.config_file) {
        const std::string text = TRY(read_file(*options.config_file, largest_file), "configuration file");
        TRY(api::apply_configuration(controller, text), "Configuration for VMM from one single json failed");
    }
    if (options.metadata) {
        const std::string text = TRY(read_file(*options.metadata, largest_file), "metadata file");
        TRY(controller.mmds().put(TRY(parse_json(text), "metadata file")), "metadata file");
    }
    return {};
}

struct Program {
    Options options;
    std::optional<SeccompPrograms> own_filters;  // of a file
    DefaultPrograms filters;
    std::unique_ptr<EventLoop> loop;
    std::unique_ptr<api::Controller> controller;
    std::unique_ptr<api::Server> server;
    std::atomic<int> exit_code = 0;

    std::function<Result<>()> confining(ThreadKind kind) {
        return [this, kind]() -> Result<> {
            if (options.no_seccomp) return {};
            if (own_filters) return install(own_filters->of(kind));
            // By the bus that the machine's devices are on, which a snapshot may decide.
            const bool has_pci = controller && controller->has_pci();
            return install(filters.of(kind, has_pci ? DeviceBus::pci : DeviceBus::mmio));
        };
    }
};

int run_machine(Program& program) {
    const Options& options = program.options;
    const std::size_t mmds_limit = options.mmds_limit.value_or(options.payload_limit);
    api::InstanceInfo info;
    info.id = options.id;
    info.has_pci = options.enable_pci;
    info.start = {.start_us = options.start_time_us > 0 ? options.start_time_us : clock_us(CLOCK_MONOTONIC),
                  .start_cpu_us = options.start_time_cpu_us,
                  .boot_timer = options.boot_timer};
    info.confine_device_thread = program.confining(ThreadKind::vmm);
    info.confine_vcpu = program.confining(ThreadKind::vcpu);
    const auto ended = [&program](ExitCode code) {
        program.exit_code = static_cast<int>(code);
        program.loop->stop();
    };
    program.controller = std::make_unique<api::Controller>(*program.loop, std::move(info), mmds_limit, ended);
    api::Controller& controller = *program.controller;
    if (options.metrics_path) {
        if (auto set = controller.set_metrics(*options.metrics_path); !set)
            return complain(set.error(), ExitCode::bad_configuration);
    }
    if (!options.no_api) {
        auto created = api::Server::create({.socket_path = options.api_socket,
                                            .payload_limit = options.payload_limit,
                                            .confine = program.confining(ThreadKind::api)},
                                           *program.loop, controller);
        if (!created) {
            auto error = std::move(created).error().context(fmt::format(
                "Failed to open the API socket at: {}. Check that it is not already used", options.api_socket));
            return complain(error, ExitCode::generic_error);
        }
        program.server = std::move(*created);
    }
    if (auto configured = configure_from_files(options, controller); !configured)
        return complain(configured.error(), ExitCode::bad_configuration);
    if (options.start_time_us > 0)
        controller.api_metrics().process_startup_time_us.set(
            static_cast<std::uint64_t>(clock_us(CLOCK_MONOTONIC) - options.start_time_us));
    controller.api_metrics().process_startup_time_cpu_us.set(static_cast<std::uint64_t>(
        clock_us(CLOCK_PROCESS_CPUTIME_ID) - options.start_time_cpu_us + options.parent_cpu_time_us));
    const RawTerminal terminal;
    // Before the machine: its start confines this thread, and threads are born with their parent's filter.
    if (program.server) program.server->start();
    if (options.config_file) {
        if (auto started = controller.start(); !started) return complain(started.error(), ExitCode::bad_configuration);
        log_line(LogLevel::info, "Successfully started microvm that was configured from one single json");
    }
    if (auto ran = program.loop->run(); !ran) return complain(ran.error(), ExitCode::generic_error);
    controller.shut_down();
    log_line(LogLevel::info,
             fmt::format("Firecracker exiting {}. exit_code={}", program.exit_code == 0 ? "successfully" : "with error",
                         program.exit_code.load()));
    return program.exit_code;
}

int describe_snapshot(const std::string& path) {
    const auto file = open_file(path, O_RDONLY | O_NONBLOCK);
    auto version = file ? snapshot::read_version(file->get())
                        : Result<snapshot::Version>(fail_errno(file.error().os_errno(), path));
    if (!version) {
        write_error(fmt::format("Error: {}\n", version.error().describe()));
        return static_cast<int>(ExitCode::bad_configuration);
    }
    return write_all(STDOUT_FILENO, snapshot::to_string(*version) + "\n") ? 0 : 1;
}

}  // namespace

int run(std::span<const char* const> arguments) {
    auto options = parse_options(arguments);
    if (!options) {
        write_error(fmt::format("Arguments parsing error: {}\n\nFor more information try --help.\n",
                                options.error().describe()));
        return static_cast<int>(ExitCode::argument_parsing);
    }
    if (options->help || options->version) {
        const std::string text =
            options->help ? std::string(usage) : "wherry-vmm v" WHERRY_VERSION " (Firecracker's API 1.17)\n";
        return write_all(STDOUT_FILENO, text) ? 0 : 1;
    }
    if (options->snapshot_version)
        return write_all(STDOUT_FILENO, snapshot::to_string(snapshot::own_version) + "\n") ? 0 : 1;
    if (options->describe_snapshot) return describe_snapshot(*options->describe_snapshot);
    // One heap for all threads: less memory, and no thread counts the host's processors (a system call of its own)
    // when it first needs memory.
    mallopt(M_ARENA_MAX, 1);
    use_small_stacks();
    install_signal_handlers();
    initialize_logger(options->id);
    if (auto configured = configure_from_flags(*options); !configured)
        return complain(configured.error(), ExitCode::bad_configuration);
    auto program = std::make_unique<Program>();
    program->options = std::move(*options);
    if (program->options.seccomp_filter) {
        auto text = read_file(*program->options.seccomp_filter, 1U << 20U);
        auto filters = text ? parse_programs(*text) : Result<SeccompPrograms>(std::unexpected(std::move(text).error()));
        if (!filters) return complain(filters.error(), ExitCode::bad_configuration);
        program->own_filters = std::move(*filters);
    }
    auto loop = EventLoop::create();
    if (!loop) return complain(loop.error(), ExitCode::generic_error);
    program->loop = std::move(*loop);
    log_line(LogLevel::info, "Running wherry-vmm v" WHERRY_VERSION);
    const int code = run_machine(*program);
    if (program->server) program->server->finish();
    // The API's thread is still there and refers to all of this: no destructors from here on.
    [[maybe_unused]] const Program* kept = program.release();
    return code;
}

}  // namespace wherry::vmm
