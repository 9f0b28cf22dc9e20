// wherry-fs: serves a directory of the host to one microVM (docs/shared-folders.md).
#include "fs/program.hpp"

int main(int argc, char** argv) {
    return wherry::fs::run({argv + 1, argv + argc});
}
