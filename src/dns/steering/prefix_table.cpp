#include "dns/steering/prefix_table.hpp"

#include <algorithm>

#include "dns/message.hpp"

namespace wherry::dns::steering {

namespace {

constexpr std::size_t many = 1000;  // ranges that are worth a root of 256 KiB

std::uint64_t key_of(const std::uint8_t* bytes, bool ipv6) {
    if (!ipv6) return std::uint64_t{load_u32(bytes)} << 32U;
    return std::uint64_t{load_u32(bytes)} << 32U | load_u32(bytes + 4);
}

// A node of the trie of bits that the ranges are made from: children 0 are none.
struct Branch {
    std::uint32_t child[2] = {0, 0};
    std::uint16_t value = 0;
    bool has_value = false;
};

struct Trie {
    std::vector<Branch> nodes{1};

    void add(std::uint64_t key, unsigned depth, std::uint16_t value) {
        std::uint32_t at = 0;
        for (unsigned bit = 0; bit < depth; ++bit) {
            unsigned side = key >> (PrefixTable::key_bits - 1 - bit) & 1U;
            if (nodes[at].child[side] == 0) {
                nodes[at].child[side] = static_cast<std::uint32_t>(nodes.size());
                nodes.emplace_back();
            }
            at = nodes[at].child[side];
        }
        nodes[at].value = value;
        nodes[at].has_value = true;
    }

    // Pushes values down to leaves and folds leaves with the same value; true when the whole subtree is one value.
    bool fold(std::uint32_t at, std::uint16_t inherited) {
        std::uint16_t value = nodes[at].has_value ? nodes[at].value : inherited;
        nodes[at].value = value;
        if (nodes[at].child[0] == 0 && nodes[at].child[1] == 0) return true;
        bool uniform = true;
        for (unsigned side = 0; side < 2; ++side) {
            if (nodes[at].child[side] == 0) {
                auto fresh = static_cast<std::uint32_t>(nodes.size());
                nodes.emplace_back();
                nodes[fresh].value = value;
                nodes[at].child[side] = fresh;
            } else {
                uniform = fold(nodes[at].child[side], value) && uniform;
            }
        }
        uniform = uniform && nodes[nodes[at].child[0]].value == nodes[nodes[at].child[1]].value;
        if (uniform) {
            nodes[at].value = nodes[nodes[at].child[0]].value;
            nodes[at].child[0] = nodes[at].child[1] = 0;
        }
        return uniform;
    }
};

}  // namespace

// Disjoint, in order, and together the whole family.
struct PrefixTable::Ranges {
    std::vector<std::uint64_t> starts;
    std::vector<Match> matches;

    Place place(std::size_t at) const { return Place{matches[at].depth} << 16U | matches[at].value; }
};

PrefixTable::Ranges PrefixTable::divide(const std::vector<Entry>& entries, std::uint16_t otherwise) {
    Trie trie;
    trie.nodes.reserve(entries.size() * 4 + 1);
    for (const Entry& entry : entries)
        trie.add(key_of(entry.prefix.bytes.data(), entry.prefix.ipv6),
                 std::min<unsigned>(entry.prefix.length, key_bits), entry.value);
    trie.fold(0, otherwise);
    Ranges ranges;
    struct Frame {
        std::uint32_t node;
        std::uint64_t key;
        unsigned depth;
    };
    std::vector<Frame> open{{0, 0, 0}};
    while (!open.empty()) {
        Frame frame = open.back();
        open.pop_back();
        const Branch& node = trie.nodes[frame.node];
        if (node.child[0] == 0) {
            ranges.starts.push_back(frame.key);
            ranges.matches.push_back({node.value, static_cast<std::uint8_t>(frame.depth)});
            continue;
        }
        open.push_back({node.child[1], frame.key | 1ULL << (key_bits - 1 - frame.depth), frame.depth + 1});
        open.push_back({node.child[0], frame.key, frame.depth + 1});
    }
    return ranges;
}

// The place of the block that begins at `key` and has `depth` bits in common; `at` is the range that holds its
// beginning, and is moved to the one that holds its end.
PrefixTable::Place PrefixTable::plant(Tree& tree, const Ranges& ranges, std::size_t& at, std::uint64_t key,
                                      unsigned depth) {
    if (ranges.matches[at].depth <= depth) return ranges.place(at);
    const auto index = static_cast<Place>(tree.nodes.size());
    tree.nodes.emplace_back();
    // Those of nodes further down come first: a node's own have to stand together.
    std::vector<Place> places;
    Node node;
    const unsigned below = depth + step_bits;
    for (unsigned slot = 0; slot < 256; ++slot) {
        if (slot % 64 == 0) node.before[slot / 64] = static_cast<std::uint8_t>(places.size());
        const std::uint64_t start = key | std::uint64_t{slot} << (key_bits - below);
        while (at + 1 < ranges.starts.size() && ranges.starts[at + 1] <= start) ++at;
        const Place place = plant(tree, ranges, at, start, below);
        if (!places.empty() && places.back() == place) continue;
        node.begins[slot / 64] |= 1ULL << (slot % 64);
        places.push_back(place);
    }
    node.first = static_cast<std::uint32_t>(tree.places.size());
    tree.places.insert(tree.places.end(), places.begin(), places.end());
    tree.nodes[index] = node;
    return inner | index;
}

PrefixTable::Tree PrefixTable::make(const std::vector<Entry>& entries, std::uint16_t otherwise) {
    const Ranges ranges = divide(entries, otherwise);
    Tree tree;
    tree.size = ranges.starts.size();
    tree.root_bits = tree.size < many ? 0 : 16;
    std::size_t at = 0;
    for (std::uint64_t top = 0; top < 1ULL << tree.root_bits; ++top) {
        const std::uint64_t start = tree.root_bits == 0 ? 0 : top << (key_bits - tree.root_bits);
        while (at + 1 < ranges.starts.size() && ranges.starts[at + 1] <= start) ++at;
        const Place place = plant(tree, ranges, at, start, tree.root_bits);
        tree.root.push_back(place);
    }
    tree.nodes.shrink_to_fit();
    tree.places.shrink_to_fit();
    return tree;
}

PrefixTable::PrefixTable(std::vector<Entry> entries, std::uint16_t otherwise) {
    std::vector<Entry> ipv6;
    for (const Entry& entry : entries)
        if (entry.prefix.ipv6) ipv6.push_back(entry);
    std::erase_if(entries, [](const Entry& entry) { return entry.prefix.ipv6; });
    ipv4_ = make(entries, otherwise);
    ipv6_ = make(ipv6, otherwise);
}

PrefixTable::Match PrefixTable::find(std::span<const std::uint8_t> address) const {
    const bool ipv6 = address.size() == 16;
    return (ipv6 ? ipv6_ : ipv4_).find(key_of(address.data(), ipv6));
}

void PrefixTable::begin(std::span<const std::uint8_t> address, StepwiseSearch& search) const {
    const bool ipv6 = address.size() == 16;
    const Tree& tree = ipv6 ? ipv6_ : ipv4_;
    search.tree = &tree;
    search.key = key_of(address.data(), ipv6);
    search.next = &tree.root[tree.root_of(search.key)];
    search.shift = static_cast<std::uint8_t>(key_bits - tree.root_bits - step_bits);
    search.step = 0;
    __builtin_prefetch(search.next);
}

// Step by step: a place, the node that it leads to, the place that the node leads to, and so on.
void PrefixTable::step(StepwiseSearch& search) {
    const Tree& tree = *static_cast<const Tree*>(search.tree);
    if (search.next == nullptr) return;
    if (search.step++ % 2 == 0) {
        search.place = *static_cast<const Place*>(search.next);
        search.next = (search.place & inner) != 0 ? &tree.nodes[search.place & ~inner] : nullptr;
    } else {
        const Node& node = *static_cast<const Node*>(search.next);
        search.next = &tree.places[node.place(static_cast<unsigned>(search.key >> search.shift) & 255U)];
        search.shift = static_cast<std::uint8_t>(search.shift - step_bits);
    }
    __builtin_prefetch(search.next);
}

PrefixTable::Match PrefixTable::end(StepwiseSearch& search) {
    while (search.next != nullptr) step(search);
    return {static_cast<std::uint16_t>(search.place), static_cast<std::uint8_t>(search.place >> 16U)};
}

Prefix PrefixTable::prefix_at(std::uint64_t key, unsigned depth, bool ipv6) {
    std::array<std::uint8_t, 16> bytes{};
    for (unsigned i = 0; i < 8; ++i) bytes[i] = static_cast<std::uint8_t>(key >> (56 - 8 * i));
    return Prefix::from_bytes(ipv6, bytes.data(), depth);
}

}  // namespace wherry::dns::steering
