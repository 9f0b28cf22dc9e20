#include "fuse/handles.hpp"

#include <cerrno>

namespace wherry::fuse {

Answer<std::uint64_t> HandleTable::add(Handle handle) {
    if (full()) return refuse(ENFILE);
    const std::uint64_t number = next_++;
    handles_.emplace(number, std::make_unique<Handle>(std::move(handle)));
    return number;
}

Answer<Handle*> HandleTable::find(std::uint64_t number, std::uint64_t node, bool is_directory) {
    const auto found = handles_.find(number);
    if (found == handles_.end() || found->second->node != node || found->second->is_directory != is_directory)
        return refuse(EBADF);
    return found->second.get();
}

}  // namespace wherry::fuse
