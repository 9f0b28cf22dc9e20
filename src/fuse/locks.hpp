// Locks of the client's processes as locks of the host: each owner's POSIX locks on a file are those of an open file
// description of its own (F_OFD_SETLK), BSD locks those of the handle. So they hold against the host's processes too.
//
// A lock that must wait is waited for by a thread of its own (a bounded number), which a signal ends. Everything else
// belongs to the serving thread.
#pragma once

#include <fcntl.h>
#include <pthread.h>

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "fuse/answer.hpp"

namespace wherry::fuse {

class Locks {
  public:
    struct Limits {
        std::size_t owners = 256;  // pairs of file and owner
        std::size_t waiting = 64;
    };
    using Completion = std::function<void(int error)>;

    // Makes the signal that ends waits known to the process.
    static Result<std::unique_ptr<Locks>> create(Limits limits);
    // Ends all waits; their completions are not called.
    ~Locks();
    Locks(const Locks&) = delete;
    Locks& operator=(const Locks&) = delete;

    // `open` makes a descriptor of the file for a new owner.
    using Opener = std::function<Answer<Fd>()>;
    Answer<struct flock> test(std::uint64_t node, std::uint64_t owner, struct flock wanted, const Opener& open);
    Answer<> set(std::uint64_t node, std::uint64_t owner, struct flock wanted, const Opener& open);
    // True: it has to wait, and the completion will be called by run_completed().
    Answer<bool> set_waiting(std::uint64_t node, std::uint64_t owner, struct flock wanted, const Opener& open,
                             std::uint64_t request, Completion done);
    // The owner closed the file: all its locks on it are gone (POSIX' rule).
    void release(std::uint64_t node, std::uint64_t owner) { owners_.erase({node, owner}); }
    // The file is closed for good.
    void release_all(std::uint64_t node);
    // flock(2) of a handle's descriptor.
    static Answer<> flock_now(int fd, int operation);
    Answer<bool> flock_waiting(int fd, int operation, std::uint64_t request, Completion done);

    // The request that waits ends with EINTR.
    void interrupt(std::uint64_t request);
    // Readable when run_completed() has something to do, or wants to be called again after retry_interval.
    int completion_event() const { return event_.get(); }
    void run_completed();
    // Whether waits that were told to end have not ended yet: tell_again() then, soon. A signal may come just before
    // the wait that it is to end.
    bool is_ending() const;
    void tell_again();
    // As if no client had ever been.
    void clear();

  private:
    struct Wait {
        pthread_t thread = {};
        std::uint64_t request = 0;
        Fd fd;
        bool is_flock = false;
        int operation = 0;
        struct flock wanted = {};
        Completion done;
        Locks* locks = nullptr;
        bool told = false;     // serving thread
        bool is_over = false;  // mutex_
        bool stop = false;     // mutex_: do not begin to wait
        int error = 0;         // mutex_
    };
    explicit Locks(Limits limits) : limits_(limits) {}
    static void* wait_for(void* argument);
    Answer<int> descriptor(std::uint64_t node, std::uint64_t owner, const Opener& open);
    Answer<bool> start(std::unique_ptr<Wait> wait);
    void tell(Wait& wait);

    Limits limits_;
    Fd event_;
    std::map<std::pair<std::uint64_t, std::uint64_t>, Fd> owners_;
    std::list<std::unique_ptr<Wait>> waits_;
    mutable std::mutex mutex_;
};

}  // namespace wherry::fuse
