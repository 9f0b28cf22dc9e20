#include "image/copy/spawn.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "image/copy/view.hpp"
#include "image/unpack/program.hpp"

namespace wherry::image {

namespace {

// Descriptors to hand over are moved out of the way of their targets.
constexpr int room_for_targets = 16;

#ifndef OPEN_TREE_CLONE
constexpr unsigned OPEN_TREE_CLONE = 1;
#endif
#ifndef OPEN_TREE_CLOEXEC
constexpr unsigned OPEN_TREE_CLOEXEC = O_CLOEXEC;
#endif
#ifndef AT_RECURSIVE
constexpr unsigned AT_RECURSIVE = 0x8000;
#endif

class SpawnActions {
  public:
    SpawnActions() { ::posix_spawn_file_actions_init(&actions_); }
    ~SpawnActions() { ::posix_spawn_file_actions_destroy(&actions_); }
    SpawnActions(const SpawnActions&) = delete;
    SpawnActions& operator=(const SpawnActions&) = delete;

    Result<> give(int fd, int target, int lowest) {
        Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, lowest));
        if (!copy) return fail_errno("duplicate descriptor");
        ::posix_spawn_file_actions_adddup2(&actions_, copy.get(), target);
        copies_.push_back(std::move(copy));
        return {};
    }
    void open_null(int target, int flags) {
        ::posix_spawn_file_actions_addopen(&actions_, target, "/dev/null", flags, 0);
    }
    const posix_spawn_file_actions_t* get() const { return &actions_; }

  private:
    posix_spawn_file_actions_t actions_{};
    std::vector<Fd> copies_;
};

}  // namespace

void CopyProcess::kill() const {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
}

void CopyProcess::reap() {
    if (pid_ <= 0) return;
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
}

Result<CopyProcess> spawn_copy(const std::string& program, const CopyJob& job, const CopyDescriptors& descriptors) {
    Pipe reports = TRY(make_pipe());
    SpawnActions actions;
    const int lowest = room_for_targets + static_cast<int>(descriptors.trees.size());
    if (descriptors.input >= 0)
        TRY(actions.give(descriptors.input, STDIN_FILENO, lowest));
    else
        actions.open_null(STDIN_FILENO, O_RDONLY);
    if (descriptors.output >= 0)
        TRY(actions.give(descriptors.output, STDOUT_FILENO, lowest));
    else
        actions.open_null(STDOUT_FILENO, O_WRONLY);
    TRY(actions.give(reports.write.get(), report_fd, lowest));
    TRY(actions.give(descriptors.root, copy_root_fd, lowest));
    for (std::size_t i = 0; i < descriptors.trees.size(); ++i)
        TRY(actions.give(descriptors.trees[i], copy_root_fd + 1 + static_cast<int>(i), lowest));

    std::vector<std::string> words = to_arguments(job);
    words.insert(words.begin(), "wherry-unpack");
    std::vector<char*> arguments;
    arguments.reserve(words.size() + 1);
    for (std::string& word : words) {
        if (word.find('\0') != std::string::npos) return fail(Code::invalid_argument, "a path holds a zero byte");
        arguments.push_back(word.data());
    }
    arguments.push_back(nullptr);
    std::array<char*, 1> environment{nullptr};

    posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    sigset_t none;
    sigset_t all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setsigdefault(&attributes, &all);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    pid_t pid = -1;
    const int error =
        ::posix_spawn(&pid, program.c_str(), actions.get(), &attributes, arguments.data(), environment.data());
    ::posix_spawnattr_destroy(&attributes);
    if (error == E2BIG) return fail_errno(ENAMETOOLONG, "start the copy");
    if (error != 0) return fail_errno(error, "start " + program);
    return CopyProcess(pid, std::move(reports.read));
}

Result<Fd> take_tree(const std::string& path) {
    // SAFETY: open_tree(2) takes a path and flags.
    Fd tree(static_cast<int>(
        ::syscall(SYS_open_tree, AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)));
    if (!tree) return fail_errno("take the tree " + path);
    return tree;
}

}  // namespace wherry::image
