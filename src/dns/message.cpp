#include "dns/message.hpp"

#include <algorithm>
#include <cstring>

#include "dns/rdata.hpp"

namespace wherry::dns {

namespace {

std::unexpected<Error> malformed(const char* what) {
    return fail(Code::invalid_argument, what);
}

std::uint16_t flags_of(const Header& header) {
    unsigned flags = header.rcode & 15U;
    flags |= static_cast<unsigned>(header.response) << 15U | static_cast<unsigned>(header.opcode) << 11U;
    flags |= static_cast<unsigned>(header.authoritative) << 10U | static_cast<unsigned>(header.truncated) << 9U;
    flags |= static_cast<unsigned>(header.recursion_desired) << 8U | static_cast<unsigned>(header.recursion_available)
                                                                         << 7U;
    flags |= static_cast<unsigned>(header.authentic_data) << 5U | static_cast<unsigned>(header.checking_disabled) << 4U;
    return static_cast<std::uint16_t>(flags);
}

}  // namespace

Result<MessageReader> MessageReader::open(std::span<const std::uint8_t> packet) {
    if (packet.size() < header_bytes) return malformed("message is shorter than its header");
    MessageReader reader(packet);
    const std::uint8_t* p = packet.data();
    Header& header = reader.header_;
    unsigned flags = load_u16(p + 2);
    header.id = load_u16(p);
    header.response = (flags & 0x8000U) != 0;
    header.opcode = static_cast<Opcode>(flags >> 11U & 15U);
    header.authoritative = (flags & 0x400U) != 0;
    header.truncated = (flags & 0x200U) != 0;
    header.recursion_desired = (flags & 0x100U) != 0;
    header.recursion_available = (flags & 0x80U) != 0;
    header.authentic_data = (flags & 0x20U) != 0;
    header.checking_disabled = (flags & 0x10U) != 0;
    header.rcode = static_cast<std::uint8_t>(flags & 15U);
    header.questions = load_u16(p + 4);
    header.answers = load_u16(p + 6);
    header.authorities = load_u16(p + 8);
    header.additionals = load_u16(p + 10);
    return reader;
}

Result<Name> MessageReader::read_name(std::size_t& at) const {
    std::array<std::uint8_t, max_name_bytes> wire;
    std::size_t size = 0;
    std::size_t position = at;
    std::size_t lowest = at;  // each pointer must go below all that was read for this name
    bool jumped = false;
    while (true) {
        if (position >= packet_.size()) return malformed("name runs past the message");
        std::uint8_t length = packet_[position];
        if (length >= 0xC0) {
            if (position + 2 > packet_.size()) return malformed("name runs past the message");
            std::size_t target = load_u16(packet_.data() + position) & 0x3FFFU;
            if (!jumped) at = position + 2;
            jumped = true;
            if (target >= lowest || target < header_bytes)
                return malformed("compression pointer does not point backwards");
            lowest = position = target;
            continue;
        }
        if (length > max_label_bytes) return malformed("unknown label type");
        if (size + length + 1U > max_name_bytes - (length == 0 ? 0U : 1U))
            return malformed("name is longer than 255 bytes");
        if (position + 1U + length > packet_.size()) return malformed("name runs past the message");
        std::memcpy(wire.data() + size, packet_.data() + position, length + 1U);
        size += length + 1U;
        position += length + 1U;
        if (length == 0) break;
    }
    if (!jumped) at = position;
    return Name::from_checked_wire(std::span(wire).first(size));
}

Result<Question> MessageReader::read_question() {
    std::size_t at = offset_;
    Name name = TRY(read_name(at));
    if (at + 4 > packet_.size()) return malformed("question runs past the message");
    offset_ = at + 4;
    return Question{name, static_cast<Type>(load_u16(packet_.data() + at)),
                    static_cast<Class>(load_u16(packet_.data() + at + 2))};
}

Result<RecordView> MessageReader::read_record() {
    std::size_t at = offset_;
    RecordView record;
    record.offset = at;
    record.name = TRY(read_name(at));
    if (at + 10 > packet_.size()) return malformed("record runs past the message");
    const std::uint8_t* p = packet_.data() + at;
    record.type = static_cast<Type>(load_u16(p));
    record.dns_class = static_cast<Class>(load_u16(p + 2));
    record.ttl = load_u32(p + 4);
    std::size_t length = load_u16(p + 8);
    if (at + 10 + length > packet_.size()) return malformed("record data runs past the message");
    record.rdata_offset = at + 10;
    record.rdata = packet_.subspan(record.rdata_offset, length);
    offset_ = record.rdata_offset + length;
    return record;
}

std::optional<std::span<const std::uint8_t>> Edns::option(EdnsOption code) const {
    std::span<const std::uint8_t> rest = options;
    while (rest.size() >= 4) {
        std::size_t length = load_u16(rest.data() + 2);
        if (length + 4 > rest.size()) return std::nullopt;
        if (load_u16(rest.data()) == static_cast<std::uint16_t>(code)) return rest.subspan(4, length);
        rest = rest.subspan(4 + length);
    }
    return std::nullopt;
}

Result<Edns> parse_edns(const RecordView& record) {
    if (!record.name.is_root()) return malformed("OPT record is not owned by the root");
    Edns edns;
    edns.udp_payload_bytes = static_cast<std::uint16_t>(record.dns_class);
    edns.extended_rcode = static_cast<std::uint8_t>(record.ttl >> 24U);
    edns.version = static_cast<std::uint8_t>(record.ttl >> 16U);
    edns.dnssec_ok = (record.ttl & 0x8000U) != 0;
    edns.compact_ok = (record.ttl & 0x4000U) != 0;
    edns.options = record.rdata;
    std::span<const std::uint8_t> rest = record.rdata;
    while (!rest.empty()) {
        if (rest.size() < 4) return malformed("EDNS option is cut short");
        std::size_t length = load_u16(rest.data() + 2) + std::size_t{4};
        if (length > rest.size()) return malformed("EDNS option is cut short");
        rest = rest.subspan(length);
    }
    return edns;
}

bool MessageWriter::write_header(const Header& header) {
    if (!room(header_bytes)) return false;
    size_ += header_bytes;
    patch_header(header);
    return true;
}

void MessageWriter::patch_header(const Header& header) {
    store_u16(buffer_.data(), header.id);
    store_u16(buffer_.data() + 2, flags_of(header));
    set_counts(header.questions, header.answers, header.authorities, header.additionals);
}

void MessageWriter::set_counts(std::uint16_t questions, std::uint16_t answers, std::uint16_t authorities,
                               std::uint16_t additionals) {
    store_u16(buffer_.data() + 4, questions);
    store_u16(buffer_.data() + 6, answers);
    store_u16(buffer_.data() + 8, authorities);
    store_u16(buffer_.data() + 10, additionals);
}

bool MessageWriter::write_u8(std::uint8_t value) {
    if (!room(1)) return false;
    buffer_[size_++] = value;
    return true;
}

bool MessageWriter::write_u16(std::uint16_t value) {
    if (!room(2)) return false;
    store_u16(buffer_.data() + size_, value);
    size_ += 2;
    return true;
}

bool MessageWriter::write_u32(std::uint32_t value) {
    if (!room(4)) return false;
    store_u32(buffer_.data() + size_, value);
    size_ += 4;
    return true;
}

bool MessageWriter::write_bytes(std::span<const std::uint8_t> bytes) {
    if (!room(bytes.size())) return false;
    if (!bytes.empty()) std::memcpy(buffer_.data() + size_, bytes.data(), bytes.size());
    size_ += bytes.size();
    return true;
}

std::uint16_t MessageWriter::find(std::span<const std::uint8_t> wire, std::size_t names) const {
    for (std::size_t i = 0; i < names; ++i) {
        std::size_t at = offsets_[i];
        std::size_t k = 0;
        // Walks the written name, which was compressed by this writer and so is well-formed and acyclic.
        while (true) {
            std::uint8_t length = buffer_[at];
            if (length >= 0xC0) {
                at = load_u16(buffer_.data() + at) & 0x3FFFU;
                continue;
            }
            // Compression keeps the case of the first occurrence only where it is the same: names are compared exactly,
            // so that answers echo the case that was asked for.
            if (k + length >= wire.size() + (length == 0 ? 1U : 0U) || wire[k] != length ||
                std::memcmp(wire.data() + k, buffer_.data() + at, length + 1U) != 0)
                break;
            if (length == 0) return offsets_[i];
            k += length + 1U;
            at += length + 1U;
        }
    }
    return 0;
}

bool MessageWriter::write_name(const Name& name) {
    std::span<const std::uint8_t> wire = name.wire();
    std::size_t at = 0;
    std::size_t start = size_;
    std::size_t names_before = names_;
    while (wire[at] != 0) {
        if (std::uint16_t offset = find(wire.subspan(at), names_before); offset != 0) {
            if (write_u16(static_cast<std::uint16_t>(0xC000U | offset))) return true;
            break;
        }
        if (!room(wire[at] + 1U)) break;
        if (names_ < offsets_.size() && size_ < 0x4000) offsets_[names_++] = static_cast<std::uint16_t>(size_);
        std::memcpy(buffer_.data() + size_, wire.data() + at, wire[at] + 1U);
        size_ += wire[at] + 1U;
        at += wire[at] + 1U;
    }
    // The entries added above are only valid once the name is whole; a rollback forgets them.
    if (wire[at] == 0 && write_u8(0)) return true;
    size_ = start;
    names_ = names_before;
    return false;
}

bool MessageWriter::write_name_uncompressed(const Name& name) {
    return write_bytes(name.wire());
}

bool MessageWriter::write_question(const Question& question) {
    Mark before = mark();
    if (write_name(question.name) && write_u16(static_cast<std::uint16_t>(question.type)) &&
        write_u16(static_cast<std::uint16_t>(question.dns_class)))
        return true;
    rollback(before);
    return false;
}

bool MessageWriter::begin_record(const Name& owner, Type type, Class dns_class, std::uint32_t ttl) {
    if (!write_name(owner) || !write_u16(static_cast<std::uint16_t>(type)) ||
        !write_u16(static_cast<std::uint16_t>(dns_class)) || !write_u32(ttl))
        return false;
    rdata_length_at_ = size_;
    return write_u16(0);
}

bool MessageWriter::end_rdata() {
    std::size_t length = size_ - rdata_length_at_ - 2;
    if (length > 65535) return false;
    store_u16(buffer_.data() + rdata_length_at_, static_cast<std::uint16_t>(length));
    return true;
}

bool MessageWriter::write_record(const Name& owner, Type type, Class dns_class, std::uint32_t ttl,
                                 std::span<const std::uint8_t> rdata) {
    Mark before = mark();
    if (begin_record(owner, type, dns_class, ttl) && write_rdata_compressed(*this, type, rdata) && end_rdata())
        return true;
    rollback(before);
    return false;
}

bool MessageWriter::write_edns(const Edns& edns) {
    Mark before = mark();
    std::uint32_t ttl = static_cast<std::uint32_t>(edns.extended_rcode) << 24U |
                        static_cast<std::uint32_t>(edns.version) << 16U | (edns.dnssec_ok ? 0x8000U : 0U);
    if (write_u8(0) && write_u16(static_cast<std::uint16_t>(Type::OPT)) && write_u16(edns.udp_payload_bytes) &&
        write_u32(ttl) && write_u16(static_cast<std::uint16_t>(edns.options.size())) && write_bytes(edns.options))
        return true;
    rollback(before);
    return false;
}

}  // namespace wherry::dns
