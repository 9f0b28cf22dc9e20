// An archive entry's content into a file.
#pragma once

#include "base/result.hpp"
#include "image/tar/reader.hpp"

namespace wherry::image {

// What is left of the entry that `reader` is at, into the empty file `file`; holes of a sparse entry stay holes.
Result<> write_content(int file, const TarEntry& entry, TarReader& reader);

}  // namespace wherry::image
