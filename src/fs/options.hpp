// The flags of wherry-fs, as values.
#pragma once

#include <sys/types.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "fuse/file_system.hpp"

namespace wherry::fs {

struct Options {
    std::string shared_directory;
    std::string socket;  // listened at; or
    int fd = -1;         // a socket that came with this process, listening or connected
    std::optional<uid_t> uid;
    std::optional<gid_t> gid;
    std::vector<fuse::IdRange> uid_ranges, gid_ranges;
    std::optional<std::uint32_t> squash_uid, squash_gid;
    bool is_read_only = false;
    fuse::CacheMode cache = fuse::CacheMode::automatic;
    std::size_t descriptors = 0;  // 0: as many as the hard limit allows
    bool help = false, version = false;
};

extern const std::string_view usage;

// Without the program's name. invalid_argument says which argument is wrong.
Result<Options> parse_options(std::span<const char* const> arguments);

}  // namespace wherry::fs
