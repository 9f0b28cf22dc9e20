#include "dns/name.hpp"

#include <algorithm>
#include <cstring>

namespace wherry::dns {

namespace {

// Where each label starts, root excluded. A name has at most 127 labels.
struct Labels {
    std::array<std::uint8_t, 128> start;
    std::size_t count = 0;
};

Labels labels_of(std::span<const std::uint8_t> wire) {
    Labels labels;
    for (std::size_t at = 0; wire[at] != 0; at += wire[at] + 1U)
        labels.start[labels.count++] = static_cast<std::uint8_t>(at);
    return labels;
}

bool equal_ignoring_case(const std::uint8_t* a, const std::uint8_t* b, std::size_t size) {
    // Length bytes are below 64 and so are not letters: the whole wire form can be compared at once.
    for (std::size_t i = 0; i < size; ++i)
        if (a[i] != b[i] && to_lower(a[i]) != to_lower(b[i])) return false;
    return true;
}

}  // namespace

bool NameBuilder::append_label(std::span<const std::uint8_t> label) {
    if (label.empty() || label.size() > max_label_bytes || size_ + 1 + label.size() + 1 > max_name_bytes) return false;
    wire_[size_] = static_cast<std::uint8_t>(label.size());
    std::memcpy(wire_.data() + size_ + 1, label.data(), label.size());
    size_ += 1 + label.size();
    return true;
}

Result<Name> NameBuilder::finish() const {
    Name name;
    std::memcpy(name.wire_.data(), wire_.data(), size_);
    name.wire_[size_] = 0;
    name.size_ = static_cast<std::uint8_t>(size_ + 1);
    return name;
}

Result<Name> Name::parse(std::string_view text, const Name* origin) {
    auto bad = [&](std::string_view why) {
        return fail(Code::invalid_argument,
                    "domain name \"" + std::string(text.substr(0, 300)) + "\": " + std::string(why));
    };
    if (text == ".") return Name();
    if (text == "@" && origin != nullptr) return *origin;
    if (text.empty()) return bad("empty");
    NameBuilder builder;
    std::array<std::uint8_t, max_label_bytes> label{};
    std::size_t length = 0;
    bool absolute = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        char c = text[i];
        if (c == '.') {
            if (!builder.append_label(std::span(label).first(length)))
                return bad(length == 0 ? "empty label" : "too long");
            length = 0;
            absolute = i + 1 == text.size();
            continue;
        }
        auto byte = static_cast<std::uint8_t>(c);
        if (c == '\\') {
            if (i + 1 >= text.size()) return bad("ends in a backslash");
            auto digit = [&](std::size_t k) { return k < text.size() && text[k] >= '0' && text[k] <= '9'; };
            if (digit(i + 1)) {
                if (!digit(i + 2) || !digit(i + 3)) return bad("\\DDD needs three digits");
                int value = (text[i + 1] - '0') * 100 + (text[i + 2] - '0') * 10 + (text[i + 3] - '0');
                if (value > 255) return bad("\\DDD is above 255");
                byte = static_cast<std::uint8_t>(value);
                i += 3;
            } else {
                byte = static_cast<std::uint8_t>(text[++i]);
            }
        }
        if (length == max_label_bytes) return bad("a label is longer than 63 bytes");
        label[length++] = byte;
    }
    if (!absolute && !builder.append_label(std::span(label).first(length))) return bad("too long");
    if (!absolute && origin != nullptr) {
        std::span<const std::uint8_t> wire = origin->wire();
        for (std::size_t at = 0; wire[at] != 0; at += wire[at] + 1U)
            if (!builder.append_label(wire.subspan(at + 1, wire[at]))) return bad("too long with its origin");
    }
    return builder.finish();
}

Result<Name> Name::from_wire(std::span<const std::uint8_t> wire) {
    auto bad = [] { return fail(Code::invalid_argument, "malformed domain name"); };
    if (wire.empty() || wire.size() > max_name_bytes) return bad();
    std::size_t at = 0;
    while (wire[at] != 0) {
        if (wire[at] > max_label_bytes) return bad();
        at += wire[at] + 1U;
        if (at >= wire.size()) return bad();
    }
    if (at + 1 != wire.size()) return bad();
    return from_checked_wire(wire);
}

Name Name::from_checked_wire(std::span<const std::uint8_t> wire) {
    Name name;
    std::memcpy(name.wire_.data(), wire.data(), wire.size());
    name.size_ = static_cast<std::uint8_t>(wire.size());
    return name;
}

std::size_t Name::label_count() const {
    std::size_t count = 0;
    for (std::size_t at = 0; wire_[at] != 0; at += wire_[at] + 1U) ++count;
    return count;
}

std::string Name::to_text() const {
    if (is_root()) return ".";
    std::string text;
    text.reserve(size_ + 8U);
    for (std::size_t at = 0; wire_[at] != 0; at += wire_[at] + 1U) {
        for (std::size_t i = at + 1; i <= at + wire_[at]; ++i) {
            std::uint8_t byte = wire_[i];
            if (byte == '.' || byte == '\\' || byte == '"' || byte == '(' || byte == ')' || byte == ';' ||
                byte == '@' || byte == '$') {
                text += '\\';
                text += static_cast<char>(byte);
            } else if (byte <= ' ' || byte > '~') {
                text += '\\';
                text += static_cast<char>('0' + byte / 100);
                text += static_cast<char>('0' + byte / 10 % 10);
                text += static_cast<char>('0' + byte % 10);
            } else {
                text += static_cast<char>(byte);
            }
        }
        text += '.';
    }
    return text;
}

Name Name::parent() const {
    if (is_root()) return *this;
    return from_checked_wire(wire().subspan(wire_[0] + 1U));
}

Name Name::lower() const {
    Name name;
    name.size_ = size_;
    for (std::size_t i = 0; i < size_; ++i) name.wire_[i] = to_lower(wire_[i]);
    return name;
}

bool Name::is_within(const Name& ancestor) const {
    if (ancestor.size_ > size_) return false;
    std::size_t offset = size_ - ancestor.size_;
    // The suffix must begin at a label.
    std::size_t at = 0;
    while (at < offset) at += wire_[at] + 1U;
    return at == offset && equal_ignoring_case(wire_.data() + offset, ancestor.wire_.data(), ancestor.size_);
}

Name Name::suffix(std::size_t labels) const {
    std::size_t skip = label_count();
    skip = skip > labels ? skip - labels : 0;
    std::size_t at = 0;
    for (; skip > 0; --skip) at += wire_[at] + 1U;
    return from_checked_wire(wire().subspan(at));
}

Result<Name> Name::wildcard() const {
    constexpr std::array<std::uint8_t, 2> star{1, '*'};
    return with_prefix(star);
}

Result<Name> Name::with_prefix(std::span<const std::uint8_t> labels) const {
    if (labels.size() + size_ > max_name_bytes) return fail(Code::invalid_argument, "domain name is too long");
    Name name;
    std::memcpy(name.wire_.data(), labels.data(), labels.size());
    std::memcpy(name.wire_.data() + labels.size(), wire_.data(), size_);
    name.size_ = static_cast<std::uint8_t>(labels.size() + size_);
    return name;
}

bool Name::operator==(const Name& other) const {
    return size_ == other.size_ && equal_ignoring_case(wire_.data(), other.wire_.data(), size_);
}

std::strong_ordering Name::canonical_order(const Name& other) const {
    Labels mine = labels_of(wire());
    Labels theirs = labels_of(other.wire());
    while (mine.count > 0 && theirs.count > 0) {
        const std::uint8_t* a = wire_.data() + mine.start[--mine.count];
        const std::uint8_t* b = other.wire_.data() + theirs.start[--theirs.count];
        std::size_t common = std::min<std::size_t>(*a, *b);
        for (std::size_t i = 1; i <= common; ++i)
            if (auto order = to_lower(a[i]) <=> to_lower(b[i]); order != 0) return order;
        if (auto order = *a <=> *b; order != 0) return order;
    }
    return mine.count <=> theirs.count;
}

std::uint64_t Name::hash() const {
    // FNV-1a over 8-byte words of the lower-case form would need a copy; names are short, bytes do.
    std::uint64_t value = 0xcbf29ce484222325U;
    for (std::size_t i = 0; i < size_; ++i) value = (value ^ to_lower(wire_[i])) * 0x100000001b3U;
    return value ^ (value >> 29U);
}

}  // namespace wherry::dns
