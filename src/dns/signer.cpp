#include "dns/signer.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/id.hpp"
#include "dns/dnssec.hpp"
#include "dns/message.hpp"
#include "dns/signer_process.hpp"

namespace wherry::dns {

namespace {

constexpr std::uint32_t inception_seconds = 3600;  // before now, for clocks that are behind

void pack(Bytes& packed, std::span<const std::uint8_t> rdata) {
    packed.push_back(static_cast<std::uint8_t>(rdata.size() >> 8U));
    packed.push_back(static_cast<std::uint8_t>(rdata.size()));
    packed.insert(packed.end(), rdata.begin(), rdata.end());
}

}  // namespace

ZoneSigner::ZoneSigner(std::shared_ptr<SignerClient> client, const Name& origin, SigningConfig config,
                       std::vector<SigningKey> keys)
    : client_(std::move(client)),
      origin_(origin),
      config_(std::move(config)),
      keys_(std::move(keys)),
      shards_(std::make_unique<std::array<Shard, shard_count>>()) {
    // SAFETY: random bytes into a byte array.
    fill_random(std::as_writable_bytes(std::span(secret_)));
    Made dnskey{Type::DNSKEY, 0, {}};
    Made cdnskey{Type::CDNSKEY, 0, {}};
    Made cds{Type::CDS, 0, {}};
    for (const SigningKey& key : keys_) {
        pack(dnskey.packed, key.dnskey);
        ++dnskey.count;
        if (!key.signs_keys) continue;
        pack(cdnskey.packed, key.dnskey);
        ++cdnskey.count;
        pack(cds.packed, make_ds(origin_, key.dnskey));
        ++cds.count;
    }
    apex_sets_ = {std::move(dnskey), std::move(cdnskey), std::move(cds)};
    if (config_.nsec3) {
        // RFC 9276: no iterations, no salt.
        Made parameters{Type::NSEC3PARAM, 1, {}};
        constexpr std::array<std::uint8_t, 5> plain{1, 0, 0, 0, 0};
        pack(parameters.packed, plain);
        apex_sets_.push_back(std::move(parameters));
    }
    for (const Made& made : apex_sets_) apex_types_.push_back(made.type);
}

std::optional<RecordSet> ZoneSigner::apex_set(Type type) const {
    for (const Made& made : apex_sets_)
        if (made.type == type) return RecordSet(type, static_cast<Type>(0), 3600, made.count, made.packed);
    return std::nullopt;
}

std::uint64_t ZoneSigner::key_of(std::uint64_t zone_version, NodeIndex node, Type type) const {
    std::array<std::uint8_t, 16> input{};
    std::memcpy(input.data(), &zone_version, 8);
    std::memcpy(input.data() + 8, &node, 4);
    std::memcpy(input.data() + 12, &type, 2);
    return siphash24(secret_, input);
}

std::uint64_t ZoneSigner::key_of(std::uint64_t zone_version, const Name& owner, Type type) const {
    std::array<std::uint8_t, max_name_bytes + 12> input{};
    const Name lower = owner.lower();
    std::memcpy(input.data(), &zone_version, 8);
    std::memcpy(input.data() + 8, &type, 2);
    // One byte that tells these from the other kind, whose input is 16 bytes long.
    input[10] = 1;
    std::memcpy(input.data() + 11, lower.wire().data(), lower.size());
    return siphash24(secret_, std::span(input).first(std::max<std::size_t>(17, 11 + lower.size())));
}

std::uint64_t ZoneSigner::key_of(std::span<const std::uint8_t> content) const {
    return siphash24(secret_, content);
}

std::size_t ZoneSigner::cached(std::uint64_t key, std::uint32_t now, std::span<std::uint8_t> out) const {
    Shard& shard = (*shards_)[key % shard_count];
    std::lock_guard lock(shard.lock);
    auto found = shard.young.find(key);
    if (found == shard.young.end()) {
        found = shard.old.find(key);
        if (found == shard.old.end()) return 0;
        // What is asked for again stays.
        auto node = shard.old.extract(found);
        found = shard.young.insert(std::move(node)).position;
    }
    const Kept& kept = found->second;
    if (static_cast<std::int32_t>(kept.until - now) <= 0 || kept.rrsig.size() > out.size()) return 0;
    std::memcpy(out.data(), kept.rrsig.data(), kept.rrsig.size());
    return kept.rrsig.size();
}

std::vector<Bytes> ZoneSigner::sign(std::uint64_t cache_key, const Name& owner, const RecordSet& set,
                                    std::uint32_t now) const {
    std::array<std::uint8_t, 512> ready;
    const bool of_keys = set.type() == Type::DNSKEY || set.type() == Type::CDS || set.type() == Type::CDNSKEY;
    if (!of_keys)
        if (std::size_t size = cached(cache_key, now, ready); size != 0)
            return {Bytes(ready.begin(), ready.begin() + static_cast<std::ptrdiff_t>(size))};
    std::vector<Bytes> signatures;
    for (const SigningKey& key : keys_) {
        if (of_keys ? !key.signs_keys : !key.signs_data) continue;
        std::uint64_t number = of_keys ? cache_key + key.id : cache_key;
        if (std::size_t size = of_keys ? cached(number, now, ready) : 0; size != 0) {
            signatures.emplace_back(ready.begin(), ready.begin() + static_cast<std::ptrdiff_t>(size));
            continue;
        }
        std::vector<Bytes> records;
        for (std::span<const std::uint8_t> rdata : set) records.emplace_back(rdata.begin(), rdata.end());
        ToSign prepared = prepare_signature(owner, set.type(), set.ttl(), std::move(records),
                                            {.algorithm = key.algorithm,
                                             .key_tag = key.tag,
                                             .inception = now - inception_seconds,
                                             .expiration = now + config_.signature_seconds,
                                             .signer = origin_});
        auto signature = client_->sign(key.id, prepared.data);
        if (!signature) return {};
        Bytes rrsig = std::move(prepared.rrsig);
        rrsig.insert(rrsig.end(), signature->begin(), signature->end());
        {
            Shard& shard = (*shards_)[number % shard_count];
            std::lock_guard lock(shard.lock);
            if (shard.young.size() >= shard_limit) {
                shard.old = std::move(shard.young);
                shard.young.clear();
            }
            shard.young[number] = {now + config_.signature_seconds / 2, rrsig};
        }
        signatures.push_back(std::move(rrsig));
    }
    return signatures;
}

Result<Bytes> SignerClient::ask(std::span<const std::uint8_t> request) {
    thread_local const std::size_t mine = next_.fetch_add(1);
    Channel& channel = channels_[mine % channels_.size()];
    std::lock_guard lock(channel.lock);
    while (::send(channel.socket.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0)
        if (errno != EINTR) return fail_errno("signer");
    Bytes answer(signer_message_bytes);
    ssize_t got = 0;
    // The lock is there for this: a channel carries one request at a time.
    // NOLINTNEXTLINE(clang-analyzer-unix.BlockInCriticalSection)
    while ((got = ::recv(channel.socket.get(), answer.data(), answer.size(), 0)) < 0)
        if (errno != EINTR) return fail_errno("signer");
    if (got == 0) return fail(Code::unavailable, "the signer has ended");
    answer.resize(static_cast<std::size_t>(got));
    if (answer[0] != 0) return fail(Code::internal, "signer: " + std::string(answer.begin() + 1, answer.end()));
    answer.erase(answer.begin());
    return answer;
}

Result<Bytes> SignerClient::sign(std::uint32_t key, std::span<const std::uint8_t> data) {
    Bytes request(5 + data.size());
    request[0] = signer_sign;
    store_u32(request.data() + 1, key);
    std::copy(data.begin(), data.end(), request.begin() + 5);
    return ask(request);
}

Result<std::vector<SigningKey>> SignerClient::keys(const Name& origin, const SigningConfig& config) {
    Bytes request{signer_zone, config.algorithm == "ed25519" ? algorithm_ed25519 : algorithm_ecdsa_p256};
    std::array<std::uint8_t, 8> times{};
    store_u32(times.data(), config.zone_key_seconds);
    store_u32(times.data() + 4, config.signature_seconds);
    request.insert(request.end(), times.begin(), times.end());
    const Name lower = origin.lower();
    request.insert(request.end(), lower.wire().begin(), lower.wire().end());
    request.insert(request.end(), config.keys.begin(), config.keys.end());
    Bytes answer = TRY(ask(request));
    std::vector<SigningKey> keys;
    for (std::size_t at = 0; at + 7 <= answer.size();) {
        SigningKey key;
        key.id = load_u32(answer.data() + at);
        key.signs_keys = (answer[at + 4] & 1U) != 0;
        key.signs_data = (answer[at + 4] & 2U) != 0;
        std::size_t size = load_u16(answer.data() + at + 5);
        at += 7;
        if (size < 5 || at + size > answer.size()) break;
        key.dnskey.assign(answer.begin() + static_cast<std::ptrdiff_t>(at),
                          answer.begin() + static_cast<std::ptrdiff_t>(at + size));
        key.algorithm = key.dnskey[3];
        key.tag = key_tag(key.dnskey);
        keys.push_back(std::move(key));
        at += size;
    }
    if (std::ranges::none_of(keys, &SigningKey::signs_data) || std::ranges::none_of(keys, &SigningKey::signs_keys))
        return fail(Code::internal, "the signer has no key to sign with");
    return keys;
}

Result<std::shared_ptr<const ZoneSigner>> SignerClient::zone(const Name& origin, const SigningConfig& config,
                                                             std::shared_ptr<const ZoneSigner> old) {
    std::vector<SigningKey> found = TRY(keys(origin, config));
    if (old && old->is_for(config, found)) return old;
    return std::make_shared<const ZoneSigner>(shared_from_this(), origin, config, std::move(found));
}

}  // namespace wherry::dns
