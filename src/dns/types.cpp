#include "dns/types.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace wherry::dns {

namespace {

constexpr auto type_names = std::to_array<std::pair<Type, std::string_view>>({
    {Type::A, "A"},         {Type::NS, "NS"},           {Type::CNAME, "CNAME"},
    {Type::SOA, "SOA"},     {Type::MB, "MB"},           {Type::MG, "MG"},
    {Type::MR, "MR"},       {Type::NULL_, "NULL"},      {Type::WKS, "WKS"},
    {Type::PTR, "PTR"},     {Type::HINFO, "HINFO"},     {Type::MINFO, "MINFO"},
    {Type::MX, "MX"},       {Type::TXT, "TXT"},         {Type::RP, "RP"},
    {Type::AFSDB, "AFSDB"}, {Type::X25, "X25"},         {Type::ISDN, "ISDN"},
    {Type::RT, "RT"},       {Type::NSAP, "NSAP"},       {Type::SIG, "SIG"},
    {Type::KEY, "KEY"},     {Type::PX, "PX"},           {Type::GPOS, "GPOS"},
    {Type::AAAA, "AAAA"},   {Type::LOC, "LOC"},         {Type::SRV, "SRV"},
    {Type::NAPTR, "NAPTR"}, {Type::KX, "KX"},           {Type::CERT, "CERT"},
    {Type::DNAME, "DNAME"}, {Type::OPT, "OPT"},         {Type::APL, "APL"},
    {Type::DS, "DS"},       {Type::SSHFP, "SSHFP"},     {Type::IPSECKEY, "IPSECKEY"},
    {Type::RRSIG, "RRSIG"}, {Type::NSEC, "NSEC"},       {Type::DNSKEY, "DNSKEY"},
    {Type::DHCID, "DHCID"}, {Type::NSEC3, "NSEC3"},     {Type::NSEC3PARAM, "NSEC3PARAM"},
    {Type::TLSA, "TLSA"},   {Type::SMIMEA, "SMIMEA"},   {Type::HIP, "HIP"},
    {Type::CDS, "CDS"},     {Type::CDNSKEY, "CDNSKEY"}, {Type::OPENPGPKEY, "OPENPGPKEY"},
    {Type::CSYNC, "CSYNC"}, {Type::ZONEMD, "ZONEMD"},   {Type::SVCB, "SVCB"},
    {Type::HTTPS, "HTTPS"}, {Type::SPF, "SPF"},         {Type::NID, "NID"},
    {Type::L32, "L32"},     {Type::L64, "L64"},         {Type::LP, "LP"},
    {Type::EUI48, "EUI48"}, {Type::EUI64, "EUI64"},     {Type::TKEY, "TKEY"},
    {Type::TSIG, "TSIG"},   {Type::IXFR, "IXFR"},       {Type::AXFR, "AXFR"},
    {Type::MAILB, "MAILB"}, {Type::MAILA, "MAILA"},     {Type::ANY, "ANY"},
    {Type::URI, "URI"},     {Type::CAA, "CAA"},         {Type::NXNAME, "NXNAME"},
});

constexpr auto class_names = std::to_array<std::pair<Class, std::string_view>>(
    {{Class::IN, "IN"}, {Class::CH, "CH"}, {Class::HS, "HS"}, {Class::NONE, "NONE"}, {Class::ANY, "ANY"}});

constexpr auto rcode_names = std::to_array<std::pair<Rcode, std::string_view>>({{Rcode::NOERROR, "NOERROR"},
                                                                                {Rcode::FORMERR, "FORMERR"},
                                                                                {Rcode::SERVFAIL, "SERVFAIL"},
                                                                                {Rcode::NXDOMAIN, "NXDOMAIN"},
                                                                                {Rcode::NOTIMP, "NOTIMP"},
                                                                                {Rcode::REFUSED, "REFUSED"},
                                                                                {Rcode::YXDOMAIN, "YXDOMAIN"},
                                                                                {Rcode::YXRRSET, "YXRRSET"},
                                                                                {Rcode::NXRRSET, "NXRRSET"},
                                                                                {Rcode::NOTAUTH, "NOTAUTH"},
                                                                                {Rcode::NOTZONE, "NOTZONE"},
                                                                                {Rcode::BADVERS, "BADVERS"},
                                                                                {Rcode::BADKEY, "BADKEY"},
                                                                                {Rcode::BADTIME, "BADTIME"},
                                                                                {Rcode::BADMODE, "BADMODE"},
                                                                                {Rcode::BADNAME, "BADNAME"},
                                                                                {Rcode::BADALG, "BADALG"},
                                                                                {Rcode::BADTRUNC, "BADTRUNC"},
                                                                                {Rcode::BADCOOKIE, "BADCOOKIE"}});

template <class Key, std::size_t count>
std::string name_or_number(const std::array<std::pair<Key, std::string_view>, count>& names, Key key,
                           std::string_view prefix) {
    for (const auto& [value, name] : names)
        if (value == key) return std::string(name);
    return std::string(prefix) + std::to_string(static_cast<unsigned>(key));
}

bool same_word(std::string_view a, std::string_view b) {
    return std::ranges::equal(a, b, [](char x, char y) {
        return (x >= 'a' && x <= 'z' ? x - 32 : x) == (y >= 'a' && y <= 'z' ? y - 32 : y);
    });
}

template <class Key, std::size_t count>
std::optional<Key> by_name(const std::array<std::pair<Key, std::string_view>, count>& names, std::string_view text,
                           std::string_view prefix) {
    for (const auto& [value, name] : names)
        if (same_word(name, text)) return value;
    if (text.size() <= prefix.size() || !same_word(text.substr(0, prefix.size()), prefix)) return std::nullopt;
    std::uint16_t number = 0;
    const char* end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data() + prefix.size(), end, number);
    if (error != std::errc() || stop != end) return std::nullopt;
    return static_cast<Key>(number);
}

}  // namespace

std::string to_string(Type type) {
    return name_or_number(type_names, type, "TYPE");
}
std::string to_string(Class dns_class) {
    return name_or_number(class_names, dns_class, "CLASS");
}
std::string to_string(Rcode rcode) {
    return name_or_number(rcode_names, rcode, "RCODE");
}

std::string to_string(Opcode opcode) {
    switch (opcode) {
        case Opcode::query:
            return "QUERY";
        case Opcode::iquery:
            return "IQUERY";
        case Opcode::status:
            return "STATUS";
        case Opcode::notify:
            return "NOTIFY";
        case Opcode::update:
            return "UPDATE";
        case Opcode::dso:
            return "DSO";
    }
    return "OPCODE" + std::to_string(static_cast<unsigned>(opcode));
}

std::optional<Type> parse_type(std::string_view text) {
    return by_name(type_names, text, "TYPE");
}
std::optional<Class> parse_class(std::string_view text) {
    return by_name(class_names, text, "CLASS");
}

}  // namespace wherry::dns
