// Master files (RFC 1035 section 5, RFC 2308 section 4 for $TTL): text to records, streaming, with BIND's $GENERATE.
//
//     TRY(parse_master_file("example.zone", {.origin = zone_name}, [&](const ParsedRecord& r) -> Result<> { ... }));
//
// Errors name the file and the line. Nothing is kept: a zone of any size is read with the memory of its longest record.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "dns/name.hpp"
#include "dns/rdata.hpp"
#include "dns/types.hpp"

namespace wherry::dns {

struct ParsedRecord {
    Name owner;
    Type type = Type::A;
    Class dns_class = Class::IN;
    std::uint32_t ttl = 0;
    std::span<const std::uint8_t> rdata;  // wire form; valid during the call only
};

using RecordSink = std::function<Result<>(const ParsedRecord&)>;

struct MasterFileOptions {
    Name origin;
    std::optional<std::uint32_t> default_ttl;  // where the file has no $TTL and no earlier TTL
    bool allow_include = true;                 // $INCLUDE, relative to the including file's folder, 16 levels at most
    std::uint32_t generate_limit = 1'000'000;  // records one $GENERATE may make
};

Result<> parse_master_file(const std::string& path, const MasterFileOptions& options, const RecordSink& sink);
// `name` is what errors call the text. $INCLUDE is refused.
Result<> parse_master_text(std::string_view text, std::string_view name, const MasterFileOptions& options,
                           const RecordSink& sink);

// One record as a line of a master file, without the line's end.
std::string record_to_text(const Name& owner, std::uint32_t ttl, Class dns_class, Type type,
                           std::span<const std::uint8_t> rdata);

// Splits one logical line (parentheses joined, comments dropped) after another off the front of a text.
class MasterScanner {
  public:
    explicit MasterScanner(std::string_view text) : text_(text) {}

    // The next line that has a token; nullopt at the end. The tokens stay valid until the next call.
    Result<std::optional<std::span<const Token>>> next();
    bool starts_with_space() const { return starts_with_space_; }  // the owner is the one before
    std::size_t line() const { return token_line_; }               // where the logical line began, from 1

  private:
    std::string_view text_;
    std::size_t at_ = 0;
    std::size_t line_ = 1;
    std::size_t token_line_ = 1;
    bool starts_with_space_ = false;
    std::vector<Token> tokens_;
};

}  // namespace wherry::dns
