#include "oci/seccomp_listener.hpp"

namespace wherry::oci {

Result<> send_listener(const std::optional<SeccompListener>& listener, Fd descriptor, const HookState& container,
                       pid_t pid) {
    if (!listener || !descriptor) return fail(Code::internal, "seccomp: notifications that nobody asked for");
    json::object state;
    state["ociVersion"] = "1.2.0";
    state["fds"] = json::array{"seccompFd"};
    state["pid"] = pid;
    if (!listener->metadata.empty()) state["metadata"] = listener->metadata;
    state["state"] = container.to_json();
    Fd socket = TRY(connect_unix(listener->path), "linux.seccomp.listenerPath");
    const int fds[] = {descriptor.get()};
    return send_with_fds(socket.get(), wherry::to_json(json::value(std::move(state))), fds);
}

}  // namespace wherry::oci
