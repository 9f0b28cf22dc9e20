// The reaping init of `docker run --init`: an ELF file of a few KiB inside this library (container_init.cc).
#pragma once

#include <span>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::oci {

std::span<const char> init_binary();
// A memfd with it, sealed against any change, made once for the process; the caller gets a descriptor of its own.
Result<Fd> open_init_binary();

}  // namespace wherry::oci
