#include "dns/signer_process.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <ctime>
#include <map>
#include <memory>
#include <span>

#include "base/log.hpp"
#include "dns/dnssec.hpp"
#include "dns/master_file.hpp"
#include "dns/message.hpp"
#include "dns/rdata.hpp"

namespace wherry::dns {

namespace {

using PrivateKey = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

// Published that long before it signs, and kept that long after: the DNSKEY set's TTL and slack.
constexpr std::int64_t publish_seconds = 2 * 3600;

struct StoredKey {
    std::string path;  // without ending
    std::uint16_t flags = dnskey_secure_entry;
    std::int64_t publish = 0;
    std::int64_t activate = 0;
    std::int64_t retire = 0;
    std::int64_t remove = 0;
    PrivateKey key{nullptr, EVP_PKEY_free};
    Bytes dnskey;
};

Result<Bytes> public_key(EVP_PKEY* key, std::uint8_t algorithm) {
    Bytes bytes(128);
    std::size_t size = bytes.size();
    if (algorithm == algorithm_ed25519) {
        if (EVP_PKEY_get_raw_public_key(key, bytes.data(), &size) != 1 || size != 32)
            return fail(Code::invalid_argument, "not an Ed25519 key");
        bytes.resize(size);
        return bytes;
    }
    if (EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, bytes.data(), bytes.size(), &size) != 1 ||
        size != 65 || bytes[0] != 4)
        return fail(Code::invalid_argument, "not a P-256 key");
    bytes.resize(size);
    bytes.erase(bytes.begin());
    return bytes;
}

Result<Bytes> make_dnskey(EVP_PKEY* key, std::uint8_t algorithm, std::uint16_t flags) {
    Bytes made{static_cast<std::uint8_t>(flags >> 8U), static_cast<std::uint8_t>(flags), 3, algorithm};
    Bytes bytes = TRY(public_key(key, algorithm));
    made.insert(made.end(), bytes.begin(), bytes.end());
    return made;
}

Result<Bytes> sign_with(EVP_PKEY* key, std::uint8_t algorithm, std::span<const std::uint8_t> data) {
    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    const EVP_MD* digest = algorithm == algorithm_ed25519 ? nullptr : EVP_sha256();
    Bytes signature(256);
    std::size_t size = signature.size();
    if (!context || EVP_DigestSignInit(context.get(), nullptr, digest, nullptr, key) != 1 ||
        EVP_DigestSign(context.get(), signature.data(), &size, data.data(), data.size()) != 1)
        return fail(Code::internal, "signing failed");
    signature.resize(size);
    if (algorithm == algorithm_ed25519) return signature;
    // RFC 6605 section 4: the two numbers, 32 bytes each.
    const unsigned char* at = signature.data();
    std::unique_ptr<ECDSA_SIG, decltype(&ECDSA_SIG_free)> parsed(d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(size)),
                                                                 ECDSA_SIG_free);
    Bytes fixed(64);
    if (!parsed || BN_bn2binpad(ECDSA_SIG_get0_r(parsed.get()), fixed.data(), 32) != 32 ||
        BN_bn2binpad(ECDSA_SIG_get0_s(parsed.get()), fixed.data() + 32, 32) != 32)
        return fail(Code::internal, "signing failed");
    return fixed;
}

std::string file_prefix(const Name& origin, std::uint8_t algorithm) {
    std::string text = origin.lower().to_text();
    for (char& c : text)
        if (c == '/') c = '%';
    return "K" + text + "+" + (algorithm < 100 ? "0" : "") + std::to_string(algorithm) + "+";
}

Result<> write_state(const StoredKey& key) {
    return write_file_atomic(key.path + ".state",
                             "flags " + std::to_string(key.flags) + "\npublish " + std::to_string(key.publish) +
                                 "\nactivate " + std::to_string(key.activate) + "\nretire " +
                                 std::to_string(key.retire) + "\nremove " + std::to_string(key.remove) + "\n",
                             0600, Durability::data);
}

Result<StoredKey> read_key(const std::string& path, std::uint8_t algorithm) {
    StoredKey key;
    key.path = path;
    std::string state = TRY(read_file(path + ".state", 4096));
    for (std::size_t at = 0; at < state.size();) {
        std::size_t end = std::min(state.find('\n', at), state.size());
        std::string_view line = std::string_view(state).substr(at, end - at);
        at = end + 1;
        auto space = line.find(' ');
        if (space == std::string_view::npos) continue;
        std::int64_t value = 0;
        std::from_chars(line.data() + space + 1, line.data() + line.size(), value);
        std::string_view word = line.substr(0, space);
        if (word == "flags") key.flags = static_cast<std::uint16_t>(value);
        if (word == "publish") key.publish = value;
        if (word == "activate") key.activate = value;
        if (word == "retire") key.retire = value;
        if (word == "remove") key.remove = value;
    }
    std::string pem = TRY(read_file(path + ".pem", 16384));
    std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
    key.key.reset(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
    if (!key.key) return fail(Code::invalid_argument, path + ".pem is not a private key");
    key.dnskey = TRY(make_dnskey(key.key.get(), algorithm, key.flags), path);
    return key;
}

Result<StoredKey> create_key(const Name& origin, const std::string& folder, std::uint8_t algorithm, std::uint16_t flags,
                             std::int64_t publish, std::int64_t activate) {
    StoredKey key;
    key.key.reset(algorithm == algorithm_ed25519 ? EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")
                                                 : EVP_EC_gen("P-256"));
    if (!key.key) return fail(Code::internal, "no key could be made");
    key.flags = flags;
    key.publish = publish;
    key.activate = activate;
    key.dnskey = TRY(make_dnskey(key.key.get(), algorithm, flags));
    std::string tag = std::to_string(key_tag(key.dnskey));
    key.path = folder + "/" + file_prefix(origin, algorithm) + std::string(5 - tag.size(), '0') + tag;
    if (path_exists(key.path + ".pem")) return create_key(origin, folder, algorithm, flags, publish, activate);
    std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new(BIO_s_mem()), BIO_free);
    if (PEM_write_bio_PKCS8PrivateKey(bio.get(), key.key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1)
        return fail(Code::internal, "a key could not be written");
    char* data = nullptr;
    long size = BIO_get_mem_data(bio.get(), &data);
    TRY(write_file_atomic(key.path + ".pem", {data, static_cast<std::size_t>(size)}, 0600, Durability::data));
    TRY(write_state(key));
    return key;
}

Result<std::vector<StoredKey>> read_keys(const Name& origin, const std::string& folder, std::uint8_t algorithm) {
    std::vector<StoredKey> keys;
    std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(folder.c_str()), ::closedir);
    if (!directory) return fail_errno("keys in " + folder);
    const std::string prefix = file_prefix(origin, algorithm);
    while (const dirent* entry = ::readdir(directory.get())) {
        std::string_view name = entry->d_name;
        if (!name.starts_with(prefix) || !name.ends_with(".state")) continue;
        name.remove_suffix(6);
        keys.push_back(TRY(read_key(folder + "/" + std::string(name), algorithm)));
    }
    std::ranges::sort(keys, [](const StoredKey& a, const StoredKey& b) {
        return a.publish != b.publish ? a.publish < b.publish : a.path < b.path;
    });
    return keys;
}

bool is_published(const StoredKey& key, std::int64_t now) {
    return key.publish <= now && (key.remove == 0 || now < key.remove);
}

// The newest key that may sign data: of the zone signing keys where there are any.
StoredKey* data_key(std::vector<StoredKey>& keys, std::int64_t now) {
    const bool split = std::ranges::any_of(
        keys, [&](const StoredKey& k) { return k.flags == dnskey_zone && is_published(k, now) && k.activate <= now; });
    StoredKey* best = nullptr;
    for (StoredKey& key : keys) {
        if ((key.flags == dnskey_zone) != split || !is_published(key, now) || key.activate > now ||
            (key.retire != 0 && key.retire <= now))
            continue;
        if (best == nullptr || key.activate >= best->activate) best = &key;
    }
    return best;
}

// What time alone asks for: first keys, and the next zone signing key (RFC 6781 section 4.1.1.1, pre-publication).
Result<> tend_keys(std::vector<StoredKey>& keys, const Name& origin, const std::string& folder, std::uint8_t algorithm,
                   std::uint32_t zone_key_seconds, std::uint32_t signature_seconds, std::int64_t now) {
    const bool entry = std::ranges::any_of(
        keys, [&](const StoredKey& k) { return k.flags == dnskey_secure_entry && is_published(k, now); });
    if (!entry) keys.push_back(TRY(create_key(origin, folder, algorithm, dnskey_secure_entry, now, now)));
    if (zone_key_seconds == 0) return {};
    StoredKey* current = nullptr;
    const StoredKey* next = nullptr;
    for (StoredKey& key : keys) {
        if (key.flags != dnskey_zone || (key.retire != 0 && key.retire <= now) || !is_published(key, now)) continue;
        if (key.activate <= now)
            current = &key;
        else
            next = &key;
    }
    if (current == nullptr && next == nullptr) {
        keys.push_back(TRY(create_key(origin, folder, algorithm, dnskey_zone, now, now)));
    } else if (current != nullptr && next == nullptr &&
               now >= current->activate + std::int64_t{zone_key_seconds} - publish_seconds) {
        const std::int64_t start = std::max(now + publish_seconds, current->activate + std::int64_t{zone_key_seconds});
        current->retire = start;
        current->remove = start + signature_seconds + publish_seconds;
        TRY(write_state(*current));
        keys.push_back(TRY(create_key(origin, folder, algorithm, dnskey_zone, now, start)));
    }
    return {};
}

class SignerLoop {
  public:
    explicit SignerLoop(std::vector<Fd> sockets) : sockets_(std::move(sockets)) {}

    void run() {
        Bytes request(signer_message_bytes);
        while (true) {
            std::vector<pollfd> polled;
            for (const Fd& socket : sockets_)
                if (socket) polled.push_back({socket.get(), POLLIN, 0});
            if (polled.empty()) return;
            if (::poll(polled.data(), polled.size(), -1) < 0) continue;
            for (const pollfd& ready : polled) {
                if (ready.revents == 0) continue;
                ssize_t got = ::recv(ready.fd, request.data(), request.size(), 0);
                if (got <= 0) {
                    for (Fd& socket : sockets_)
                        if (socket.get() == ready.fd) socket.reset();
                    continue;
                }
                auto answer = handle(std::span(request).first(static_cast<std::size_t>(got)));
                Bytes message{static_cast<std::uint8_t>(answer ? 0 : 1)};
                if (answer) {
                    message.insert(message.end(), answer->begin(), answer->end());
                } else {
                    std::string text = answer.error().describe();
                    message.insert(message.end(), text.begin(), text.end());
                }
                (void)::send(ready.fd, message.data(), message.size(), MSG_NOSIGNAL);
            }
        }
    }

  private:
    Result<Bytes> handle(std::span<const std::uint8_t> request) {
        if (request.size() > 5 && request[0] == signer_sign) {
            auto key = keys_.find(load_u32(request.data() + 1));
            if (key == keys_.end()) return fail(Code::not_found, "no such key");
            return sign_with(key->second.key.get(), key->second.dnskey[3], request.subspan(5));
        }
        if (request.size() > 11 && request[0] == signer_zone) return zone(request);
        return fail(Code::invalid_argument, "unknown request");
    }

    Result<Bytes> zone(std::span<const std::uint8_t> request) {
        const std::uint8_t algorithm = request[1];
        const std::uint32_t zone_key_seconds = load_u32(request.data() + 2);
        const std::uint32_t signature_seconds = load_u32(request.data() + 6);
        std::size_t end = 10;
        while (end < request.size() && request[end] != 0) end += request[end] + 1U;
        if (end >= request.size()) return fail(Code::invalid_argument, "no name");
        Name origin = TRY(Name::from_wire(request.subspan(10, end - 9)));
        std::string folder(request.begin() + static_cast<std::ptrdiff_t>(end) + 1, request.end());
        TRY(make_directories(folder, 0700));
        const auto now = static_cast<std::int64_t>(::time(nullptr));
        std::vector<StoredKey> keys = TRY(read_keys(origin, folder, algorithm));
        TRY(tend_keys(keys, origin, folder, algorithm, zone_key_seconds, signature_seconds, now));
        const StoredKey* signing = data_key(keys, now);
        Bytes answer;
        std::vector<std::pair<std::uint32_t, StoredKey*>> held;
        for (StoredKey& key : keys) {
            if (!is_published(key, now)) continue;
            const std::uint32_t id = number(key.path);
            const bool signs_keys = key.flags == dnskey_secure_entry && (key.retire == 0 || now < key.retire);
            std::array<std::uint8_t, 7> head{};
            store_u32(head.data(), id);
            head[4] = static_cast<std::uint8_t>((signs_keys ? 1U : 0U) | (&key == signing ? 2U : 0U));
            store_u16(head.data() + 5, static_cast<std::uint16_t>(key.dnskey.size()));
            answer.insert(answer.end(), head.begin(), head.end());
            answer.insert(answer.end(), key.dnskey.begin(), key.dnskey.end());
            held.emplace_back(id, &key);
        }
        for (auto& [id, key] : held) keys_.insert_or_assign(id, std::move(*key));
        return answer;
    }

    std::uint32_t number(const std::string& path) {
        return numbers_.emplace(path, static_cast<std::uint32_t>(numbers_.size() + 1)).first->second;
    }

    std::vector<Fd> sockets_;
    std::map<std::string, std::uint32_t> numbers_;
    std::map<std::uint32_t, StoredKey> keys_;
};

}  // namespace

Result<std::vector<Fd>> start_signer(std::size_t connections, const std::function<Result<>()>& confine) {
    std::vector<Fd> ours;
    std::vector<Fd> theirs;
    for (std::size_t i = 0; i < connections; ++i) {
        auto pair = TRY(make_socket_pair(SOCK_SEQPACKET));
        ours.push_back(std::move(pair.first));
        theirs.push_back(std::move(pair.second));
    }
    const pid_t parent = ::getpid();
    pid_t pid = ::fork();
    if (pid < 0) return fail_errno("fork");
    if (pid > 0) return ours;
    // One thread was running: everything may be called here.
    ours.clear();
    (void)::prctl(PR_SET_NAME, "dns-signer");
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)::prctl(PR_SET_DUMPABLE, 0);
    (void)::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (::getppid() != parent) ::_exit(0);
    for (int signal : {SIGTERM, SIGINT, SIGHUP}) (void)::signal(signal, SIG_IGN);
    if (auto confined = confine(); !confined) {
        log_error("signer.not_confined", {{"error", confined.error()}});
        ::_exit(1);
    }
    SignerLoop(std::move(theirs)).run();
    ::_exit(0);
}

Result<std::string> roll_key(const Name& origin, const std::string& folder, std::uint8_t algorithm) {
    const auto now = static_cast<std::int64_t>(::time(nullptr));
    StoredKey key = TRY(create_key(origin, folder, algorithm, dnskey_secure_entry, now, now + publish_seconds));
    return record_to_text(origin, 3600, Class::IN, Type::DS, make_ds(origin, key.dnskey));
}

Result<> retire_old_keys(const Name& origin, const std::string& folder, std::uint8_t algorithm) {
    const auto now = static_cast<std::int64_t>(::time(nullptr));
    std::vector<StoredKey> keys = TRY(read_keys(origin, folder, algorithm));
    StoredKey* newest = nullptr;
    for (StoredKey& key : keys)
        if (key.flags == dnskey_secure_entry && is_published(key, now)) newest = &key;
    for (StoredKey& key : keys) {
        if (&key == newest || key.flags != dnskey_secure_entry || key.retire != 0 || newest == nullptr) continue;
        // The old DS may be cached for a while, and so may what the key signed.
        key.retire = std::max(now + 86400, newest->activate + publish_seconds);
        key.remove = key.retire + 30 * 86400;
        TRY(write_state(key));
    }
    return {};
}

Result<std::string> list_ds(const Name& origin, const std::string& folder, std::uint8_t algorithm) {
    const auto now = static_cast<std::int64_t>(::time(nullptr));
    std::string text;
    std::vector<StoredKey> keys = TRY(read_keys(origin, folder, algorithm));
    for (const StoredKey& key : keys)
        if (key.flags == dnskey_secure_entry && is_published(key, now) && (key.retire == 0 || now < key.retire))
            text += record_to_text(origin, 3600, Class::IN, Type::DS, make_ds(origin, key.dnskey)) + "\n";
    return text;
}

}  // namespace wherry::dns
