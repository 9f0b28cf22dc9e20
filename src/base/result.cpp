#include "base/result.hpp"

#include <cerrno>
#include <cstring>

namespace wherry {

std::string_view to_string(Code code) {
    switch (code) {
        case Code::invalid_argument:
            return "invalid argument";
        case Code::not_found:
            return "not found";
        case Code::already_exists:
            return "already exists";
        case Code::conflict:
            return "conflict";
        case Code::permission_denied:
            return "permission denied";
        case Code::unauthenticated:
            return "unauthenticated";
        case Code::resource_exhausted:
            return "resource exhausted";
        case Code::unavailable:
            return "unavailable";
        case Code::deadline_exceeded:
            return "deadline exceeded";
        case Code::cancelled:
            return "cancelled";
        case Code::unimplemented:
            return "unimplemented";
        case Code::data_loss:
            return "data loss";
        case Code::out_of_range:
            return "out of range";
        case Code::internal:
            return "internal";
    }
    return "internal";
}

Error::Error(Code code, std::string message, int os_errno) : rep_(std::make_unique<Rep>(Rep{code, os_errno, {}})) {
    rep_->chain.push_back(std::move(message));
}

Error&& Error::context(std::string what) && {
    rep_->chain.push_back(std::move(what));
    return std::move(*this);
}

Error&& Error::with_code(Code code) && {
    rep_->code = code;
    return std::move(*this);
}

std::string Error::describe() const {
    std::string text;
    for (auto it = rep_->chain.rbegin(); it != rep_->chain.rend(); ++it) {
        if (!text.empty()) text += ": ";
        text += *it;
    }
    return text;
}

Error Error::clone() const {
    Error copy(rep_->code, {}, rep_->os_errno);
    copy.rep_->chain = rep_->chain;
    return copy;
}

std::unexpected<Error> fail(Code code, std::string message, int os_errno) {
    return std::unexpected<Error>(Error(code, std::move(message), os_errno));
}

std::unexpected<Error> invalid(std::string message) {
    return fail(Code::invalid_argument, std::move(message));
}

Code code_from_errno(int os_errno) {
    switch (os_errno) {
        case ENOENT:
        case ESRCH:
        case ENXIO:
        case ENODEV:
            return Code::not_found;
        case EEXIST:
            return Code::already_exists;
        case EACCES:
        case EPERM:
        case EROFS:
            return Code::permission_denied;
        case EINVAL:
        case ENAMETOOLONG:
        case ENOTDIR:
        case EISDIR:
        case ELOOP:
        case ENOEXEC:
            return Code::invalid_argument;
        case EBUSY:
        case ENOTEMPTY:
        case EADDRINUSE:
            return Code::conflict;
        case ENOMEM:
        case ENOSPC:
        case EMFILE:
        case ENFILE:
        case EDQUOT:
            return Code::resource_exhausted;
        case EAGAIN:
        case ECONNREFUSED:
        case ECONNRESET:
        case EPIPE:
        case ENETUNREACH:
        case EHOSTUNREACH:
            return Code::unavailable;
        case ETIMEDOUT:
            return Code::deadline_exceeded;
        case ECANCELED:
        case EINTR:
            return Code::cancelled;
        case ENOSYS:
        case EOPNOTSUPP:
            return Code::unimplemented;
        case ERANGE:
        case EOVERFLOW:
            return Code::out_of_range;
        default:
            return Code::internal;
    }
}

std::unexpected<Error> fail_errno(int os_errno, std::string_view what) {
    // strerror_r (GNU): thread-safe, may return a static string.
    char buffer[128];
    std::string message(what);
    message += ": ";
    message += strerror_r(os_errno, buffer, sizeof buffer);
    return fail(code_from_errno(os_errno), std::move(message), os_errno);
}

std::unexpected<Error> fail_errno(std::string_view what) {
    return fail_errno(errno, what);
}

}  // namespace wherry
