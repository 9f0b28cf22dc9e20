#include "fs/program.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <optional>

#include "base/fd.hpp"
#include "fs/backend.hpp"
#include "fs/jail.hpp"
#include "fs/options.hpp"
#include "fuse/file_system.hpp"
#include "vmm/core/event_loop.hpp"

namespace wherry::fs {
namespace {

int complain(const Error& error, int code) {
    const std::string line = "wherry-fs: " + error.describe() + "\n";
    [[maybe_unused]] const auto written = write_all(STDERR_FILENO, line);
    return code;
}

volatile std::sig_atomic_t told_to_end = 0;

// Waits for the monitor. Nothing comes when the process is told to end first.
Result<std::optional<Fd>> accept_monitor(int listener) {
    struct sigaction action = {};
    action.sa_handler = [](int) { told_to_end = 1; };
    sigset_t blocked, before;
    sigemptyset(&blocked);
    for (int signal : {SIGTERM, SIGINT}) {
        sigaddset(&blocked, signal);
        sigaction(signal, &action, nullptr);
    }
    sigprocmask(SIG_BLOCK, &blocked, &before);
    std::optional<Fd> connection;
    while (told_to_end == 0 && !connection) {
        pollfd wait = {.fd = listener, .events = POLLIN, .revents = 0};
        if (ppoll(&wait, 1, nullptr, &before) < 0 && errno != EINTR) return fail_errno("waiting for the monitor");
        if ((wait.revents & POLLIN) == 0) continue;
        // SAFETY: makes a descriptor, owned at once.
        Fd accepted(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
        if (accepted) {
            connection = std::move(accepted);
        } else if (errno != ECONNABORTED && errno != EINTR) {
            return fail_errno("accepting the monitor");
        }
    }
    for (int signal : {SIGTERM, SIGINT}) std::signal(signal, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    return connection;
}

Result<std::optional<Fd>> connection_of(const Options& options) {
    if (options.fd >= 0) {
        Fd given(options.fd);
        int listens = 0;
        socklen_t size = sizeof listens;
        if (getsockopt(given.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0) return fail_errno("--fd");
        if (listens == 0) return std::optional(std::move(given));
        return accept_monitor(given.get());
    }
    const Fd listener = TRY(listen_unix(options.socket, 0600, 1), "socket " + options.socket);
    auto connection = accept_monitor(listener.get());
    // One monitor is served: nobody is to find a socket that nobody listens to.
    unlink(options.socket.c_str());
    return connection;
}

Result<std::size_t> descriptor_limit(const Options& options) {
    rlimit limit = {};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return fail_errno("getrlimit");
    constexpr std::size_t most = 1U << 20U;
    const std::size_t allowed = limit.rlim_max == RLIM_INFINITY ? most : std::min<std::size_t>(limit.rlim_max, most);
    if (options.descriptors > allowed)
        return fail(Code::invalid_argument, fmt::format("--descriptors: this process may have {} at most", allowed));
    return options.descriptors == 0 ? allowed : options.descriptors;
}

// Of numbers that no other process gives to the same guest: a random one in their upper half.
Result<std::uint64_t> random_beginning() {
    std::uint32_t random = 0;
    if (getrandom(&random, sizeof random, 0) != sizeof random) return fail_errno("getrandom");
    return (std::uint64_t{random | 1U} << 31U) + 1;
}

Result<int> serve(Options options) {
    options.descriptors = TRY(descriptor_limit(options));
    fuse::FileSystemOptions settings;
    settings.uids = TRY(fuse::IdMap::create(options.uid_ranges, options.squash_uid), "--map-uid");
    settings.gids = TRY(fuse::IdMap::create(options.gid_ranges, options.squash_gid), "--map-gid");
    settings.is_read_only = options.is_read_only;
    settings.cache = options.cache;
    settings.descriptors = options.descriptors;
    settings.first_number = TRY(random_beginning());
    // A wrong directory is found out before anybody connects.
    TRY(open_file(options.shared_directory, O_PATH | O_DIRECTORY), "shared directory");

    auto connection = TRY(connection_of(options));
    if (!connection) return 0;
    Fd own_descriptors = TRY(open_file("/proc/self/fd", O_PATH | O_DIRECTORY));
    TRY(enter_jail(options, {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, connection->get(), own_descriptors.get()}));
    // From here on there is nothing but the folder.
    Fd root = TRY(open_file("/", O_PATH | O_DIRECTORY));
    const auto loop = TRY(vmm::EventLoop::create());
    const auto files = TRY(fuse::FileSystem::create(std::move(root), std::move(own_descriptors), std::move(settings)));
    const auto backend = TRY(Backend::create(*loop, std::move(*connection), *files));
    TRY(loop->run());
    TRY(backend->result());
    return 0;
}

}  // namespace

int run(std::span<const char* const> arguments) {
    auto options = parse_options(arguments);
    if (!options) return complain(options.error(), 2);
    if (options->help || options->version) {
        const std::string text = options->help ? std::string(usage) : "wherry-fs " WHERRY_VERSION "\n";
        return write_all(STDOUT_FILENO, text) ? 0 : 1;
    }
    // One heap: the C library would look for the number of processors in the jail.
    mallopt(M_ARENA_MAX, 1);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);  // a guest's write beyond a limit is its error
    umask(0);
    auto served = serve(std::move(*options));
    if (!served) return complain(served.error(), 1);
    return *served;
}

}  // namespace wherry::fs
