// Attributes as a kernel (or a hostile sender) could give them: reading never leaves the bytes.
#include <linux/rtnetlink.h>

#include <cstdint>
#include <string_view>

#include "net/netlink_message.hpp"

namespace {

unsigned walk(wherry::net::NetlinkAttributes attributes, int depth) {
    unsigned sum = 0;
    wherry::net::NetlinkAttributes::Attribute attribute;
    while (attributes.next(attribute)) {
        sum += attribute.u8() + attribute.u16() + attribute.u32() + attribute.be32() +
               static_cast<unsigned>(attribute.be64());
        sum += static_cast<unsigned>(attribute.text().size());
        if (depth < 8) sum += walk(attribute.nested(), depth + 1);
    }
    return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::net;
    // SAFETY: char may alias any object.
    NetlinkMessage message{RTM_NEWLINK, {reinterpret_cast<const char*>(data), size}};
    ifinfomsg header{};
    NetlinkAttributes attributes{{}};
    unsigned sum = 0;
    if (message.split(header, attributes)) {
        sum += walk(attributes, 0);
        sum += static_cast<unsigned>(attributes.find(IFLA_LINKINFO).nested().find(IFLA_INFO_KIND).text().size());
    }
    // Used, so that nothing is optimised away.
    return sum == 0xffffffffU ? -1 : 0;
}
