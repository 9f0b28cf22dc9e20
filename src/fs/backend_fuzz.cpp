// vhost-user messages of a hostile monitor, and queues and requests of its guest, to the backend. The input: how many
// bytes go into memory first, then messages as (request, what descriptor, length of the payload, payload).
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>

#include "base/log.hpp"
#include "fs/backend.hpp"

namespace wherry::fs {
namespace {

constexpr std::size_t memory_bytes = 1U << 16U;

struct World {
    std::filesystem::path folder;
    std::unique_ptr<fuse::FileSystem> files;
    World() {
        set_log_level(LogLevel::off);
        std::string pattern = (std::filesystem::temp_directory_path() / "fs-fuzz-XXXXXX").string();
        if (mkdtemp(pattern.data()) == nullptr) abort();
        folder = pattern;
        // Read-only: what requests do to files is another target's business.
        files = std::move(*fuse::FileSystem::create(*open_file(pattern, O_PATH | O_DIRECTORY),
                                                    *open_file("/proc/self/fd", O_PATH | O_DIRECTORY),
                                                    {.is_read_only = true, .descriptors = 512}));
    }
    ~World() {
        std::error_code ignored;
        std::filesystem::remove_all(folder, ignored);
    }
    World(const World&) = delete;
    World& operator=(const World&) = delete;
};

void run(World& world, const std::uint8_t* data, std::size_t size) {
    // SAFETY: makes a descriptor, owned at once.
    const Fd memory(memfd_create("guest", MFD_CLOEXEC));
    if (!memory || ftruncate(memory.get(), memory_bytes) != 0) abort();
    const std::size_t given = std::min<std::size_t>(data[0] | (std::size_t{data[1]} << 8U), size - 2);
    if (pwrite(memory.get(), data + 2, std::min(given, memory_bytes), 0) < 0) abort();
    data += 2 + given;
    size -= 2 + given;
    auto [monitor, other] = *make_socket_pair(SOCK_STREAM);
    auto loop = *vmm::EventLoop::create();
    auto backend = *Backend::create(*loop, std::move(other), *world.files);
    // Both the messages, which wait for the loop, and their answers, which nobody reads, must fit into the socket.
    if (!set_nonblocking(monitor.get())) abort();
    for (unsigned count = 0; size >= 3 && count < 200; ++count) {
        const std::size_t bytes = std::min<std::size_t>(data[2], size - 3);
        std::vector<Fd> events;
        std::vector<int> fds;
        if (data[1] % 3 == 1) fds.push_back(memory.get());
        if (data[1] % 3 == 2) {
            // SAFETY: makes a descriptor, owned at once; a kick that has come already.
            events.emplace_back(eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
            fds.push_back(events.back().get());
        }
        const auto request = static_cast<vmm::vhost_user::Request>(data[0] % 48);
        const std::uint32_t flags = (data[1] & 0x80U) != 0 ? vmm::vhost_user::need_reply_flag : 0;
        if (!vmm::vhost_user::send(monitor.get(), request, flags, std::as_bytes(std::span(data + 3, bytes)), fds))
            break;
        data += 3 + bytes;
        size -= 3 + bytes;
    }
    shutdown(monitor.get(), SHUT_WR);
    if (!loop->run()) abort();
}

}  // namespace
}  // namespace wherry::fs

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static wherry::fs::World world;
    // As much as the socket takes before anybody reads.
    if (size >= 2 && size < (1U << 15U)) wherry::fs::run(world, data, size);
    return 0;
}
