// Network namespaces as descriptors. A thread that leaves its namespace never comes back: every change happens on a
// thread of its own that ends afterwards, so no failure can leave a worker in the wrong namespace.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::net {

// A new, empty network namespace (loopback down). It lives as long as a descriptor of it or a process in it.
// `inside`, when given, runs on a thread inside it, with its descriptor.
Result<Fd> create_network_namespace(const std::function<Result<>(int netns)>& inside = {});

// Runs `work` on a thread inside the namespace; sockets it opens stay there. Blocks until it is done.
Result<> run_in_network_namespace(int netns, const std::function<Result<>()>& work);

// Sets net.* sysctls ("net.ipv4.ip_unprivileged_port_start" -> "0") of the calling thread's namespace.
// invalid_argument for a name outside net. or with path tricks in it.
Result<> set_network_sysctl(const std::string& name, const std::string& value);

// The sysctls every sandbox starts with (Docker's): unprivileged ping and low ports. For the calling thread's
// namespace.
Result<> apply_default_sysctls();

// Brings the namespace's loopback up: all that --network none has.
Result<> loopback_up(int netns);

// The current thread's network namespace.
Result<Fd> current_network_namespace();

}  // namespace wherry::net
