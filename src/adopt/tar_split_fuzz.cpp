// Lines of tar-split.json.gz, and documents of a container, from a hostile data root.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "adopt/container_body.hpp"
#include "adopt/tar_split.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // SAFETY: bytes are bytes.
    std::string_view input(reinterpret_cast<const char*>(data), size);
    static_cast<void>(wherry::adopt::parse_tar_split_line(input));
    if (auto object = wherry::parse_json_object(input)) {
        wherry::adopt::DockerContainer container;
        container.host_config = *object;
        container.mounts.push_back({"volume", "/data", false});
        static_cast<void>(wherry::adopt::container_body(container, {{"a", "b"}}));
    }
    return 0;
}
