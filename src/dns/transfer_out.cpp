#include "dns/transfer_out.hpp"

#include <algorithm>

namespace wherry::dns {

namespace {
// Compression pointers reach 16 KiB: larger messages would only be less compressed.
constexpr std::size_t message_bytes = 16384;
}  // namespace

TransferStream::TransferStream(const Header& request, const Question& question, std::shared_ptr<const Zone> zone,
                               TsigSession session)
    : header_{.id = request.id,
              .response = true,
              .authoritative = true,
              .recursion_desired = request.recursion_desired},
      question_(question),
      zone_(std::move(zone)),
      session_(std::move(session)) {}

TransferStream TransferStream::axfr(const Header& request, const Question& question, std::shared_ptr<const Zone> zone,
                                    TsigSession session) {
    return {request, question, std::move(zone), std::move(session)};
}

TransferStream TransferStream::ixfr(const Header& request, const Question& question, std::shared_ptr<const Zone> zone,
                                    std::uint32_t from_serial, const ZoneHistory* history, TsigSession session) {
    TransferStream stream(request, question, std::move(zone), std::move(session));
    if (!serial_newer(stream.zone_->serial(), from_serial)) {
        stream.soa_only_ = true;
        return stream;
    }
    if (history != nullptr) stream.diffs_ = history->since(from_serial);
    stream.incremental_ = !stream.diffs_.empty() && stream.diffs_.back()->to == stream.zone_->serial();
    return stream;
}

bool TransferStream::write_soa(MessageWriter& writer) const {
    auto soa = zone_->records(zone_->apex(), Type::SOA);
    return soa && writer.write_record(zone_->origin(), Type::SOA, Class::IN, soa->ttl(), *soa->begin());
}

bool TransferStream::write_some(MessageWriter& writer, std::uint16_t& count) {
    switch (stage_) {
        case Stage::first_soa:
            if (!write_soa(writer)) return false;
            ++count;
            stage_ = soa_only_ ? Stage::done : incremental_ ? Stage::diffs : Stage::nodes;
            return true;
        case Stage::nodes: {
            if (node_ == zone_->node_count()) {
                stage_ = Stage::last_soa;
                return true;
            }
            if (set_ == zone_->set_count(node_)) {
                ++node_;
                set_ = record_ = 0;
                return true;
            }
            RecordSet set = zone_->set(node_, set_);
            if (node_ == zone_->apex() && set.type() == Type::SOA) {
                ++set_;
                return true;
            }
            Name owner = zone_->name_of(node_);
            std::size_t index = 0;
            for (std::span<const std::uint8_t> rdata : set) {
                if (index++ < record_) continue;
                if (!writer.write_record(owner, set.type(), Class::IN, set.ttl(), rdata)) return false;
                ++record_;
                ++count;
            }
            ++set_;
            record_ = 0;
            return true;
        }
        case Stage::diffs: {
            if (diff_ == diffs_.size()) {
                stage_ = Stage::last_soa;
                return true;
            }
            const Bytes& list = half_ == 0 ? diffs_[diff_]->deleted : diffs_[diff_]->added;
            std::span<const std::uint8_t> rest = std::span(list).subspan(offset_);
            PlainRecord record;
            if (!take_plain(rest, record)) {
                offset_ = 0;
                diff_ += half_;
                half_ ^= 1U;
                return true;
            }
            if (!writer.write_record(record.owner, record.type, Class::IN, record.ttl, record.rdata)) return false;
            ++count;
            offset_ = list.size() - rest.size();
            return true;
        }
        case Stage::last_soa:
            if (!write_soa(writer)) return false;
            ++count;
            stage_ = Stage::done;
            return true;
        case Stage::done:
            return false;
    }
    return false;
}

std::size_t TransferStream::next(std::span<std::uint8_t> out, std::uint64_t now) {
    if (stage_ == Stage::done) return 0;
    const std::size_t room = session_.key ? tsig_room(*session_.key) : 0;
    MessageWriter writer(out);
    // The first record of a message may be as large as a record can be; the rest stops at the usual size.
    writer.set_limit(out.size() - room);
    Header header = header_;
    std::uint16_t count = 0;
    if (!writer.write_header(header)) return 0;
    if (first_) {
        if (!writer.write_question(question_)) return 0;
        header.questions = 1;
    }
    while (stage_ != Stage::done && writer.size() < message_bytes && count < 60000)
        if (!write_some(writer, count)) break;
    if (count == 0) {
        stage_ = Stage::done;
        return 0;
    }
    header.answers = count;
    writer.patch_header(header);
    std::size_t size = writer.size();
    if (session_.key) {
        Bytes mac;
        size = tsig_sign({.key = *session_.key, .prior_mac = session_.mac, .timers_only = !first_, .now = now}, out,
                         size, &mac);
        session_.mac = std::move(mac);
    }
    first_ = false;
    return size;
}

}  // namespace wherry::dns
