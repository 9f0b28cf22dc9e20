// A recipe is written by the confined child, and read by the daemon: any bytes must do no harm.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#include "image/unpack/program.hpp"
#include "image/unpack/recipe.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry;
    using namespace wherry::image;
    static const int tree = ::open("/sys/kernel", O_PATH | O_DIRECTORY | O_CLOEXEC);
    Fd recipe(::memfd_create("recipe", MFD_CLOEXEC));
    // SAFETY: bytes read as characters.
    std::string_view text(reinterpret_cast<const char*>(data), size);
    if (!recipe || !write_all(recipe.get(), text)) return 0;
    std::uint64_t total = 0;
    (void)replay_recipe(recipe.get(), tree, tree, [&](std::span<const std::byte> bytes) -> Result<> {
        total += bytes.size();
        if (total > (16U << 20U)) return fail(Code::resource_exhausted, "enough");
        return {};
    });
    (void)parse_report(text);
    return 0;
}
