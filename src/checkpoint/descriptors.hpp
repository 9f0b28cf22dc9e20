// What the standard streams of a container's first process are, in the words by which CRIU lets another descriptor take
// their place (criu(8), --inherit-fd and --external): kept beside the images in a file that runc has, too.
#pragma once

#include <sys/types.h>

#include <array>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::checkpoint {

inline constexpr const char* descriptors_file = "descriptors.json";

// Of 0, 1 and 2: "pipe:[INODE]", or "file[MOUNT:INODE]" for a file that lies in none of the container's mounts.
// Anything else ("/dev/null" of the container's own, a terminal, a socket) comes back by itself, or not at all.
using StandardStreams = std::array<std::string, 3>;

// Whether it is one of the two forms.
bool is_replaceable(std::string_view stream);
bool is_file(std::string_view stream);

Result<StandardStreams> standard_streams_of(pid_t pid);
std::string to_text(const StandardStreams& streams);
// Of a file that anybody may have written: names that are not as above become empty.
Result<StandardStreams> parse_standard_streams(std::string_view text);

}  // namespace wherry::checkpoint
