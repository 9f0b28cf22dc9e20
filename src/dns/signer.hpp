// Signing while answering. The keys live in a process of their own (signer_process.hpp); here are the connection to it,
// and for each zone what is signed with which key, and the signatures already made.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "dns/config.hpp"
#include "dns/siphash.hpp"
#include "dns/zone.hpp"

namespace wherry::dns {

// A key as the signer process describes it.
struct SigningKey {
    std::uint32_t id = 0;  // the process's number for it
    std::uint16_t tag = 0;
    std::uint8_t algorithm = 0;
    bool signs_keys = false;  // the DNSKEY set
    bool signs_data = false;
    Bytes dnskey;
    bool operator==(const SigningKey&) const = default;
};

class SignerClient;

class ZoneSigner {
  public:
    ZoneSigner(std::shared_ptr<SignerClient> client, const Name& origin, SigningConfig config,
               std::vector<SigningKey> keys);

    bool nsec3() const { return config_.nsec3; }
    // Whether another one with these would sign the same.
    bool is_for(const SigningConfig& config, const std::vector<SigningKey>& keys) const {
        return config == config_ && keys == keys_;
    }
    // What the apex has besides the zone's data: DNSKEY, CDS, CDNSKEY, NSEC3PARAM; nullopt for other types.
    std::optional<RecordSet> apex_set(Type type) const;
    const std::vector<Type>& apex_types() const { return apex_types_; }

    // Numbers under which signatures are kept: of a set of a version of a zone, or of a set that is made for an answer.
    std::uint64_t key_of(std::uint64_t zone_version, NodeIndex node, Type type) const;
    std::uint64_t key_of(std::uint64_t zone_version, const Name& owner, Type type) const;
    std::uint64_t key_of(std::span<const std::uint8_t> content) const;
    // A kept signature's whole RRSIG data; its size, 0 when there is none that still holds.
    std::size_t cached(std::uint64_t key, std::uint32_t now, std::span<std::uint8_t> out) const;
    // The RRSIG data of a set, made and kept where it was not; several for DNSKEY sets while keys roll. Empty when the
    // signer does not answer.
    std::vector<Bytes> sign(std::uint64_t key, const Name& owner, const RecordSet& set, std::uint32_t now) const;

  private:
    struct Kept {
        std::uint32_t until = 0;
        Bytes rrsig;
    };
    struct Shard {
        std::mutex lock;
        std::unordered_map<std::uint64_t, Kept> young;
        std::unordered_map<std::uint64_t, Kept> old;
    };
    static constexpr std::size_t shard_count = 64;
    static constexpr std::size_t shard_limit = 2048;  // entries of a generation

    std::shared_ptr<SignerClient> client_;
    Name origin_;
    SigningConfig config_;
    std::vector<SigningKey> keys_;
    SipKey secret_{};
    std::vector<Type> apex_types_;
    struct Made {
        Type type;
        std::uint16_t count;
        Bytes packed;
    };
    std::vector<Made> apex_sets_;
    std::unique_ptr<std::array<Shard, shard_count>> shards_;
};

// Talks to the signer process; from any thread.
class SignerClient : public std::enable_shared_from_this<SignerClient> {
  public:
    explicit SignerClient(std::vector<Fd> channels) : channels_(channels.size()) {
        for (std::size_t i = 0; i < channels.size(); ++i) channels_[i].socket = std::move(channels[i]);
    }
    // Loads or makes the zone's keys. `old` is given back when nothing has changed, with the signatures it keeps.
    Result<std::shared_ptr<const ZoneSigner>> zone(const Name& origin, const SigningConfig& config,
                                                   std::shared_ptr<const ZoneSigner> old);
    Result<std::vector<SigningKey>> keys(const Name& origin, const SigningConfig& config);
    Result<Bytes> sign(std::uint32_t key, std::span<const std::uint8_t> data);

  private:
    struct Channel {
        Fd socket;
        std::mutex lock;
    };
    Result<Bytes> ask(std::span<const std::uint8_t> request);
    std::vector<Channel> channels_;
    std::atomic<std::size_t> next_{0};
};

}  // namespace wherry::dns
