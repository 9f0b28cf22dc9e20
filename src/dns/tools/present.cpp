#include "dns/tools/present.hpp"

#include <arpa/inet.h>

#include <array>
#include <boost/json/array.hpp>

#include "base/id.hpp"

namespace wherry::dns::tools {

namespace json = boost::json;

namespace {

std::string flags_of(const Header& header) {
    std::string text;
    auto add = [&](bool is, std::string_view name) {
        if (is) text += (text.empty() ? "" : " ") + std::string(name);
    };
    add(header.response, "qr");
    add(header.authoritative, "aa");
    add(header.truncated, "tc");
    add(header.recursion_desired, "rd");
    add(header.recursion_available, "ra");
    add(header.authentic_data, "ad");
    add(header.checking_disabled, "cd");
    return text;
}

std::string record_line(const Record& record) {
    std::string name = record.name.to_text();
    if (name.size() < 23) name.append(23 - name.size(), ' ');
    return name + " " + std::to_string(record.ttl) + "\t" + to_string(record.dns_class) + "\t" +
           to_string(record.type) + "\t" + record.value() + "\n";
}

std::string printable(std::span<const std::uint8_t> bytes) {
    std::string text;
    for (std::uint8_t byte : bytes) text += byte >= 0x20 && byte < 0x7F ? static_cast<char>(byte) : '.';
    return text;
}

// RFC 8914's registry, as far as it names what a server says of itself.
std::string_view extended_error_name(unsigned code) {
    constexpr std::array<std::string_view, 25> names = {"Other",
                                                        "Unsupported DNSKEY Algorithm",
                                                        "Unsupported DS Digest Type",
                                                        "Stale Answer",
                                                        "Forged Answer",
                                                        "DNSSEC Indeterminate",
                                                        "DNSSEC Bogus",
                                                        "Signature Expired",
                                                        "Signature Not Yet Valid",
                                                        "DNSKEY Missing",
                                                        "RRSIGs Missing",
                                                        "No Zone Key Bit Set",
                                                        "NSEC Missing",
                                                        "Cached Error",
                                                        "Not Ready",
                                                        "Blocked",
                                                        "Censored",
                                                        "Filtered",
                                                        "Prohibited",
                                                        "Stale NXDOMAIN Answer",
                                                        "Not Authoritative",
                                                        "Not Supported",
                                                        "No Reachable Authority",
                                                        "Network Error",
                                                        "Invalid Data"};
    return code < names.size() ? names[code] : "";
}

std::string subnet_text(std::span<const std::uint8_t> data) {
    if (data.size() < 4) return hex(std::as_bytes(data));
    std::array<std::uint8_t, 16> address{};
    std::size_t length = data.size() - 4;
    int family = load_u16(data.data()) == 1 ? AF_INET : AF_INET6;
    if (length > (family == AF_INET ? 4U : 16U)) return hex(std::as_bytes(data));
    for (std::size_t i = 0; i < length; ++i) address[i] = data[4 + i];
    std::array<char, INET6_ADDRSTRLEN> text{};
    ::inet_ntop(family, address.data(), text.data(), text.size());
    return std::string(text.data()) + "/" + std::to_string(data[2]) + " scope " + std::to_string(data[3]);
}

// name and what it says, for each option.
std::vector<std::pair<std::string, std::string>> options_of(const Message& message) {
    std::vector<std::pair<std::string, std::string>> found;
    std::span<const std::uint8_t> rest = message.option_bytes;
    while (rest.size() >= 4) {  // parse_edns has checked the lengths
        auto code = static_cast<EdnsOption>(load_u16(rest.data()));
        auto data = rest.subspan(4, std::min<std::size_t>(load_u16(rest.data() + 2), rest.size() - 4));
        rest = rest.subspan(4 + data.size());
        switch (code) {
            case EdnsOption::NSID:
                found.emplace_back("nsid", printable(data));
                break;
            case EdnsOption::client_subnet:
                found.emplace_back("client-subnet", subnet_text(data));
                break;
            case EdnsOption::cookie:
                found.emplace_back("cookie", hex(std::as_bytes(data)));
                break;
            case EdnsOption::extended_error:
                if (data.size() >= 2) {
                    unsigned number = load_u16(data.data());
                    std::string text = std::to_string(number) + " (" + std::string(extended_error_name(number)) + ")";
                    if (data.size() > 2) text += ": " + printable(data.subspan(2));
                    found.emplace_back("extended-error", text);
                }
                break;
            case EdnsOption::padding:
                found.emplace_back("padding", std::to_string(data.size()) + " bytes");
                break;
            default:
                found.emplace_back("option-" + std::to_string(static_cast<unsigned>(code)), hex(std::as_bytes(data)));
        }
    }
    return found;
}

double milliseconds(std::chrono::nanoseconds time) {
    return static_cast<double>(time.count()) / 1e6;
}

std::string milliseconds_text(std::chrono::nanoseconds time) {
    std::array<char, 32> text{};
    (void)std::snprintf(text.data(), text.size(), "%.1f", milliseconds(time));
    return text.data();
}

json::array records_json(const std::vector<Record>& records) {
    json::array list;
    for (const Record& record : records)
        list.push_back({{"name", record.name.to_text()},
                        {"ttl", record.ttl},
                        {"class", to_string(record.dns_class)},
                        {"type", to_string(record.type)},
                        {"data", record.value()}});
    return list;
}

}  // namespace

Result<Message> Message::parse(std::span<const std::uint8_t> packet) {
    MessageReader reader = TRY(MessageReader::open(packet));
    Message message;
    message.header = reader.header();
    message.rcode = reader.header().rcode;
    for (unsigned i = 0; i < message.header.questions; ++i)
        message.questions.push_back(TRY(reader.read_question(), "question"));
    auto read = [&](std::vector<Record>& section, unsigned count) -> Result<> {
        for (unsigned i = 0; i < count; ++i) {
            RecordView view = TRY(reader.read_record());
            if (view.type == Type::OPT) {
                message.edns = TRY(parse_edns(view));
                message.option_bytes.assign(message.edns.options.begin(), message.edns.options.end());
                message.edns.options = message.option_bytes;
                message.has_edns = true;
                message.rcode = static_cast<std::uint16_t>(message.rcode | message.edns.extended_rcode << 4U);
                continue;
            }
            section.push_back({.name = view.name,
                               .type = view.type,
                               .dns_class = view.dns_class,
                               .ttl = view.ttl,
                               .rdata = TRY(rdata_from_message(reader, view), view.name.to_text())});
        }
        return {};
    };
    TRY(read(message.answers, message.header.answers), "answer section");
    TRY(read(message.authorities, message.header.authorities), "authority section");
    TRY(read(message.additionals, message.header.additionals), "additional section");
    return message;
}

std::string to_short_text(const Message& message) {
    std::string text;
    for (const Record& record : message.answers)
        if (record.type != Type::RRSIG || message.questions.empty() || message.questions[0].type == Type::RRSIG)
            text += record.value() + "\n";
    return text;
}

std::string to_text(const Answer& answer, const Message& message) {
    const Header& header = message.header;
    std::string text =
        ";; " + to_string(message.code()) + ", id " + std::to_string(header.id) + ", flags: " + flags_of(header) + "\n";
    if (message.has_edns) {
        text += ";; EDNS: version " + std::to_string(message.edns.version) +
                (message.edns.dnssec_ok ? ", flags: do" : "") + ", UDP " +
                std::to_string(message.edns.udp_payload_bytes) + "\n";
        for (const auto& [name, value] : options_of(message)) text += ";; " + name + ": " + value + "\n";
    }
    for (const Question& question : message.questions)
        text += ";; question: " + question.name.to_text() + " " + to_string(question.dns_class) + " " +
                to_string(question.type) + "\n";
    auto section = [&](const char* name, const std::vector<Record>& records) {
        if (records.empty()) return;
        text += "\n;; " + std::string(name) + "\n";
        for (const Record& record : records) text += record_line(record);
    };
    section("answer", message.answers);
    section("authority", message.authorities);
    section("additional", message.additionals);
    text += "\n;; from " + answer.server.to_text() + " by " + std::string(to_string(answer.transport)) + " in " +
            milliseconds_text(answer.time) + " ms, " + std::to_string(answer.packet.size()) + " bytes\n";
    return text;
}

json::object to_json(const Answer& answer, const Message& message) {
    json::array questions;
    for (const Question& question : message.questions)
        questions.push_back({{"name", question.name.to_text()},
                             {"class", to_string(question.dns_class)},
                             {"type", to_string(question.type)}});
    json::object object = {{"server", answer.server.to_text()},
                           {"transport", to_string(answer.transport)},
                           {"time_ms", milliseconds(answer.time)},
                           {"bytes", answer.packet.size()},
                           {"id", message.header.id},
                           {"status", to_string(message.code())},
                           {"flags", flags_of(message.header)},
                           {"question", std::move(questions)},
                           {"answer", records_json(message.answers)},
                           {"authority", records_json(message.authorities)},
                           {"additional", records_json(message.additionals)}};
    if (message.has_edns) {
        json::object edns = {{"version", message.edns.version},
                             {"udp", message.edns.udp_payload_bytes},
                             {"dnssec_ok", message.edns.dnssec_ok}};
        for (const auto& [name, value] : options_of(message)) edns[name] = value;
        object["edns"] = std::move(edns);
    }
    return object;
}

}  // namespace wherry::dns::tools
