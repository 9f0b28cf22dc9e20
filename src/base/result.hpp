// Errors as values. Every fallible function of the project returns Result<T>.
//
// An Error is a code (gRPC's vocabulary, so that each protocol maps it once, at its edge), the errno it came
// from where there was one, and a chain of context added on the way up, outermost first when printed.
//
//     Result<Fd> open_log(const std::string& path) {
//         Fd file = TRY(open_file(path, O_RDONLY), "log of the container");
//         ...
//     }
#pragma once

#include <expected>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace wherry {

// https://grpc.io/docs/guides/status-codes/ without the two that values make needless (ok, unknown).
enum class Code : unsigned char {
    invalid_argument,
    not_found,
    already_exists,
    conflict,  // gRPC's FAILED_PRECONDITION and ABORTED: the state does not allow it
    permission_denied,
    unauthenticated,
    resource_exhausted,
    unavailable,
    deadline_exceeded,
    cancelled,
    unimplemented,
    data_loss,
    out_of_range,
    internal,
};

std::string_view to_string(Code code);

class [[nodiscard]] Error {
  public:
    Error(Code code, std::string message, int os_errno = 0);
    Error(Error&&) noexcept = default;
    Error& operator=(Error&&) noexcept = default;
    Error(const Error&) = delete;
    Error& operator=(const Error&) = delete;
    ~Error() = default;

    Code code() const noexcept { return rep_->code; }
    // errno the error came from; 0 where there was none.
    int os_errno() const noexcept { return rep_->os_errno; }
    // Same error, one more line of context outside of the present ones.
    Error&& context(std::string what) &&;
    Error&& with_code(Code code) &&;
    // "outermost: ...: innermost", for people.
    std::string describe() const;
    // The innermost message alone.
    const std::string& message() const noexcept { return rep_->chain.front(); }
    // For errors that two waiters receive.
    Error clone() const;

  private:
    struct Rep {
        Code code;
        int os_errno;
        std::vector<std::string> chain;
    };
    std::unique_ptr<Rep> rep_;
};

template <class T = void>
using Result = std::expected<T, Error>;

[[nodiscard]] std::unexpected<Error> fail(Code code, std::string message, int os_errno = 0);
// invalid_argument, the commonest of all.
[[nodiscard]] std::unexpected<Error> invalid(std::string message);
// An error from an errno: the code follows from it, the message is "what: strerror".
[[nodiscard]] std::unexpected<Error> fail_errno(int os_errno, std::string_view what);
// fail_errno(errno, what). Nothing may run between the failed call and this one.
[[nodiscard]] std::unexpected<Error> fail_errno(std::string_view what);
Code code_from_errno(int os_errno);

namespace detail {
template <class T>
T take(Result<T>& result) {
    if constexpr (!std::is_void_v<T>) return std::move(*result);
}
template <class T>
std::unexpected<Error> pass(Result<T>& result) {
    return std::unexpected<Error>(std::move(result).error());
}
template <class T>
std::unexpected<Error> pass(Result<T>& result, std::string what) {
    return std::unexpected<Error>(std::move(result).error().context(std::move(what)));
}
}  // namespace detail
}  // namespace wherry

#define WHERRY_CAT2(a, b) a##b
#define WHERRY_CAT(a, b) WHERRY_CAT2(a, b)

// TRY(expression [, context]): the value of expression, or return its error. Plain functions only, never inside a
// braced initialiser.
#define TRY(expr, ...) WHERRY_TRY(WHERRY_CAT(try_, __COUNTER__), expr __VA_OPT__(, ) __VA_ARGS__)
#define WHERRY_TRY(tmp, expr, ...)                                         \
    (__extension__({                                                       \
        auto tmp = (expr);                                                 \
        if (!tmp) [[unlikely]]                                             \
            return ::wherry::detail::pass(tmp __VA_OPT__(, ) __VA_ARGS__); \
        ::wherry::detail::take(tmp);                                       \
    }))

// CO_TRY(auto x, co_await f() [, context]); and CO_CHECK(co_await f() [, context]); : statements in coroutines.
#define CO_TRY(decl, expr, ...) WHERRY_CO_TRY(WHERRY_CAT(try_, __COUNTER__), decl, expr __VA_OPT__(, ) __VA_ARGS__)
#define WHERRY_CO_TRY(tmp, decl, expr, ...)                               \
    auto tmp = (expr);                                                    \
    if (!tmp) [[unlikely]]                                                \
        co_return ::wherry::detail::pass(tmp __VA_OPT__(, ) __VA_ARGS__); \
    decl = ::wherry::detail::take(tmp)
#define CO_CHECK(expr, ...) WHERRY_CO_CHECK(WHERRY_CAT(try_, __COUNTER__), expr __VA_OPT__(, ) __VA_ARGS__)
#define WHERRY_CO_CHECK(tmp, expr, ...)                                       \
    do {                                                                      \
        auto tmp = (expr);                                                    \
        if (!tmp) [[unlikely]]                                                \
            co_return ::wherry::detail::pass(tmp __VA_OPT__(, ) __VA_ARGS__); \
    } while (false)
