// How each type's data is laid out, as a string of field letters; one table for parsing, printing and checking.
//
//   1 2 4     unsigned integer of that many bytes        n  name, compressible in packets (RFC 1035's types)
//   t         TTL-like number: 4 bytes, units allowed    N  name, never compressed
//   T         record type, 2 bytes                       L  name, never compressed, lower-cased for signatures
//   a A       IPv4, IPv6 address                         s  one character string      S  character strings to the end
//   h         hex to the end   b  base64 to the end
//   H         base32hex with a length byte (NSEC3)       X  hex with a length byte, "-" when empty (NSEC3 salt)
//   m         type bit map to the end                    w  time, YYYYMMDDHHmmSS or seconds (RRSIG)
//   q         text to the end without length (URI, CAA)  c  CAA tag (character string of letters and digits)
//   p         SvcParams (SVCB, HTTPS)                     l  LOC, the whole of it
//   6 8       EUI-48, EUI-64                              g  64-bit locator in four groups (NID, L64)
//   d         APL items
#pragma once

#include <string_view>

#include "dns/types.hpp"

namespace wherry::dns {

// Empty for types without a known shape.
constexpr std::string_view rdata_format(Type type) {
    switch (type) {
        case Type::A:
            return "a";
        case Type::AAAA:
            return "A";
        case Type::NS:
        case Type::CNAME:
        case Type::PTR:
        case Type::MB:
        case Type::MG:
        case Type::MR:
            return "n";
        case Type::DNAME:
            return "L";
        case Type::SOA:
            return "nn4tttt";
        case Type::MINFO:
            return "nn";
        case Type::MX:
            return "2n";
        case Type::RP:
            return "LL";
        case Type::AFSDB:
        case Type::RT:
        case Type::KX:
            return "2L";
        case Type::PX:
            return "2LL";
        case Type::LP:
            return "2N";
        case Type::HINFO:
            return "ss";
        case Type::X25:
            return "s";
        case Type::ISDN:
        case Type::TXT:
        case Type::SPF:
            return "S";
        case Type::GPOS:
            return "sss";
        case Type::SRV:
            return "222L";
        case Type::NAPTR:
            return "22sssL";
        case Type::DS:
        case Type::CDS:
            return "211h";
        case Type::DNSKEY:
        case Type::CDNSKEY:
        case Type::KEY:
            return "211b";
        case Type::RRSIG:
        case Type::SIG:
            return "T11tww2Lb";
        case Type::NSEC:
            return "Nm";
        case Type::NSEC3:
            return "112XHm";
        case Type::NSEC3PARAM:
            return "112X";
        case Type::CSYNC:
            return "42m";
        case Type::TLSA:
        case Type::SMIMEA:
            return "111h";
        case Type::SSHFP:
            return "11h";
        case Type::ZONEMD:
            return "411h";
        case Type::CERT:
            return "221b";
        case Type::DHCID:
        case Type::OPENPGPKEY:
            return "b";
        case Type::SVCB:
        case Type::HTTPS:
            return "2Np";
        case Type::URI:
            return "22q";
        case Type::CAA:
            return "1cq";
        case Type::LOC:
            return "l";
        case Type::EUI48:
            return "6";
        case Type::EUI64:
            return "8";
        case Type::NID:
        case Type::L64:
            return "2g";
        case Type::L32:
            return "2a";
        case Type::APL:
            return "d";
        default:
            return "";
    }
}

}  // namespace wherry::dns
