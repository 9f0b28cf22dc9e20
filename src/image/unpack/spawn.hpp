// The daemon's end of wherry-unpack.
#pragma once

#include <string>

#include "base/result.hpp"
#include "image/bytes.hpp"
#include "image/layer_store.hpp"

namespace wherry::image {

// wherry-unpack beside the running executable.
Result<std::string> default_unpack_program();

// Unpacks `source` into the folder `workspace` (a descriptor; it holds empty "diff" and "replaced"). Blocks until the
// child has ended. Whatever it leaves in the workspace after an error is the caller's to remove.
Result<LayerInfo> run_unpack_program(const std::string& program, int workspace, ByteSource& source,
                                     const AddLayerOptions& options);

}  // namespace wherry::image
