#include "fuse/identity.hpp"

#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <string>

namespace wherry::fuse {
namespace {

constexpr std::uint64_t bit(int capability) {
    return 1ULL << static_cast<unsigned>(capability);
}

using CapabilityWords = std::array<__user_cap_data_struct, 2>;

void set_effective(std::uint64_t permitted, std::uint64_t effective) {
    __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    CapabilityWords words = {};
    for (unsigned i = 0; i < 2; ++i) {
        words[i].permitted = static_cast<std::uint32_t>(permitted >> (32 * i));
        words[i].effective = static_cast<std::uint32_t>((permitted & effective) >> (32 * i));
    }
    // SAFETY: reads both structures; only takes from what is permitted, which cannot fail.
    syscall(SYS_capset, &header, words.data());
}

bool overlaps(std::uint32_t a, std::uint32_t b, std::uint32_t a_count, std::uint32_t b_count) {
    return std::uint64_t{a} < std::uint64_t{b} + b_count && std::uint64_t{b} < std::uint64_t{a} + a_count;
}

}  // namespace

Result<IdRange> parse_id_range(std::string_view text) {
    std::array<std::uint32_t, 3> numbers = {};
    std::string_view rest = text;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
        const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), numbers[i]);
        const bool is_last = i + 1 == numbers.size();
        const auto used = static_cast<std::size_t>(end - rest.data());
        if (error != std::errc() || (is_last ? used != rest.size() : used >= rest.size() || rest[used] != ':'))
            return fail(Code::invalid_argument,
                        "mapping of ids " + std::string(text) + ": expected guest:host:count, three numbers");
        if (!is_last) rest.remove_prefix(used + 1);
    }
    return IdRange{.guest = numbers[0], .host = numbers[1], .count = numbers[2]};
}

Result<IdMap> IdMap::create(std::vector<IdRange> ranges, std::optional<std::uint32_t> squash) {
    for (std::size_t i = 0; i < ranges.size(); ++i) {
        const IdRange& range = ranges[i];
        // The last number, -1, is nobody's.
        if (range.count == 0 || range.guest > UINT32_MAX - range.count || range.host > UINT32_MAX - range.count)
            return fail(Code::invalid_argument, "mapping of ids: an empty range, or one beyond the last id");
        for (std::size_t j = 0; j < i; ++j)
            if (overlaps(range.guest, ranges[j].guest, range.count, ranges[j].count) ||
                overlaps(range.host, ranges[j].host, range.count, ranges[j].count))
                return fail(Code::invalid_argument, "mapping of ids: two ranges overlap");
    }
    if (squash == UINT32_MAX) return fail(Code::invalid_argument, "squashed to an id that is none");
    IdMap map;
    map.ranges_ = std::move(ranges);
    map.squash_ = squash;
    return map;
}

Answer<std::uint32_t> IdMap::to_host(std::uint32_t guest) const {
    if (guest == UINT32_MAX) return refuse(EINVAL);
    for (const IdRange& range : ranges_)
        if (guest >= range.guest && guest - range.guest < range.count) return range.host + (guest - range.guest);
    if (squash_) return *squash_;
    if (ranges_.empty()) return guest;
    return refuse(EOVERFLOW);
}

std::uint32_t IdMap::to_guest(std::uint32_t host) const {
    for (const IdRange& range : ranges_)
        if (host >= range.host && host - range.host < range.count) return range.guest + (host - range.host);
    return ranges_.empty() && !squash_ ? host : nobody;
}

Rights Rights::of_this_process() {
    Rights rights;
    __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    CapabilityWords words = {};
    // SAFETY: fills the array of two, as version 3 does.
    if (syscall(SYS_capget, &header, words.data()) != 0) return rights;
    rights.permitted = words[0].permitted | (std::uint64_t{words[1].permitted} << 32U);
    const std::uint64_t wanted = bit(CAP_SETUID) | bit(CAP_SETGID);
    rights.may_become = (rights.permitted & wanted) == wanted && geteuid() == 0;
    return rights;
}

ActingAs::ActingAs(const Rights& rights, std::uint32_t uid, std::uint32_t gid) : rights_(rights) {
    if (!rights.may_become) return;
    if (gid != 0) {
        setfsgid(gid);
        changed_gid_ = true;
    }
    if (uid != 0) {
        // Takes the rights over files away with it (capabilities(7)); permissions stay the guest's business.
        setfsuid(uid);
        changed_uid_ = true;
        set_effective(rights.permitted,
                      bit(CAP_DAC_OVERRIDE) | bit(CAP_DAC_READ_SEARCH) | bit(CAP_SETUID) | bit(CAP_SETGID));
    }
}

ActingAs::~ActingAs() {
    if (changed_uid_) {
        setfsuid(0);
        set_effective(rights_.permitted, rights_.permitted);
    }
    if (changed_gid_) setfsgid(0);
}

WithoutSetIdRight::WithoutSetIdRight(const Rights& rights) : rights_(rights) {
    set_effective(rights_.permitted, rights_.permitted & ~bit(CAP_FSETID));
}

WithoutSetIdRight::~WithoutSetIdRight() {
    set_effective(rights_.permitted, rights_.permitted);
}

}  // namespace wherry::fuse
