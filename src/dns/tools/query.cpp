#include "dns/tools/query.hpp"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <charconv>

namespace wherry::dns::tools {

namespace {

void append_u16(std::vector<std::uint8_t>& to, std::size_t value) {
    to.push_back(static_cast<std::uint8_t>(value >> 8U));
    to.push_back(static_cast<std::uint8_t>(value));
}

void append_option(std::vector<std::uint8_t>& to, EdnsOption code, std::span<const std::uint8_t> data) {
    append_u16(to, static_cast<std::uint16_t>(code));
    append_u16(to, data.size());
    to.insert(to.end(), data.begin(), data.end());
}

// RFC 7871 section 6: family, source prefix, scope 0, and the bytes of the address that the prefix covers.
std::vector<std::uint8_t> subnet_option(const ClientSubnet& subnet) {
    std::vector<std::uint8_t> data;
    append_u16(data, subnet.address.family() == AF_INET ? 1 : 2);
    data.push_back(static_cast<std::uint8_t>(subnet.prefix));
    data.push_back(0);
    auto bytes = socket_address_bytes(subnet.address.storage);
    for (unsigned bit = 0; bit < subnet.prefix; bit += 8) {
        unsigned kept = std::min(8U, subnet.prefix - bit);
        data.push_back(static_cast<std::uint8_t>(bytes[bit / 8] & (0xFF00U >> kept)));
    }
    return data;
}

}  // namespace

std::string_view to_string(Transport transport) {
    return transport == Transport::udp ? "UDP" : transport == Transport::tcp ? "TCP" : "TLS";
}

Result<ClientSubnet> ClientSubnet::parse(std::string_view text) {
    auto bad = [&] {
        return fail(Code::invalid_argument, "\"" + std::string(text.substr(0, 80)) + "\" is not ADDRESS[/PREFIX]");
    };
    ClientSubnet subnet;
    if (text == "0") text = "0.0.0.0/0";
    std::size_t slash = text.find('/');
    auto address = SocketAddress::parse(text.substr(0, slash), 0);
    if (!address || address->port() != 0) return bad();
    subnet.address = *address;
    unsigned longest = address->family() == AF_INET ? 32 : 128;
    subnet.prefix = longest;
    if (slash != std::string_view::npos) {
        std::string_view digits = text.substr(slash + 1);
        auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), subnet.prefix);
        if (error != std::errc() || stop != digits.data() + digits.size() || subnet.prefix > longest) return bad();
    }
    return subnet;
}

Result<std::vector<std::uint8_t>> make_query(const Question& question, const QueryOptions& options, std::uint16_t id) {
    std::vector<std::uint8_t> packet(1024);
    MessageWriter writer(packet);
    Header header;
    header.id = id;
    header.recursion_desired = options.recursion_desired;
    header.checking_disabled = options.checking_disabled;
    header.authentic_data = options.authentic_data;
    header.questions = 1;
    header.additionals = options.edns ? 1 : 0;
    bool fits = writer.write_header(header) && writer.write_question(question);
    if (options.edns) {
        std::vector<std::uint8_t> data;
        if (options.ask_nsid) append_option(data, EdnsOption::NSID, {});
        if (options.subnet) append_option(data, EdnsOption::client_subnet, subnet_option(*options.subnet));
        Edns edns{.udp_payload_bytes = options.udp_payload_bytes, .dnssec_ok = options.dnssec_ok, .options = data};
        fits = fits && writer.write_edns(edns);
    } else if (options.dnssec_ok || options.ask_nsid || options.subnet) {
        return fail(Code::invalid_argument, "DNSSEC, NSID and client subnets need EDNS");
    }
    if (!fits) return fail(Code::invalid_argument, "the query is too long");
    packet.resize(writer.size());
    return packet;
}

bool answers(std::span<const std::uint8_t> packet, const Question& question, std::uint16_t id) {
    auto reader = MessageReader::open(packet);
    if (!reader || !reader->header().response || reader->header().id != id) return false;
    if (reader->header().questions == 0)
        return reader->header().rcode == static_cast<std::uint8_t>(Rcode::FORMERR) ||
               reader->header().rcode == static_cast<std::uint8_t>(Rcode::NOTIMP);
    auto asked = reader->read_question();
    return asked && asked->name == question.name && asked->type == question.type &&
           asked->dns_class == question.dns_class;
}

Name reverse_name(const SocketAddress& address) {
    auto bytes = socket_address_bytes(address.storage);
    std::string text;
    if (bytes.size() == 4) {
        for (std::size_t i = 4; i-- > 0;) text += std::to_string(bytes[i]) + ".";
        text += "in-addr.arpa.";
    } else {
        constexpr std::string_view digits = "0123456789abcdef";
        for (std::size_t i = 16; i-- > 0;) {
            text += digits[bytes[i] & 15U];
            text += '.';
            text += digits[bytes[i] >> 4U];
            text += '.';
        }
        text += "ip6.arpa.";
    }
    return Name::parse(text).value_or(Name());  // always a name: 73 bytes at most
}

}  // namespace wherry::dns::tools
