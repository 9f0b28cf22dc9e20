#include "image/tar/acl.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <vector>

namespace wherry::image {

namespace {

// linux/posix_acl_xattr.h: version 2, then entries of tag, permissions, id, little-endian.
constexpr std::uint32_t version = 2;
constexpr std::uint32_t no_id = 0xffffffffU;
enum Tag : std::uint16_t { user_object = 1, user = 2, group_object = 4, group = 8, mask = 16, other = 32 };

struct Entry {
    std::uint16_t tag = 0;
    std::uint16_t permissions = 0;
    std::uint32_t id = no_id;
};

template <class T>
void append(std::string& out, T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>((value >> (8 * i)) & 0xffU);
}

std::optional<std::uint32_t> number(std::string_view text) {
    std::uint32_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

std::optional<Entry> parse_entry(std::string_view text) {
    std::array<std::string_view, 4> fields{};
    for (auto& field : fields) {
        std::size_t colon = std::min(text.find(':'), text.size());
        field = text.substr(0, colon);
        text.remove_prefix(std::min(colon + 1, text.size()));
    }
    // "mask:r--" and "other:r--" may leave the empty name out.
    if ((fields[0] == "mask" || fields[0] == "other") && fields[2].empty()) std::swap(fields[1], fields[2]);
    Entry entry;
    bool named = !fields[1].empty();
    if (fields[0] == "user" || fields[0] == "u") {
        entry.tag = named ? user : user_object;
    } else if (fields[0] == "group" || fields[0] == "g") {
        entry.tag = named ? group : group_object;
    } else if (fields[0] == "mask" || fields[0] == "m") {
        entry.tag = mask;
    } else if (fields[0] == "other" || fields[0] == "o") {
        entry.tag = other;
    } else {
        return std::nullopt;
    }
    for (char c : fields[2]) {
        if (c == 'r')
            entry.permissions |= 4;
        else if (c == 'w')
            entry.permissions |= 2;
        else if (c == 'x')
            entry.permissions |= 1;
        else if (c != '-')
            return std::nullopt;
    }
    if (entry.tag == user || entry.tag == group) {
        auto id = number(fields[3].empty() ? fields[1] : fields[3]);
        if (!id) return std::nullopt;
        entry.id = *id;
    }
    return entry;
}

}  // namespace

std::optional<std::string> encode_acl(std::string_view text) {
    std::vector<Entry> entries;
    while (!text.empty()) {
        std::size_t end = std::min(text.find_first_of(",\n"), text.size());
        std::string_view one = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        one = one.substr(0, one.find('#'));
        while (!one.empty() && (one.back() == ' ' || one.back() == '\t')) one.remove_suffix(1);
        if (one.empty()) continue;
        auto entry = parse_entry(one);
        if (!entry || entries.size() >= 1000) return std::nullopt;
        entries.push_back(*entry);
    }
    if (entries.empty()) return std::nullopt;
    // The kernel wants them by kind, then by id.
    std::ranges::sort(entries,
                      [](const Entry& a, const Entry& b) { return a.tag != b.tag ? a.tag < b.tag : a.id < b.id; });
    std::string out;
    append(out, version);
    for (const auto& entry : entries) {
        append(out, entry.tag);
        append(out, entry.permissions);
        append(out, entry.id);
    }
    return out;
}

}  // namespace wherry::image
