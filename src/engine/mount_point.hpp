// A mount of a container, as inspect shows it.
#pragma once

#include <string>

namespace wherry::engine {

struct MountPoint {
    std::string type;  // bind, volume, tmpfs
    std::string name;  // of a volume
    std::string source;
    std::string destination;
    std::string driver;  // of a volume: "local"
    std::string mode;    // "z", "ro", ...
    bool read_write = true;
    std::string propagation;
};

}  // namespace wherry::engine
