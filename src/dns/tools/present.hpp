// Answers for people and programs: dig's presentation, one value a line, and JSON.
#pragma once

#include <boost/json/object.hpp>
#include <string>
#include <vector>

#include "dns/tools/client.hpp"

namespace wherry::dns::tools {

struct Record {
    Name name;
    Type type = Type::A;
    Class dns_class = Class::IN;
    std::uint32_t ttl = 0;
    Bytes rdata;  // uncompressed wire form

    std::string value() const { return rdata_to_text(type, rdata); }
};

struct Message {
    Header header;
    std::uint16_t rcode = 0;  // with EDNS's upper bits
    std::vector<Question> questions;
    std::vector<Record> answers;
    std::vector<Record> authorities;
    std::vector<Record> additionals;  // without OPT
    bool has_edns = false;
    Edns edns;  // its options are in option_bytes
    Bytes option_bytes;

    static Result<Message> parse(std::span<const std::uint8_t> packet);
    Rcode code() const { return static_cast<Rcode>(rcode); }
};

// The addresses, names or texts of the answer section, a line each.
std::string to_short_text(const Message& message);
// Sections under headings, records as a master file has them, and who answered in what time.
std::string to_text(const Answer& answer, const Message& message);
boost::json::object to_json(const Answer& answer, const Message& message);

}  // namespace wherry::dns::tools
