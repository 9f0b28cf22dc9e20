// A number for every client address: disjoint prefixes that cover each family whole, merged where neighbours have the
// same number. The depth of the prefix an address falls into is the scope of an answer to it (RFC 7871 section 7.2.1):
// every address in that prefix gets the same answer.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "dns/catalog.hpp"
#include "dns/steering/prefix.hpp"

namespace wherry::dns::steering {

class PrefixTable {
  public:
    static constexpr unsigned key_bits = 64;  // the first 64 bits of an address; IPv4 in the upper half
    struct Entry {
        Prefix prefix;
        std::uint16_t value = 0;
    };
    struct Match {
        std::uint16_t value = 0;
        std::uint8_t depth = 0;
    };

    PrefixTable() : PrefixTable(std::vector<Entry>{}, 0) {}
    // Longer prefixes win; of two alike the later one. What no entry covers has `otherwise`. IPv6 prefixes count to 64
    // bits.
    PrefixTable(std::vector<Entry> entries, std::uint16_t otherwise);

    // 4 or 16 bytes. No allocation; for IPv4 prefixes up to /24 three places of memory are read.
    Match find(std::span<const std::uint8_t> address) const;
    // find() in steps.
    void begin(std::span<const std::uint8_t> address, StepwiseSearch& search) const;
    static void step(StepwiseSearch& search);
    static Match end(StepwiseSearch& search);
    std::size_t size() const { return ipv4_.size + ipv6_.size; }
    // Calls visit(prefix, value) for each of the merged prefixes in order.
    template <class Visit>
    void each(Visit visit) const {
        for (bool ipv6 : {false, true}) {
            std::uint64_t key = 0;
            do {
                const Match match = (ipv6 ? ipv6_ : ipv4_).find(key);
                visit(prefix_at(key, match.depth, ipv6), match.value);
                key = match.depth == 0 ? 0 : key + (1ULL << (key_bits - match.depth));
            } while (key != 0);
        }
    }

  private:
    static constexpr unsigned step_bits = 8;
    // A range's number and depth, or the node that the next eight bits choose from.
    using Place = std::uint32_t;
    static constexpr Place inner = 1U << 31U;

    // 256 places, of which runs of the same one are kept once: a bit says where a run begins.
    struct alignas(64) Node {
        std::array<std::uint64_t, 4> begins{};
        std::uint32_t first = 0;               // of its places
        std::array<std::uint8_t, 4> before{};  // runs that begin in earlier words

        std::size_t place(unsigned slot) const {
            const std::uint64_t upto = begins[slot / 64] & (~0ULL >> (63 - slot % 64));
            return first + before[slot / 64] + static_cast<unsigned>(__builtin_popcountll(upto)) - 1;
        }
    };
    struct Tree {
        unsigned root_bits = 0;     // 16 where there are many ranges
        std::vector<Place> root;    // by the first bits
        std::vector<Place> places;  // of all nodes
        std::vector<Node> nodes;
        std::size_t size = 0;  // ranges

        std::size_t root_of(std::uint64_t key) const { return root_bits == 0 ? 0 : key >> (key_bits - root_bits); }
        Match find(std::uint64_t key) const {
            Place at = root[root_of(key)];
            for (unsigned shift = key_bits - root_bits - step_bits; (at & inner) != 0; shift -= step_bits) {
                const Node& node = nodes[at & ~inner];
                at = places[node.place(static_cast<unsigned>(key >> shift) & 255U)];
            }
            return {static_cast<std::uint16_t>(at), static_cast<std::uint8_t>(at >> 16U)};
        }
    };
    struct Ranges;
    static Ranges divide(const std::vector<Entry>& entries, std::uint16_t otherwise);
    static Tree make(const std::vector<Entry>& entries, std::uint16_t otherwise);
    static Place plant(Tree& tree, const Ranges& ranges, std::size_t& at, std::uint64_t key, unsigned depth);
    static Prefix prefix_at(std::uint64_t key, unsigned depth, bool ipv6);

    Tree ipv4_;
    Tree ipv6_;
};

}  // namespace wherry::dns::steering
