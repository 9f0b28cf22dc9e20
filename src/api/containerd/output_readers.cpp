#include "api/containerd/output_readers.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

namespace wherry::api::containerd {

OutputReaders::OutputReaders(const StdioPaths& paths) {
    for (const std::string* path : {&paths.stdout_path, paths.terminal ? nullptr : &paths.stderr_path}) {
        if (path == nullptr) continue;
        const auto target = parse_output_target(*path);
        if (target && target->scheme == OutputScheme::fifo) awaited_.push_back(target->path);
    }
}

bool OutputReaders::all_there() {
    std::erase_if(awaited_, [this](const std::string& path) {
        struct stat info{};
        if (::stat(path.c_str(), &info) < 0 || !S_ISFIFO(info.st_mode)) return true;
        Fd end(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
        if (!end) return errno != ENXIO;
        held_.push_back(std::move(end));
        return true;
    });
    return awaited_.empty();
}

}  // namespace wherry::api::containerd
