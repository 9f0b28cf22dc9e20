// The wherry command: everything is in the room cli.
#include <string>
#include <vector>

#include "cli/program.hpp"

int main(int argc, char** argv) {
    return wherry::cli::run_program(std::vector<std::string>(argv, argv + argc));
}
