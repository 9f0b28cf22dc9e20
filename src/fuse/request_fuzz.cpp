// Sequences of FUSE requests on a small directory: whatever comes, the server answers and the folder beside the
// shared one stays as it is.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "fuse/testing.hpp"

namespace wherry::fuse {
namespace {

namespace fs = std::filesystem;

class World {
  public:
    World() {
        std::string pattern = (fs::temp_directory_path() / "fuse-fuzz-XXXXXX").string();
        if (mkdtemp(pattern.data()) == nullptr) abort();
        folder_ = pattern;
        fs::create_directory(folder_ / "shared");
        std::ofstream(folder_ / "outside") << "outside";
        auto made = FileSystem::create(*open_file((folder_ / "shared").string(), O_PATH | O_DIRECTORY),
                                       *open_file("/proc/self/fd", O_PATH | O_DIRECTORY), {.descriptors = 512});
        if (!made) abort();
        files_ = std::move(*made);
        server_ = std::make_unique<Server>(*files_);
    }
    ~World() {
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
    }
    World(const World&) = delete;
    World& operator=(const World&) = delete;

    // Each request: two bytes of its size, then its bytes, the header's length among them.
    void run(const std::uint8_t* data, std::size_t size) {
        for (const auto& entry : fs::directory_iterator(folder_ / "shared")) {
            std::error_code ignored;
            fs::remove_all(entry.path(), ignored);
        }
        std::ofstream(folder_ / "shared/file") << "content";
        fs::create_directory(folder_ / "shared/folder");
        fs::create_symlink("../outside", folder_ / "shared/link");
        server_->reset();
        testing::Client client(*server_);
        client.initialize();
        std::size_t rounds = 0;
        while (size >= 2 && rounds++ < 64) {
            const std::size_t bytes = std::min<std::size_t>(data[0] | (std::size_t{data[1]} << 8U), size - 2);
            auto request = testing::bytes_of(data + 2, bytes);
            data += 2 + bytes;
            size -= 2 + bytes;
            if (request.size() >= sizeof(fuse_in_header)) {
                fuse_in_header header = {};
                std::memcpy(&header, request.data(), sizeof header);
                header.opcode %= 64;
                // Not to write whole disks full, and not to sync the machine.
                if (header.opcode == FUSE_FALLOCATE || header.opcode == FUSE_SYNCFS) continue;
                std::memcpy(request.data(), &header, sizeof header);
            }
            testing::PlainMessage message(std::move(request), 8192);
            const auto answered = server_->handle(message);
            if (answered && *answered > 8192) abort();
        }
        std::ifstream outside(folder_ / "outside");
        std::string text;
        outside >> text;
        if (text != "outside") abort();
    }

  private:
    fs::path folder_;
    std::unique_ptr<FileSystem> files_;
    std::unique_ptr<Server> server_;
};

}  // namespace
}  // namespace wherry::fuse

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static wherry::fuse::World world;
    if (size < (1U << 16U)) world.run(data, size);
    return 0;
}
