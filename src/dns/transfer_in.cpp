#include "dns/transfer_in.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>

#include "base/clock.hpp"
#include "base/id.hpp"

namespace wherry::dns {

TransferReader::TransferReader(const Name& origin, std::shared_ptr<const Zone> current, std::uint64_t limit_bytes)
    : origin_(origin), current_(std::move(current)), limit_bytes_(limit_bytes) {}

Result<bool> TransferReader::feed(std::span<const std::uint8_t> message) {
    MessageReader reader = TRY(MessageReader::open(message));
    const Header header = reader.header();
    if (!header.response || header.opcode != Opcode::query) return fail(Code::data_loss, "not an answer to a transfer");
    if (header.rcode != 0)
        return fail(Code::unavailable, "the primary answered " + to_string(static_cast<Rcode>(header.rcode)));
    if (header.truncated) return fail(Code::data_loss, "a transfer's message is truncated");
    bytes_ += message.size();
    if (bytes_ > limit_bytes_) return fail(Code::resource_exhausted, "the zone is larger than allowed");
    for (unsigned i = 0; i < header.questions; ++i) TRY(reader.read_question());
    for (unsigned i = 0; i < header.answers; ++i) {
        RecordView view = TRY(reader.read_record());
        if (view.dns_class != Class::IN) return fail(Code::data_loss, "a record of another class");
        Bytes rdata = TRY(rdata_from_message(reader, view));
        if (state_ == State::done) return fail(Code::data_loss, "records after the end of a transfer");
        TRY(record(view.name, view.type, view.ttl > 0x7FFFFFFFU ? 0 : view.ttl, std::move(rdata)));
    }
    // One SOA alone: the answer to an IXFR for a version that is still the newest (RFC 1995 section 2).
    if (state_ == State::second && current_ && !serial_newer(soa_serial(soa_), current_->serial())) {
        up_to_date_ = true;
        state_ = State::done;
    }
    return state_ == State::done;
}

Result<bool> TransferReader::record(const Name& owner, Type type, std::uint32_t ttl, Bytes rdata) {
    const bool soa = type == Type::SOA;
    if (soa && !(owner == origin_)) return fail(Code::data_loss, "a SOA record below the apex");
    switch (state_) {
        case State::start:
            if (!soa) return fail(Code::data_loss, "a transfer that does not begin with its SOA");
            soa_ = std::move(rdata);
            soa_ttl_ = ttl;
            state_ = State::second;
            return true;
        case State::second:
            if (soa && current_ && soa_serial(rdata) == current_->serial() && soa_serial(rdata) != soa_serial(soa_)) {
                state_ = State::deleting;
                diff_ = {.from = soa_serial(rdata)};
                append_plain(diff_.deleted, owner, type, ttl, rdata);
                return true;
            }
            state_ = State::full;
            builder_.emplace(origin_);
            TRY(builder_->add(origin_, Type::SOA, soa_ttl_, soa_));
            [[fallthrough]];
        case State::full:
            if (soa) {
                if (soa_serial(rdata) != soa_serial(soa_)) return fail(Code::data_loss, "the zone changed meanwhile");
                state_ = State::done;
                return true;
            }
            // What lies outside of the zone is ignored, as other servers do.
            if (owner.is_within(origin_)) TRY(builder_->add(owner, type, ttl, rdata));
            return true;
        case State::deleting:
            if (soa) {
                state_ = State::adding;
                diff_.to = soa_serial(rdata);
                append_plain(diff_.added, owner, type, ttl, rdata);
                return true;
            }
            append_plain(diff_.deleted, owner, type, ttl, rdata);
            return true;
        case State::adding:
            if (soa) {
                if (soa_serial(rdata) != diff_.to) return fail(Code::data_loss, "an IXFR whose serials do not fit");
                at_serial_ = diff_.to;
                diffs_.push_back(std::make_shared<const ZoneDiff>(std::move(diff_)));
                diff_ = {.from = at_serial_};
                if (at_serial_ == soa_serial(soa_)) {
                    state_ = State::done;
                    return true;
                }
                append_plain(diff_.deleted, owner, type, ttl, rdata);
                state_ = State::deleting;
                return true;
            }
            append_plain(diff_.added, owner, type, ttl, rdata);
            return true;
        case State::done:
            break;
    }
    return fail(Code::data_loss, "records after the end of a transfer");
}

Result<TransferResult> TransferReader::finish() && {
    if (state_ != State::done) return fail(Code::data_loss, "the transfer is not whole");
    TransferResult result;
    result.primary_serial = soa_serial(soa_);
    if (up_to_date_) {
        result.up_to_date = true;
        return result;
    }
    if (builder_) {
        result.zone = TRY(std::move(*builder_).finish());
        return result;
    }
    ZoneEditor editor(current_);
    for (const auto& diff : diffs_) TRY(editor.apply(*diff));
    result.zone = TRY(std::move(editor).finish());
    result.diffs = std::move(diffs_);
    return result;
}

namespace {

std::uint64_t now_seconds() {
    return static_cast<std::uint64_t>(::time(nullptr));
}

Result<> wait_for(int fd, short events, const FetchOptions& options) {
    std::array<pollfd, 2> polled{
        {{fd, events, 0}, {options.cancel_fd != nullptr ? *options.cancel_fd : -1, POLLIN, 0}}};
    while (true) {
        int count = ::poll(polled.data(), polled.size(), options.timeout_ms);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return fail_errno("poll");
        if (count == 0) return fail(Code::deadline_exceeded, "no answer in time");
        if ((polled[1].revents & POLLIN) != 0) return fail(Code::cancelled, "the server is stopping");
        return {};
    }
}

Result<> send_message(int fd, std::span<const std::uint8_t> message, const FetchOptions& options) {
    Bytes framed(2 + message.size());
    store_u16(framed.data(), static_cast<std::uint16_t>(message.size()));
    std::ranges::copy(message, framed.begin() + 2);
    for (std::size_t sent = 0; sent < framed.size();) {
        ssize_t count = ::send(fd, framed.data() + sent, framed.size() - sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN) {
            TRY(wait_for(fd, POLLOUT, options));
            continue;
        }
        if (count < 0) return fail_errno("send");
        sent += static_cast<std::size_t>(count);
    }
    return {};
}

Result<> receive_exact(int fd, std::span<std::uint8_t> buffer, const FetchOptions& options) {
    for (std::size_t got = 0; got < buffer.size();) {
        ssize_t count = ::recv(fd, buffer.data() + got, buffer.size() - got, 0);
        if (count < 0 && errno == EAGAIN) {
            TRY(wait_for(fd, POLLIN, options));
            continue;
        }
        if (count < 0) return fail_errno("receive");
        if (count == 0) return fail(Code::unavailable, "the primary closed the connection");
        got += static_cast<std::size_t>(count);
    }
    return {};
}

Result<Bytes> receive_message(int fd, const FetchOptions& options) {
    std::array<std::uint8_t, 2> length{};
    TRY(receive_exact(fd, length, options));
    Bytes message(load_u16(length.data()));
    TRY(receive_exact(fd, message, options));
    return message;
}

// A query, and what its answers are checked with.
struct Asked {
    std::uint16_t id = 0;
    Bytes message;
    Bytes mac;
};

Result<Asked> make_query(const FetchOptions& options, Type type) {
    Asked asked;
    std::array<std::byte, 2> random{};
    fill_random(random);
    asked.id =
        static_cast<std::uint16_t>(std::to_integer<unsigned>(random[0]) << 8U | std::to_integer<unsigned>(random[1]));
    asked.message.resize(2048);
    MessageWriter writer(asked.message);
    Header header{.id = asked.id, .questions = 1};
    bool fits = writer.write_header(header) && writer.write_question({options.origin, type, Class::IN});
    if (type == Type::IXFR && options.current) {
        auto soa = options.current->records(options.current->apex(), Type::SOA);
        fits = fits && soa && writer.write_record(options.origin, Type::SOA, Class::IN, 0, *soa->begin());
        header.authorities = 1;
    }
    if (!fits) return fail(Code::internal, "a query that does not fit");
    writer.patch_header(header);
    std::size_t size = writer.size();
    if (options.key) {
        size = tsig_sign({.key = *options.key, .now = now_seconds()}, asked.message, size, &asked.mac);
        if (size == 0) return fail(Code::internal, "signing failed");
    }
    asked.message.resize(size);
    return asked;
}

// Checks the signatures of a stream's messages: the first must be signed, later ones may come in groups of a hundred
// with one signature (RFC 8945 section 5.3.1), and so must the last.
class StreamCheck {
  public:
    StreamCheck(std::shared_ptr<const TsigKey> key, Bytes mac) : key_(std::move(key)), mac_(std::move(mac)) {
        // The first key of a ring is no key's second.
        if (key_) (void)ring_.add(*key_);
    }

    Result<> check(std::span<const std::uint8_t> message) {
        if (!key_) return {};
        MessageReader reader = TRY(MessageReader::open(message));
        const Header header = reader.header();
        for (unsigned i = 0; i < header.questions; ++i) TRY(reader.read_question());
        unsigned records = unsigned{header.answers} + header.authorities + header.additionals;
        std::optional<RecordView> last;
        for (unsigned i = 0; i < records; ++i) last = TRY(reader.read_record());
        if (!last || last->type != Type::TSIG || header.additionals == 0) {
            if (first_) return fail(Code::unauthenticated, "the answer is not signed");
            if (++unsigned_count_ > 99) return fail(Code::unauthenticated, "too many messages without a signature");
            unsigned_.insert(unsigned_.end(), message.begin(), message.end());
            return {};
        }
        TsigCheck found = tsig_verify(
            ring_, message, *last,
            {.now = now_seconds(), .prior_mac = mac_, .timers_only = !first_, .unsigned_messages = unsigned_});
        if (found.malformed || found.error != 0)
            return fail(Code::unauthenticated,
                        "the answer's signature is wrong: " + to_string(static_cast<Rcode>(found.error)));
        mac_ = std::move(found.mac);
        unsigned_.clear();
        unsigned_count_ = 0;
        first_ = false;
        return {};
    }
    bool last_was_signed() const { return unsigned_count_ == 0; }

  private:
    std::shared_ptr<const TsigKey> key_;
    KeyRing ring_;
    Bytes mac_;
    Bytes unsigned_;
    std::size_t unsigned_count_ = 0;
    bool first_ = true;
};

Result<Fd> connect_to(const FetchOptions& options) {
    Fd socket(::socket(options.primary.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return fail_errno("socket");
    if (::connect(socket.get(), options.primary.raw(), options.primary.size) < 0) {
        if (errno != EINPROGRESS) return fail_errno("connect to " + options.primary.to_text());
        TRY(wait_for(socket.get(), POLLOUT, options), "connect to " + options.primary.to_text());
        int error = 0;
        socklen_t size = sizeof error;
        if (::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error != 0)
            return fail_errno(error, "connect to " + options.primary.to_text());
    }
    return socket;
}

Result<TransferResult> transfer(int fd, const FetchOptions& options, Type type) {
    Asked asked = TRY(make_query(options, type));
    TRY(send_message(fd, asked.message, options));
    StreamCheck check(options.key, std::move(asked.mac));
    TransferReader reader(options.origin, type == Type::IXFR ? options.current : nullptr, options.limit_bytes);
    while (true) {
        Bytes message = TRY(receive_message(fd, options));
        if (message.size() < header_bytes || load_u16(message.data()) != asked.id)
            return fail(Code::data_loss, "an answer to another question");
        TRY(check.check(message));
        if (TRY(reader.feed(message))) break;
    }
    if (!check.last_was_signed()) return fail(Code::unauthenticated, "the last message is not signed");
    return std::move(reader).finish();
}

Result<std::uint32_t> ask_serial(int fd, const FetchOptions& options) {
    Asked asked = TRY(make_query(options, Type::SOA));
    TRY(send_message(fd, asked.message, options));
    Bytes message = TRY(receive_message(fd, options));
    TRY(StreamCheck(options.key, std::move(asked.mac)).check(message));
    MessageReader reader = TRY(MessageReader::open(message));
    const Header header = reader.header();
    if (header.id != asked.id || !header.response) return fail(Code::data_loss, "an answer to another question");
    if (header.rcode != 0)
        return fail(Code::unavailable, "the primary answered " + to_string(static_cast<Rcode>(header.rcode)));
    if (!header.authoritative) return fail(Code::unavailable, "the primary is not authoritative for the zone");
    for (unsigned i = 0; i < header.questions; ++i) TRY(reader.read_question());
    for (unsigned i = 0; i < header.answers; ++i) {
        RecordView record = TRY(reader.read_record());
        if (record.type == Type::SOA && record.name == options.origin)
            return soa_serial(TRY(rdata_from_message(reader, record)));
    }
    return fail(Code::unavailable, "the primary has no SOA record of the zone");
}

}  // namespace

Result<TransferResult> fetch_zone(const FetchOptions& options) {
    Fd socket = TRY(connect_to(options));
    std::uint32_t serial = TRY(ask_serial(socket.get(), options), "SOA from " + options.primary.to_text());
    if (options.current && !options.whole && !serial_newer(serial, options.current->serial()))
        return TransferResult{.up_to_date = true, .primary_serial = serial};
    if (options.current && !options.whole) {
        auto result = transfer(socket.get(), options, Type::IXFR);
        if (result || result.error().code() == Code::cancelled) return result;
        // A primary that cannot do it, or whose differences do not fit: the whole zone instead.
        socket = TRY(connect_to(options));
    }
    return transfer(socket.get(), options, Type::AXFR);
}

Result<Bytes> exchange_udp(const SocketAddress& server, std::span<const std::uint8_t> query, int timeout_ms) {
    Fd socket(::socket(server.storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket) return fail_errno("socket");
    if (::connect(socket.get(), server.raw(), server.size) < 0) return fail_errno("connect to " + server.to_text());
    if (::send(socket.get(), query.data(), query.size(), MSG_NOSIGNAL) < 0)
        return fail_errno("send to " + server.to_text());
    const std::int64_t end = monotonic_ns() + std::int64_t{timeout_ms} * 1'000'000;
    while (true) {
        auto left = (end - monotonic_ns()) / 1'000'000;
        pollfd polled{socket.get(), POLLIN, 0};
        int count = left > 0 ? ::poll(&polled, 1, static_cast<int>(left)) : 0;
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return fail(Code::deadline_exceeded, "no answer from " + server.to_text());
        Bytes answer(65535);
        ssize_t got = ::recv(socket.get(), answer.data(), answer.size(), 0);
        if (got < 0) return fail_errno("answer of " + server.to_text());
        answer.resize(static_cast<std::size_t>(got));
        if (answer.size() >= header_bytes && query.size() >= 2 && load_u16(answer.data()) == load_u16(query.data()))
            return answer;
    }
}

}  // namespace wherry::dns
