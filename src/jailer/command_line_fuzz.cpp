// Command lines: words separated by newlines.
#include <cstdint>
#include <string_view>
#include <vector>

#include "jailer/chroot.hpp"
#include "jailer/command_line.hpp"

// SAFETY: libFuzzer's contract: `data` points to `size` bytes.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::string_view text(reinterpret_cast<const char*>(data), size);
    (void)wherry::jailer::userfaultfd_minor(text);
    std::vector<std::string_view> words;
    while (true) {
        auto end = text.find('\n');
        words.push_back(text.substr(0, end));
        if (end == std::string_view::npos) break;
        text.remove_prefix(end + 1);
    }
    auto options = wherry::jailer::parse_command_line(words);
    if (options && options->action == wherry::jailer::Action::jail) {
        // What was accepted can become paths: no part of it may lead elsewhere.
        if (options->exec_name().find('/') != std::string::npos || !wherry::jailer::validate_id(options->id))
            __builtin_trap();
    }
    return 0;
}
