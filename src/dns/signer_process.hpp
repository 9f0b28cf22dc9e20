// The process that holds the DNSSEC keys: it makes them, keeps them in files, signs what it is given, and does nothing
// else. A name server that is broken into can have things signed while it is, and learns no key.
//
// In the folder of keys, each key has NAME+ALGORITHM+TAG.pem (PKCS #8, mode 0600) and .state, lines of a word and a
// number: flags, and the times (seconds since the epoch; 0: never) publish, activate, retire, remove.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "dns/name.hpp"

namespace wherry::dns {

// Messages over SOCK_SEQPACKET. Answers begin with 0, or with 1 and a text.
inline constexpr std::size_t signer_message_bytes = 200'000;
inline constexpr std::uint8_t signer_zone = 'Z';  // algorithm, key and signature seconds, name, folder -> keys
inline constexpr std::uint8_t signer_sign = 'S';  // key (32 bits), data -> signature

// Starts the process with as many connections as wanted; it ends when the last of them is closed. Before any thread
// is started. `confine` is called in it before it serves; an error ends it.
Result<std::vector<Fd>> start_signer(std::size_t connections, const std::function<Result<>()>& confine);

// What an operator does to a zone's keys while the server runs; it looks again at its next reload.
// A new key signing key, published beside the old: its DS is to be given to the parent.
Result<std::string> roll_key(const Name& origin, const std::string& folder, std::uint8_t algorithm);
// The parent has the newest key's DS: the older ones are retired.
Result<> retire_old_keys(const Name& origin, const std::string& folder, std::uint8_t algorithm);
// DS records of the published key signing keys, a line each.
Result<std::string> list_ds(const Name& origin, const std::string& folder, std::uint8_t algorithm);

}  // namespace wherry::dns
