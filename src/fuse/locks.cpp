#include "fuse/locks.hpp"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

namespace wherry::fuse {
namespace {

constexpr int wake_signal = SIGUSR1;

void wake(int) {}

void signal_event(int fd) {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof one);
}

}  // namespace

Result<std::unique_ptr<Locks>> Locks::create(Limits limits) {
    std::unique_ptr<Locks> locks(new Locks(limits));
    // SAFETY: makes a descriptor, owned at once.
    locks->event_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!locks->event_) return fail_errno("eventfd");
    struct sigaction action = {};
    action.sa_handler = wake;  // without SA_RESTART: the wait ends with EINTR
    if (sigaction(wake_signal, &action, nullptr) != 0) return fail_errno("sigaction");
    return locks;
}

Locks::~Locks() {
    clear();
}

void Locks::clear() {
    for (auto& wait : waits_) {
        wait->done = nullptr;
        tell(*wait);
    }
    while (!waits_.empty()) {
        run_completed();
        if (waits_.empty()) break;
        // Bounded by the signal's race with the wait: told again until it has ended.
        const timespec pause = {.tv_sec = 0, .tv_nsec = 1'000'000};
        nanosleep(&pause, nullptr);
        tell_again();
    }
    owners_.clear();
}

void Locks::release_all(std::uint64_t node) {
    owners_.erase(owners_.lower_bound({node, 0}), owners_.upper_bound({node, UINT64_MAX}));
}

Answer<int> Locks::descriptor(std::uint64_t node, std::uint64_t owner, const Opener& open) {
    const auto found = owners_.find({node, owner});
    if (found != owners_.end()) return found->second.get();
    if (owners_.size() >= limits_.owners) return refuse(ENOLCK);
    Fd fd = ASK(open());
    const int number = fd.get();
    owners_.emplace(std::pair{node, owner}, std::move(fd));
    return number;
}

Answer<struct flock> Locks::test(std::uint64_t node, std::uint64_t owner, struct flock wanted, const Opener& open) {
    const int fd = ASK(descriptor(node, owner, open));
    if (fcntl(fd, F_OFD_GETLK, &wanted) != 0) return refuse(errno);
    return wanted;
}

Answer<> Locks::set(std::uint64_t node, std::uint64_t owner, struct flock wanted, const Opener& open) {
    // To unlock what has never been locked needs no descriptor.
    if (wanted.l_type == F_UNLCK && !owners_.contains({node, owner})) return {};
    const int fd = ASK(descriptor(node, owner, open));
    if (fcntl(fd, F_OFD_SETLK, &wanted) != 0) return refuse(errno == EACCES ? EAGAIN : errno);
    return {};
}

Answer<bool> Locks::set_waiting(std::uint64_t node, std::uint64_t owner, struct flock wanted, const Opener& open,
                                std::uint64_t request, Completion done) {
    const auto now = set(node, owner, wanted, open);
    if (now) return false;
    if (now.error().value != EAGAIN) return refuse(now.error().value);
    auto wait = std::make_unique<Wait>();
    wait->request = request;
    wait->wanted = wanted;
    wait->fd = Fd(fcntl(ASK(descriptor(node, owner, open)), F_DUPFD_CLOEXEC, 3));
    wait->done = std::move(done);
    return start(std::move(wait));
}

Answer<> Locks::flock_now(int fd, int operation) {
    if (flock(fd, operation | LOCK_NB) != 0) return refuse(errno);
    return {};
}

Answer<bool> Locks::flock_waiting(int fd, int operation, std::uint64_t request, Completion done) {
    const auto now = flock_now(fd, operation);
    if (now) return false;
    if (now.error().value != EWOULDBLOCK) return refuse(now.error().value);
    auto wait = std::make_unique<Wait>();
    wait->request = request;
    wait->is_flock = true;
    wait->operation = operation;
    wait->fd = Fd(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    wait->done = std::move(done);
    return start(std::move(wait));
}

Answer<bool> Locks::start(std::unique_ptr<Wait> wait) {
    if (!wait->fd) return refuse(EMFILE);
    if (waits_.size() >= limits_.waiting) return refuse(ENOLCK);
    wait->locks = this;
    Wait* raw = wait.get();
    waits_.push_back(std::move(wait));
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64U << 10U);
    const int error = pthread_create(&raw->thread, &attributes, wait_for, raw);
    pthread_attr_destroy(&attributes);
    if (error != 0) {
        waits_.pop_back();
        return refuse(ENOLCK);
    }
    return true;
}

void* Locks::wait_for(void* argument) {
    auto& wait = *static_cast<Wait*>(argument);
    int error = EINTR;
    bool stop = false;
    {
        const std::lock_guard lock(wait.locks->mutex_);
        stop = wait.stop;
    }
    if (!stop) {
        const int result =
            wait.is_flock ? flock(wait.fd.get(), wait.operation) : fcntl(wait.fd.get(), F_OFD_SETLKW, &wait.wanted);
        error = result == 0 ? 0 : errno;
    }
    const std::lock_guard lock(wait.locks->mutex_);
    wait.error = error;
    wait.is_over = true;
    signal_event(wait.locks->event_.get());
    return nullptr;
}

void Locks::tell(Wait& wait) {
    wait.told = true;
    const std::lock_guard lock(mutex_);
    wait.stop = true;
    if (!wait.is_over) pthread_kill(wait.thread, wake_signal);
}

void Locks::interrupt(std::uint64_t request) {
    for (auto& wait : waits_)
        if (wait->request == request) tell(*wait);
}

bool Locks::is_ending() const {
    return std::ranges::any_of(waits_, [](const auto& wait) { return wait->told; });
}

void Locks::tell_again() {
    for (auto& wait : waits_)
        if (wait->told) tell(*wait);
}

void Locks::run_completed() {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = read(event_.get(), &count, sizeof count);
    std::vector<std::unique_ptr<Wait>> over;
    {
        const std::lock_guard lock(mutex_);
        for (auto at = waits_.begin(); at != waits_.end();) {
            if ((*at)->is_over) {
                over.push_back(std::move(*at));
                at = waits_.erase(at);
            } else {
                ++at;
            }
        }
    }
    for (auto& wait : over) {
        pthread_join(wait->thread, nullptr);
        // Nobody hears of a lock that was told to end and came all the same: it goes with the descriptor.
        if (wait->error == 0 && wait->told && wait->done == nullptr && !wait->is_flock) {
            wait->wanted.l_type = F_UNLCK;
            fcntl(wait->fd.get(), F_OFD_SETLK, &wait->wanted);
        }
        if (wait->done) wait->done(wait->error);
    }
}

}  // namespace wherry::fuse
