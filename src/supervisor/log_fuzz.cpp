// Log files that somebody else wrote: every entry, from the front and from the back, and gzip's header.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/fd.hpp"
#include "supervisor/gzip.hpp"
#include "supervisor/log_format.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::supervisor;
    if (size < 1) return 0;
    wherry::Fd file(::memfd_create("fuzz", MFD_CLOEXEC));
    // SAFETY: bytes are bytes.
    std::string_view input(reinterpret_cast<const char*>(data), size);
    if (!file || !wherry::write_all(file.get(), input.substr(1))) return 0;
    LogDriver format = (data[0] & 1U) != 0 ? LogDriver::local : LogDriver::json_file;
    EntryScanner scanner(format, file.get(), 0);
    std::size_t count = 0;
    while (true) {
        auto entry = scanner.next();
        if (!entry || !*entry) break;
        if (++count > size) __builtin_trap();
    }
    LogReadOptions filter;
    filter.want_stdout = (data[0] & 2U) == 0;
    std::size_t entries = 1 + data[0] / 4;
    static_cast<void>(seek_back(format, file.get(), filter, entries));
    static_cast<void>(gzip_inode(file.get()));
    static_cast<void>(gunzip_to_memory(file.get(), 1U << 20U));
    return 0;
}
