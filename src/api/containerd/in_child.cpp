#include "api/containerd/in_child.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/fd.hpp"

namespace wherry::api::containerd {

namespace {

constexpr std::size_t max_answer_bytes = 64U << 10U;

}  // namespace

Result<std::string> in_child(const std::function<Result<std::string>()>& work) {
    Pipe pipe = TRY(make_pipe());
    pid_t pid = ::fork();
    if (pid < 0) return fail_errno("fork");
    if (pid == 0) {
        // One thread: the child goes on as ordinary C++. The first byte says how it went.
        pipe.read.reset();
        auto result = work();
        std::string answer(1, result ? '\0' : static_cast<char>(static_cast<unsigned char>(result.error().code()) + 1));
        answer += result ? *result : result.error().describe();
        bool told = write_all(pipe.write.get(), answer).has_value();
        ::_exit(told ? 0 : 1);
    }
    pipe.write.reset();
    auto answer = read_to_end(pipe.read.get(), max_answer_bytes);
    int wait_status = 0;
    while (::waitpid(pid, &wait_status, 0) < 0 && errno == EINTR) {
    }
    std::string text = TRY(std::move(answer), "helper");
    if (text.empty()) return fail(Code::internal, "helper process ended without an answer");
    auto outcome = static_cast<unsigned char>(text.front());
    text.erase(0, 1);
    if (outcome == 0) return text;
    return fail(static_cast<Code>(outcome - 1), std::move(text));
}

}  // namespace wherry::api::containerd
