// In place of GoogleTest's main(): tests that make containers do it as the runtime does, from a binary nobody can
// write.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>

#include "oci/container.hpp"

int main(int argc, char** argv) {
    if (::geteuid() == 0) {
        if (auto done = wherry::oci::protect_own_binary(argv); !done) {
            std::fprintf(stderr, "%s\n", done.error().describe().c_str());
            return 1;
        }
    }
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
}
