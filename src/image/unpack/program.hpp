// What wherry-unpack does once it is jailed, and the words it and its parent exchange.
//
// Descriptors: 0 the layer's tar stream, plain, gzip or zstd; 3 a pipe for reports; 4 the workspace (see Unpacker),
// where the program also makes "recipe". Reports are lines:
//   P <bytes>                                                consumed of the stream so far
//   ok <diff id> <tar bytes> <size bytes> <entries>          last
//   error <code> <errno> <message>                           last
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "image/layer_store.hpp"

namespace wherry::image {

inline constexpr int report_fd = 3;
inline constexpr int workspace_fd = 4;

// Unpacks fd 0 into the workspace and reports; returns the exit code.
int run_unpack(UnpackLimits limits);

std::string format_report(const Result<LayerInfo>& result);
Result<LayerInfo> parse_report(std::string_view line);

}  // namespace wherry::image
