// The envelope of a state, in files and on streams: who wrote it, in which version and shape, how long it is, and a
// checksum over all of it. All numbers little-endian:
//
//     0   "WHRYSNAP"
//     8   version: major, minor, patch, 16 bits each; 16 bits of the architecture (1: x86-64)
//     16  CRC-64 of the shape's text (codec.hpp)
//     24  length of the state in bytes
//     32  the state
//     ..  CRC-64 (ECMA-182, reflected) of everything before
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::vmm::snapshot {

struct Version {
    std::uint16_t major = 0;
    std::uint16_t minor = 0;
    std::uint16_t patch = 0;

    friend bool operator==(const Version&, const Version&) = default;
};
// What this monitor writes and reads. States of another shape are refused even where this is the same.
inline constexpr Version own_version = {.major = 1, .minor = 0, .patch = 0};
std::string to_string(const Version& version);  // "v1.0.0"

std::uint64_t crc64(std::string_view bytes);

// The envelope around a state; `shape` is shape_of() of its type.
std::string wrap(std::string_view state, std::string_view shape);
// Reads an envelope from any descriptor and gives the state in it; no byte more is taken than it has. invalid_argument
// for what is no snapshot, or one of another version, architecture or shape; data_loss for one that is cut short or
// damaged.
Result<std::string> read_wrapped(int descriptor, std::string_view shape);
// The version of the snapshot in a file, whatever it is.
Result<Version> read_version(int descriptor);

}  // namespace wherry::vmm::snapshot
