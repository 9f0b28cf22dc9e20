// What an operation answers: a value, or the errno that the client is to see. Lighter than Result, which is for
// people: a lookup that finds nothing is no event.
#pragma once

#include <expected>
#include <utility>

namespace wherry::fuse {

struct Errno {
    int value = 0;
};

template <class T = void>
using Answer = std::expected<T, Errno>;

inline std::unexpected<Errno> refuse(int error) {
    return std::unexpected(Errno{error});
}

namespace detail {
template <class T>
T take(Answer<T>& answer) {
    if constexpr (!std::is_void_v<T>) return std::move(*answer);
}
}  // namespace detail
}  // namespace wherry::fuse

// ASK(expression): the value of expression, or return its errno.
#define WHERRY_ASK_CAT2(a, b) a##b
#define WHERRY_ASK_CAT(a, b) WHERRY_ASK_CAT2(a, b)
#define ASK(expr) WHERRY_ASK(WHERRY_ASK_CAT(asked_, __COUNTER__), expr)
// NOLINTBEGIN(bugprone-macro-parentheses): the name of a variable
#define WHERRY_ASK(tmp, expr)                                 \
    (__extension__({                                          \
        auto tmp = (expr);                                    \
        if (!tmp) [[unlikely]]                                \
            return ::wherry::fuse::refuse(tmp.error().value); \
        ::wherry::fuse::detail::take(tmp);                    \
    }))
// NOLINTEND(bugprone-macro-parentheses)
