#include "dns/tools/update_client.hpp"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "base/clock.hpp"
#include "base/encoding.hpp"
#include "base/fd.hpp"
#include "dns/message.hpp"

namespace wherry::dns::tools {

namespace {

constexpr std::size_t message_room = 1200;  // of a datagram that is not fragmented
constexpr int tries = 3;

std::int64_t seconds_now() {
    return std::chrono::duration_cast<std::chrono::seconds>(wall_now().time_since_epoch()).count();
}

struct Request {
    std::vector<std::uint8_t> packet;
    Bytes mac;
    std::uint16_t id = 0;
    std::size_t taken = 0;  // changes that went in
};

Result<Request> make_request(const Name& zone, const TsigKey* key, std::span<const RecordChange> changes) {
    Request request;
    if (::getrandom(&request.id, sizeof request.id, 0) != sizeof request.id) return fail_errno("getrandom");
    request.packet.resize(4096);
    MessageWriter writer(request.packet);
    Header header{.id = request.id, .opcode = Opcode::update, .questions = 1};
    bool fits = writer.write_header(header) && writer.write_question({.name = zone, .type = Type::SOA});
    for (const RecordChange& change : changes) {
        auto before = writer.mark();
        bool written = writer.begin_record(change.name, change.type, change.add ? Class::IN : Class::NONE,
                                           change.add ? change.ttl : 0) &&
                       writer.write_bytes(change.rdata) && writer.end_rdata();
        if (!written || writer.size() > message_room) {
            writer.rollback(before);
            break;
        }
        ++request.taken;
    }
    if (!fits || request.taken == 0) return fail(Code::invalid_argument, "a record is too long for an update");
    header.authorities = static_cast<std::uint16_t>(request.taken);
    writer.patch_header(header);
    std::size_t size = writer.size();
    if (key != nullptr) {
        size = tsig_sign({.key = *key, .prior_mac = {}, .now = static_cast<std::uint64_t>(seconds_now())},
                         request.packet, size, &request.mac);
        if (size == 0) return fail(Code::internal, "no room for the signature");
    }
    request.packet.resize(size);
    return request;
}

// Nothing when this is no answer to the request.
std::optional<Rcode> answer_code(std::span<const std::uint8_t> packet, const Request& request,
                                 const std::shared_ptr<const TsigKey>& key) {
    auto reader = MessageReader::open(packet);
    if (!reader || !reader->header().response || reader->header().id != request.id ||
        reader->header().opcode != Opcode::update)
        return std::nullopt;
    auto code = static_cast<Rcode>(reader->header().rcode);
    if (!key) return code;
    const Header header = reader->header();
    for (unsigned i = 0; i < header.questions; ++i)
        if (!reader->read_question()) return std::nullopt;
    std::optional<RecordView> last;
    for (unsigned i = 0; i < 0U + header.answers + header.authorities + header.additionals; ++i) {
        auto record = reader->read_record();
        if (!record) return std::nullopt;
        last = *record;
    }
    // A refusal of our key can't be signed with it.
    if (!last || last->type != Type::TSIG) return code == Rcode::NOERROR ? std::nullopt : std::optional(code);
    KeyRing ring;
    if (!ring.add(*key)) return std::nullopt;
    TsigCheck check = tsig_verify(
        ring, packet, *last,
        {.now = static_cast<std::uint64_t>(seconds_now()), .prior_mac = request.mac, .unsigned_messages = {}});
    if (check.malformed || check.error != 0) return code == Rcode::NOERROR ? std::nullopt : std::optional(code);
    return code;
}

Result<> exchange(const SocketAddress& server, const Request& request, const std::shared_ptr<const TsigKey>& key,
                  std::chrono::milliseconds timeout) {
    Fd socket(::socket(server.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket) return fail_errno("socket");
    if (::connect(socket.get(), server.raw(), server.size) < 0) return fail_errno(server.to_text());
    std::array<std::uint8_t, 4096> buffer{};
    for (int attempt = 0; attempt < tries; ++attempt) {
        if (::send(socket.get(), request.packet.data(), request.packet.size(), MSG_NOSIGNAL) < 0)
            return fail_errno(server.to_text());
        std::int64_t until = monotonic_ns() + std::chrono::nanoseconds(timeout).count();
        while (true) {
            std::int64_t left = (until - monotonic_ns()) / 1'000'000;
            if (left <= 0) break;
            pollfd ready{.fd = socket.get(), .events = POLLIN, .revents = 0};
            if (::poll(&ready, 1, static_cast<int>(left)) <= 0) continue;
            ssize_t count = ::recv(socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
            if (count < 0) {
                if (errno == EAGAIN || errno == EINTR) continue;
                return fail_errno(server.to_text());
            }
            auto code = answer_code(std::span(buffer).first(static_cast<std::size_t>(count)), request, key);
            if (!code) continue;
            if (*code == Rcode::NOERROR) return {};
            return fail(Code::permission_denied, server.to_text() + " answered the update with " + to_string(*code));
        }
    }
    return fail(Code::unavailable, server.to_text() + " does not answer the update");
}

}  // namespace

Result<TsigKey> parse_key(std::string_view text) {
    auto bad = [] { return fail(Code::invalid_argument, "a key is [ALGORITHM:]NAME:SECRET, the secret in base64"); };
    TsigKey key;
    auto last = text.rfind(':');
    if (last == std::string_view::npos) return bad();
    std::string_view name = text.substr(0, last);
    if (auto colon = name.find(':'); colon != std::string_view::npos) {
        key.algorithm = TRY(parse_tsig_algorithm(name.substr(0, colon)));
        name = name.substr(colon + 1);
    }
    key.name = TRY(Name::parse(name));
    std::string secret = TRY(base64_decode(text.substr(last + 1)), "key");
    if (secret.empty() || name.empty()) return bad();
    key.secret.assign(secret.begin(), secret.end());
    return key;
}

Result<> update(const SocketAddress& server, const Name& zone, const std::shared_ptr<const TsigKey>& key,
                const std::vector<RecordChange>& changes, std::chrono::milliseconds timeout) {
    for (std::span<const RecordChange> rest = changes; !rest.empty();) {
        Request request = TRY(make_request(zone, key.get(), rest));
        TRY(exchange(server, request, key, timeout));
        rest = rest.subspan(request.taken);
    }
    return {};
}

}  // namespace wherry::dns::tools
