// Who owns what: numbers of users and groups as the client counts them and as the host does, and acting as a user of
// the host while a file is made.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "fuse/answer.hpp"

namespace wherry::fuse {

struct IdRange {
    std::uint32_t guest = 0;
    std::uint32_t host = 0;
    std::uint32_t count = 0;
};
// "guest:host:count".
Result<IdRange> parse_id_range(std::string_view text);

// Without ranges every number is itself. With ranges a number of the guest outside of them becomes `squash`, or is
// refused (EOVERFLOW, as on an idmapped mount); one of the host becomes 65534.
class IdMap {
  public:
    static constexpr std::uint32_t nobody = 65534;

    IdMap() = default;
    // invalid_argument for ranges that are empty, overflow or overlap.
    static Result<IdMap> create(std::vector<IdRange> ranges, std::optional<std::uint32_t> squash);

    Answer<std::uint32_t> to_host(std::uint32_t guest) const;
    std::uint32_t to_guest(std::uint32_t host) const;

  private:
    std::vector<IdRange> ranges_;
    std::optional<std::uint32_t> squash_;
};

// What this process may do; asked once, before the first request.
struct Rights {
    bool may_become = false;      // other users and groups (CAP_SETUID, CAP_SETGID)
    std::uint64_t permitted = 0;  // capabilities
    static Rights of_this_process();
};

// Files are made as this user of the host while it lives, and none of root's rights but passing permissions (which the
// guest's kernel judges) go into it. The calling thread only.
class ActingAs {
  public:
    ActingAs(const Rights& rights, std::uint32_t uid, std::uint32_t gid);
    ~ActingAs();
    ActingAs(const ActingAs&) = delete;
    ActingAs& operator=(const ActingAs&) = delete;

  private:
    const Rights& rights_;
    bool changed_uid_ = false;
    bool changed_gid_ = false;
};

// Writes and truncations take the set-id bits away while it lives, as they do for users without rights.
class WithoutSetIdRight {
  public:
    explicit WithoutSetIdRight(const Rights& rights);
    ~WithoutSetIdRight();
    WithoutSetIdRight(const WithoutSetIdRight&) = delete;
    WithoutSetIdRight& operator=(const WithoutSetIdRight&) = delete;

  private:
    const Rights& rights_;
};

}  // namespace wherry::fuse
