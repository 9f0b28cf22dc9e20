// POSIX ACLs as archives write them, into the form the kernel's attribute system.posix_acl_access has.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace wherry::image {

// "user::rw-,user:name:r--:1000,group::r--,mask::r--,other::---" (star's SCHILY.acl.*; also with line ends for commas).
// Ids are the fourth field or a numeric second. nullopt when it is none, or names an id by name only: names mean
// nothing here.
std::optional<std::string> encode_acl(std::string_view text);

}  // namespace wherry::image
