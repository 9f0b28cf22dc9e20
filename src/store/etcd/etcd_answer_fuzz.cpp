// etcd's answers and lines of a watch, from whoever stands in its place.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "store/etcd/etcd_client.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // SAFETY: bytes are bytes.
    std::string_view input(reinterpret_cast<const char*>(data), size);
    static_cast<void>(wherry::store::parse_etcd_answer(input));
    static_cast<void>(wherry::store::parse_etcd_watch_line(input));
    return 0;
}
