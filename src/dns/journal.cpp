#include "dns/journal.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "dns/message.hpp"
#include "dns/siphash.hpp"

namespace wherry::dns {

namespace {

// magic, length of what follows, checksum of it (not a secret: against half-written pages)
constexpr std::uint32_t magic = 0x574A3031;  // "WJ01"
constexpr std::size_t head_bytes = 16;
constexpr std::size_t fixed_bytes = 12;
constexpr SipKey checksum_key{'w', 'h', 'e', 'r', 'r', 'y', '-', 'j', 'o', 'u', 'r', 'n', 'a', 'l', '0', '1'};

std::uint64_t load_u64(const std::uint8_t* at) {
    return static_cast<std::uint64_t>(load_u32(at)) << 32U | load_u32(at + 4);
}

Bytes encode(const ZoneDiff& diff) {
    Bytes entry(head_bytes + fixed_bytes);
    entry.insert(entry.end(), diff.deleted.begin(), diff.deleted.end());
    entry.insert(entry.end(), diff.added.begin(), diff.added.end());
    store_u32(entry.data(), magic);
    store_u32(entry.data() + 4, static_cast<std::uint32_t>(entry.size() - head_bytes));
    store_u32(entry.data() + head_bytes, diff.from);
    store_u32(entry.data() + head_bytes + 4, diff.to);
    store_u32(entry.data() + head_bytes + 8, static_cast<std::uint32_t>(diff.deleted.size()));
    const std::uint64_t sum = siphash24(checksum_key, std::span(entry).subspan(head_bytes));
    store_u32(entry.data() + 8, static_cast<std::uint32_t>(sum >> 32U));
    store_u32(entry.data() + 12, static_cast<std::uint32_t>(sum));
    return entry;
}

}  // namespace

std::vector<std::shared_ptr<const ZoneDiff>> parse_journal(std::span<const std::uint8_t> bytes,
                                                           std::size_t& valid_bytes) {
    std::vector<std::shared_ptr<const ZoneDiff>> diffs;
    valid_bytes = 0;
    while (bytes.size() - valid_bytes >= head_bytes + fixed_bytes) {
        std::span<const std::uint8_t> rest = bytes.subspan(valid_bytes);
        const std::size_t length = load_u32(rest.data() + 4);
        if (load_u32(rest.data()) != magic || length < fixed_bytes || length > rest.size() - head_bytes) break;
        std::span<const std::uint8_t> body = rest.subspan(head_bytes, length);
        if (siphash24(checksum_key, body) != load_u64(rest.data() + 8)) break;
        const std::size_t deleted = load_u32(body.data() + 8);
        if (deleted > length - fixed_bytes) break;
        auto diff = std::make_shared<ZoneDiff>();
        diff->from = load_u32(body.data());
        diff->to = load_u32(body.data() + 4);
        auto first = body.begin() + fixed_bytes;
        diff->deleted.assign(first, first + static_cast<std::ptrdiff_t>(deleted));
        diff->added.assign(first + static_cast<std::ptrdiff_t>(deleted), body.end());
        diffs.push_back(std::move(diff));
        valid_bytes += head_bytes + length;
    }
    return diffs;
}

Result<Journal> Journal::open(const std::string& path) {
    Journal journal(path, TRY(open_file(path, O_RDWR | O_CREAT | O_APPEND, 0644)));
    std::string text = TRY(read_to_end(journal.file_.get(), std::size_t{1} << 32U));
    // SAFETY: characters as bytes.
    journal.diffs_ = parse_journal({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}, journal.bytes_);
    if (journal.bytes_ != text.size() && ::ftruncate(journal.file_.get(), static_cast<off_t>(journal.bytes_)) < 0)
        return fail_errno("truncate " + path);
    return journal;
}

Result<> Journal::append(const std::shared_ptr<const ZoneDiff>& diff) {
    Bytes entry = encode(*diff);
    // SAFETY: bytes as characters.
    auto written = write_all(file_.get(), {reinterpret_cast<const char*>(entry.data()), entry.size()});
    if (!written || ::fdatasync(file_.get()) < 0) {
        // What is half there must not stand in front of the next entry.
        auto failed = written ? fail_errno("sync " + path_) : std::unexpected(std::move(written).error());
        (void)::ftruncate(file_.get(), static_cast<off_t>(bytes_));
        return failed;
    }
    bytes_ += entry.size();
    diffs_.push_back(diff);
    return {};
}

Result<> Journal::clear() {
    if (::ftruncate(file_.get(), 0) < 0 || ::fdatasync(file_.get()) < 0) return fail_errno("truncate " + path_);
    bytes_ = 0;
    diffs_.clear();
    return {};
}

Result<> write_zone_file(const Zone& zone, const std::string& path) {
    std::string text;
    text.reserve(zone.data_bytes() * 3);
    auto append = [&](NodeIndex node, const RecordSet& set) {
        Name owner = zone.name_of(node);
        for (std::span<const std::uint8_t> rdata : set)
            text += record_to_text(owner, set.ttl(), Class::IN, set.type(), rdata) + "\n";
    };
    if (auto soa = zone.records(zone.apex(), Type::SOA)) append(zone.apex(), *soa);
    for (NodeIndex i = 0; i < zone.node_count(); ++i)
        for (std::size_t k = 0; k < zone.set_count(i); ++k)
            if (zone.set(i, k).type() != Type::SOA) append(i, zone.set(i, k));
    return write_file_atomic(path, text, 0644, Durability::data);
}

}  // namespace wherry::dns
