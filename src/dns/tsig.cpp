#include "dns/tsig.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <array>

namespace wherry::dns {

namespace {

struct AlgorithmFacts {
    TsigAlgorithm algorithm;
    std::string_view name;
    const EVP_MD* (*digest)();
    std::size_t bytes;
};

constexpr std::array<AlgorithmFacts, 5> algorithms{{{TsigAlgorithm::hmac_sha1, "hmac-sha1", EVP_sha1, 20},
                                                    {TsigAlgorithm::hmac_sha224, "hmac-sha224", EVP_sha224, 28},
                                                    {TsigAlgorithm::hmac_sha256, "hmac-sha256", EVP_sha256, 32},
                                                    {TsigAlgorithm::hmac_sha384, "hmac-sha384", EVP_sha384, 48},
                                                    {TsigAlgorithm::hmac_sha512, "hmac-sha512", EVP_sha512, 64}}};

const AlgorithmFacts& facts(TsigAlgorithm algorithm) {
    return algorithms[static_cast<std::size_t>(algorithm)];
}

const Name& algorithm_name(TsigAlgorithm algorithm) {
    static const auto names = [] {
        std::array<Name, algorithms.size()> made;
        for (std::size_t i = 0; i < algorithms.size(); ++i)
            if (auto name = Name::parse(algorithms[i].name)) made[i] = *name;
        return made;
    }();
    return names[static_cast<std::size_t>(algorithm)];
}

void put(Bytes& out, std::uint64_t value, unsigned bytes) {
    for (unsigned i = bytes; i-- > 0;) out.push_back(static_cast<std::uint8_t>(value >> (8U * i)));
}

void put(Bytes& out, std::span<const std::uint8_t> bytes) {
    out.insert(out.end(), bytes.begin(), bytes.end());
}

struct Variables {
    Name key;
    Name algorithm;
    std::uint64_t time = 0;
    std::uint16_t fudge = 0;
    std::uint16_t error = 0;
    std::span<const std::uint8_t> other;
};

// RFC 8945 sections 4.3 and 5.3.1.
Bytes compute_mac(const TsigKey& key, std::span<const std::uint8_t> prior_mac, std::span<const std::uint8_t> between,
                  std::span<const std::uint8_t> message, const Variables& variables, bool timers_only) {
    Bytes input;
    input.reserve(prior_mac.size() + between.size() + message.size() + 600);
    if (!prior_mac.empty()) {
        put(input, prior_mac.size(), 2);
        put(input, prior_mac);
    }
    put(input, between);
    put(input, message);
    if (!timers_only) {
        put(input, variables.key.lower().wire());
        put(input, 255, 2);
        put(input, 0, 4);
        put(input, variables.algorithm.lower().wire());
    }
    put(input, variables.time, 6);
    put(input, variables.fudge, 2);
    if (!timers_only) {
        put(input, variables.error, 2);
        put(input, variables.other.size(), 2);
        put(input, variables.other);
    }
    Bytes mac(facts(key.algorithm).bytes);
    unsigned size = 0;
    if (HMAC(facts(key.algorithm).digest(), key.secret.data(), static_cast<int>(key.secret.size()), input.data(),
             input.size(), mac.data(), &size) == nullptr)
        return {};
    return mac;
}

std::size_t append_record(std::span<std::uint8_t> buffer, std::size_t size, const Variables& variables,
                          std::span<const std::uint8_t> mac, std::uint16_t original_id) {
    Bytes record;
    put(record, variables.key.wire());
    put(record, static_cast<std::uint16_t>(Type::TSIG), 2);
    put(record, 255, 2);
    put(record, 0, 4);
    put(record, variables.algorithm.size() + 16 + mac.size() + variables.other.size(), 2);
    put(record, variables.algorithm.wire());
    put(record, variables.time, 6);
    put(record, variables.fudge, 2);
    put(record, mac.size(), 2);
    put(record, mac);
    put(record, original_id, 2);
    put(record, variables.error, 2);
    put(record, variables.other.size(), 2);
    put(record, variables.other);
    if (size + record.size() > buffer.size()) return 0;
    std::ranges::copy(record, buffer.begin() + static_cast<std::ptrdiff_t>(size));
    store_u16(buffer.data() + 10, static_cast<std::uint16_t>(load_u16(buffer.data() + 10) + 1));
    return size + record.size();
}

}  // namespace

std::string_view to_string(TsigAlgorithm algorithm) {
    return facts(algorithm).name;
}

Result<TsigAlgorithm> parse_tsig_algorithm(std::string_view text) {
    if (text.ends_with('.')) text.remove_suffix(1);
    for (const AlgorithmFacts& known : algorithms)
        if (std::ranges::equal(known.name, text, [](char a, char b) {
                return to_lower(static_cast<std::uint8_t>(a)) == to_lower(static_cast<std::uint8_t>(b));
            }))
            return known.algorithm;
    return fail(Code::invalid_argument, "\"" + std::string(text.substr(0, 64)) + "\" is not a TSIG algorithm");
}

Result<> KeyRing::add(TsigKey key) {
    std::string name = key.name.lower().to_text();
    if (!keys_.emplace(name, std::make_shared<const TsigKey>(std::move(key))).second)
        return fail(Code::already_exists, "key " + name + " is given twice");
    return {};
}

std::shared_ptr<const TsigKey> KeyRing::find(const Name& name) const {
    auto found = keys_.find(name.lower().to_text());
    return found == keys_.end() ? nullptr : found->second;
}

std::size_t tsig_room(const TsigKey& key) {
    return key.name.size() + 10 + algorithm_name(key.algorithm).size() + 16 + facts(key.algorithm).bytes + 6;
}

TsigCheck tsig_verify(const KeyRing& ring, std::span<const std::uint8_t> packet, const RecordView& record,
                      const TsigVerifyOptions& options) {
    TsigCheck check;
    auto malformed = [&] {
        check.malformed = true;
        check.error = static_cast<std::uint16_t>(Rcode::FORMERR);
        return check;
    };
    std::span<const std::uint8_t> data = record.rdata;
    if (record.dns_class != Class::ANY || record.ttl != 0) return malformed();
    std::size_t name_end = 0;
    while (name_end < data.size() && data[name_end] != 0 && data[name_end] <= max_label_bytes)
        name_end += data[name_end] + 1U;
    if (name_end >= data.size() || data[name_end] != 0) return malformed();
    auto algorithm = Name::from_wire(data.first(name_end + 1));
    if (!algorithm) return malformed();
    data = data.subspan(name_end + 1);
    if (data.size() < 10) return malformed();
    std::uint64_t time = static_cast<std::uint64_t>(load_u16(data.data())) << 32U | load_u32(data.data() + 2);
    std::uint16_t fudge = load_u16(data.data() + 6);
    std::size_t mac_bytes = load_u16(data.data() + 8);
    if (data.size() < 10 + mac_bytes + 6) return malformed();
    std::span<const std::uint8_t> mac = data.subspan(10, mac_bytes);
    data = data.subspan(10 + mac_bytes);
    std::uint16_t original_id = load_u16(data.data());
    std::uint16_t error = load_u16(data.data() + 2);
    std::size_t other_bytes = load_u16(data.data() + 4);
    if (data.size() != 6 + other_bytes) return malformed();
    std::span<const std::uint8_t> other = data.subspan(6);

    check.key_name = record.name;
    check.algorithm_name = *algorithm;
    check.time = time;
    check.mac.assign(mac.begin(), mac.end());
    auto key = ring.find(record.name);
    if (!key || !(algorithm_name(key->algorithm) == *algorithm)) {
        check.error = static_cast<std::uint16_t>(Rcode::BADKEY);
        return check;
    }
    const std::size_t full = facts(key->algorithm).bytes;
    if (mac.size() > full) return malformed();
    check.key = key;
    if (mac.empty()) {
        check.error = static_cast<std::uint16_t>(Rcode::BADSIG);
        return check;
    }
    if (mac.size() < std::max<std::size_t>(10, full / 2)) return malformed();
    Bytes message(packet.begin(), packet.begin() + static_cast<std::ptrdiff_t>(record.offset));
    store_u16(message.data(), original_id);
    store_u16(message.data() + 10, static_cast<std::uint16_t>(load_u16(message.data() + 10) - 1));
    Bytes expected = compute_mac(*key, options.prior_mac, options.unsigned_messages, message,
                                 {record.name, *algorithm, time, fudge, error, other}, options.timers_only);
    if (expected.size() != full || CRYPTO_memcmp(expected.data(), mac.data(), mac.size()) != 0) {
        check.error = static_cast<std::uint16_t>(Rcode::BADSIG);
        return check;
    }
    std::uint64_t apart = options.now > time ? options.now - time : time - options.now;
    if (apart > fudge)
        check.error = static_cast<std::uint16_t>(Rcode::BADTIME);
    else if (mac.size() < full)  // section 5.2.2.1: shortened MACs are not this server's policy
        check.error = static_cast<std::uint16_t>(Rcode::BADTRUNC);
    return check;
}

std::size_t tsig_sign(const TsigSignOptions& options, std::span<std::uint8_t> buffer, std::size_t size,
                      Bytes* mac_out) {
    Bytes server_time;
    const bool bad_time = options.error == static_cast<std::uint16_t>(Rcode::BADTIME);
    if (bad_time) put(server_time, options.now, 6);
    Variables variables{options.key.name,
                        algorithm_name(options.key.algorithm),
                        bad_time ? options.signed_time : options.now,
                        tsig_fudge_seconds,
                        options.error,
                        server_time};
    Bytes mac = compute_mac(options.key, options.prior_mac, {}, buffer.first(size), variables, options.timers_only);
    if (mac.empty()) return 0;
    std::size_t signed_size = append_record(buffer, size, variables, mac, load_u16(buffer.data()));
    if (mac_out != nullptr) *mac_out = std::move(mac);
    return signed_size;
}

std::size_t tsig_add_error(const TsigCheck& check, std::uint64_t now, std::span<std::uint8_t> buffer,
                           std::size_t size) {
    return append_record(buffer, size, {check.key_name, check.algorithm_name, now, tsig_fudge_seconds, check.error, {}},
                         {}, load_u16(buffer.data()));
}

}  // namespace wherry::dns
