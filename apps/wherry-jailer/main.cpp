// wherry-jailer: builds the walls around wherry-vmm (or another monitor of Firecracker's command line) and becomes it.
#include <cstdio>
#include <string_view>
#include <vector>

#include "jailer/command_line.hpp"
#include "jailer/jailer.hpp"

namespace {

int failed(const wherry::Error& error) {
    std::string line = "wherry-jailer: " + error.describe() + "\n";
    std::fputs(line.c_str(), stderr);
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    using namespace wherry;
    jailer::StartTimes started = jailer::StartTimes::now();
    if (auto cleaned = jailer::clean_process(); !cleaned) return failed(cleaned.error());
    std::vector<std::string_view> words(argv + 1, argv + argc);
    auto options = jailer::parse_command_line(words);
    if (!options) return failed(options.error());
    switch (options->action) {
        case jailer::Action::help:
            std::fwrite(jailer::usage().data(), 1, jailer::usage().size(), stdout);
            return 0;
        case jailer::Action::version:
            std::puts("Jailer v" WHERRY_VERSION " (wherry-jailer)");
            return 0;
        case jailer::Action::jail:
            break;
    }
    return failed(jailer::run(*options, started));
}
