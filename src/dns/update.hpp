// Dynamic update (RFC 2136): the prerequisites and changes of one message, applied to an editor of the zone.
#pragma once

#include "dns/message.hpp"
#include "dns/zone_edit.hpp"

namespace wherry::dns {

// NOERROR: the changes are in the editor. Otherwise nothing was changed. Changing the serial is the caller's.
Rcode apply_update(ZoneEditor& editor, std::span<const std::uint8_t> packet);

}  // namespace wherry::dns
