// Why a container ended or did not start, in one sentence. Pure, but for `inspect_program`, which looks into the root.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.hpp"
#include "engine/container.hpp"

namespace wherry::engine {

// What is wrong with a program that could not be run: its script's interpreter or its dynamic loader is missing, it is
// for another processor, it is no program. Empty: nothing found. `root` is a descriptor of the container's root.
std::string inspect_program(int root, const std::string& program, const Strings& environment,
                            const std::string& working_directory);

// `finding` is what inspect_program said.
std::string explain(const Container& container, const std::string& finding);

}  // namespace wherry::engine
