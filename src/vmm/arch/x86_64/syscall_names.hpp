// Names of system calls on x86-64, for filters that come as text.
#pragma once

#include <optional>
#include <string_view>

namespace wherry::vmm::x86_64 {

std::optional<int> syscall_number(std::string_view name);

}  // namespace wherry::vmm::x86_64
