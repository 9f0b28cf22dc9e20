// Domain names (RFC 1034 section 3.1, RFC 1035 sections 2.3.4 and 3.1): absolute, in uncompressed wire form, with a
// fixed buffer so that no name costs an allocation. Comparison ignores ASCII case (RFC 4343).
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::dns {

inline constexpr std::size_t max_name_bytes = 255;  // with all length bytes and the root's
inline constexpr std::size_t max_label_bytes = 63;

constexpr std::uint8_t to_lower(std::uint8_t byte) {
    return byte >= 'A' && byte <= 'Z' ? static_cast<std::uint8_t>(byte + 32) : byte;
}

class Name {
  public:
    Name() : size_(1) { wire_[0] = 0; }  // the root
    Name(const Name& other) : size_(other.size_) { copy(other); }
    Name& operator=(const Name& other) {
        size_ = other.size_;
        copy(other);
        return *this;
    }

    // Presentation form (RFC 1035 section 5.1): "\." and "\DDD" escapes. A name without a final dot is completed
    // with `origin`; without an origin it is taken as absolute.
    static Result<Name> parse(std::string_view text, const Name* origin = nullptr);
    // Uncompressed wire form that fills `wire` exactly.
    static Result<Name> from_wire(std::span<const std::uint8_t> wire);
    // `wire` was produced by a Name or checked by MessageReader: not checked again.
    static Name from_checked_wire(std::span<const std::uint8_t> wire);

    std::span<const std::uint8_t> wire() const { return {wire_.data(), size_}; }
    std::size_t size() const { return size_; }
    bool is_root() const { return size_ == 1; }
    std::size_t label_count() const;  // without the root's
    std::string to_text() const;      // with the final dot

    Name parent() const;                         // of the root: the root
    Name lower() const;                          // canonical case (RFC 4034 section 6.2)
    bool is_within(const Name& ancestor) const;  // equal counts
    // The last `labels` labels of the name.
    Name suffix(std::size_t labels) const;
    // "*." + this name; invalid_argument when that is too long.
    Result<Name> wildcard() const;
    // prefix labels (wire form without the root byte) in front of this name.
    Result<Name> with_prefix(std::span<const std::uint8_t> labels) const;
    bool is_wildcard() const { return size_ > 2 && wire_[0] == 1 && wire_[1] == '*'; }

    bool operator==(const Name& other) const;
    // RFC 4034 section 6.1: label by label from the right, case-insensitive.
    std::strong_ordering canonical_order(const Name& other) const;
    std::uint64_t hash() const;  // of the lower-case form

  private:
    friend class NameBuilder;
    void copy(const Name& other) {
        for (std::size_t i = 0; i < size_; ++i) wire_[i] = other.wire_[i];
    }
    std::uint8_t size_;
    std::array<std::uint8_t, max_name_bytes> wire_;
};

// Grows a name label by label; used by the parsers.
class NameBuilder {
  public:
    bool append_label(std::span<const std::uint8_t> label);  // false: too long, or empty
    Result<Name> finish() const;                             // adds the root

  private:
    std::size_t size_ = 0;
    std::array<std::uint8_t, max_name_bytes> wire_{};
};

struct NameHash {
    std::size_t operator()(const Name& name) const { return name.hash(); }
};

}  // namespace wherry::dns
