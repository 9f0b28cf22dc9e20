// Copying between a container's root and a tar stream (`cp`, `export`), by a confined child: what it is asked to do,
// and the words it and the daemon exchange. The child is wherry-unpack with the first argument "cp".
//
// Descriptors of the child: 0 the tar stream in (write), 1 the tar stream out (read, tree), 3 a pipe for reports, 4
// what the root is taken from (CopyRoot), 5 and on the trees for `mounts`, in their order. Reports are lines:
//   stat <name> <size> <mode> <seconds> <nanoseconds> <target>   first, of stat and read; name and target in
//   hexadecimal ready                                                        of write: the place exists, the stream is
//   read now ok                                                           last error <code> <errno> <message> last
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace wherry::image {

enum class CopyAction : unsigned char {
    stat,   // what is at `path`
    read,   // `path` and everything below it as a tar stream
    write,  // a tar stream (plain, gzip, zstd) into the folder `path`
    tree    // the whole root file system without what is mounted in it
};

// What descriptor 4 is.
enum class CopyRoot : unsigned char {
    mount_namespace,  // of a running container: everything mounted there is seen
    detached_mount    // of the root file system of one that does not run
};

struct CopyMount {
    std::string destination;  // in the container; made where it is missing
    bool read_only = false;
};

struct CopyJob {
    CopyAction action = CopyAction::stat;
    CopyRoot root = CopyRoot::mount_namespace;
    std::string path;         // as the user gave it; relative is relative to /
    bool keep_kinds = false;  // a folder is not replaced by something else, nor the other way round
    // Everything written belongs to this user of the container ("name", "uid", with ":group"); empty: as the archive
    // says.
    std::string owner;
    std::vector<std::string> hidden;  // what is mounted there is not looked at (/proc and the like)
    std::vector<CopyMount> mounts;
    bool root_read_only = false;  // but for what is mounted in it
};

// As Docker's API tells it; mode in the bits of Go's os.FileMode.
struct PathStat {
    std::string name;
    std::int64_t size_bytes = 0;
    std::uint32_t mode = 0;
    std::int64_t mtime_seconds = 0;
    std::uint32_t mtime_nanoseconds = 0;
    std::string link_target;  // of a symlink: where it leads in the container, wholly resolved
};

// Arguments behind "wherry-unpack", beginning with "cp".
std::vector<std::string> to_arguments(const CopyJob& job);
Result<CopyJob> parse_arguments(const std::vector<std::string_view>& arguments);

std::string format_stat(const PathStat& stat);
Result<PathStat> parse_stat(std::string_view line);
// "error ..." as an Error; internal when it is nonsense.
Error parse_copy_error(std::string_view line);

// Go's os.FileMode of a st_mode.
std::uint32_t go_file_mode(std::uint32_t mode);

}  // namespace wherry::image
