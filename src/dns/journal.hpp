// What a zone's changes are kept in: a file of differences, each durable before anybody is told, and the whole zone
// written anew when the differences have grown too many.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "dns/zone_edit.hpp"

namespace wherry::dns {

class Journal {
  public:
    // Opens or makes the file; a half-written entry at its end is cut off.
    static Result<Journal> open(const std::string& path);

    const std::vector<std::shared_ptr<const ZoneDiff>>& diffs() const { return diffs_; }
    std::size_t bytes() const { return bytes_; }
    // On disk when it returns.
    Result<> append(const std::shared_ptr<const ZoneDiff>& diff);
    Result<> clear();

  private:
    Journal(std::string path, Fd file) : path_(std::move(path)), file_(std::move(file)) {}
    std::string path_;
    Fd file_;
    std::size_t bytes_ = 0;
    std::vector<std::shared_ptr<const ZoneDiff>> diffs_;
};

// Entries of a journal, as many as are whole; `valid_bytes` says where they end.
std::vector<std::shared_ptr<const ZoneDiff>> parse_journal(std::span<const std::uint8_t> bytes,
                                                           std::size_t& valid_bytes);

// The zone as a master file, replaced whole and on disk when it returns.
Result<> write_zone_file(const Zone& zone, const std::string& path);

}  // namespace wherry::dns
