// What the parent and the child of a start say to each other over one SOCK_SEQPACKET pair. Internal to the room.
// The child's side is closed by execve: end of stream after `ready` and start means success.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "oci/container.hpp"

namespace wherry::oci {

enum class MessageKind : std::uint32_t {
    // child -> parent
    terminal,     // carries the terminal's master
    spawned,      // of exec's helper: the process, with its pidfd
    wants_hooks,  // namespaces are there, mounts done: run prestart and createRuntime hooks
    listener,     // carries the descriptor of seccomp's notifications
    ready,        // waits for start
    failed,
    // parent -> child
    proceed,  // id maps are written; hooks are done
    start,
};

struct Message {
    MessageKind kind = MessageKind::failed;
    std::int64_t pid = 0;
    Timeline timeline;
    // of failed
    Code code = Code::internal;
    int os_errno = 0;
    std::string text;
    ResolvedUser user;  // of ready
    Fd descriptor;      // of terminal, spawned, listener
};

Result<> send_message(int socket, const Message& message, int descriptor = -1);
// nullopt: the other side has closed.
Result<std::optional<Message>> receive_message(int socket);
Message failure_message(const Error& error);
Error error_of(const Message& message);

}  // namespace wherry::oci
