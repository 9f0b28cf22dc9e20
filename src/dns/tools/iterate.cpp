#include "dns/tools/iterate.hpp"

#include <netinet/in.h>

#include <algorithm>
#include <array>

namespace wherry::dns::tools {

namespace {

constexpr unsigned most_questions = 100;
constexpr unsigned most_depth = 16;

// named.root: the letters' IPv4 addresses (IANA).
constexpr std::array<std::pair<char, const char*>, 13> root_hints = {{{'a', "198.41.0.4"},
                                                                      {'b', "170.247.170.2"},
                                                                      {'c', "192.33.4.12"},
                                                                      {'d', "199.7.91.13"},
                                                                      {'e', "192.203.230.10"},
                                                                      {'f', "192.5.5.241"},
                                                                      {'g', "192.112.36.4"},
                                                                      {'h', "198.97.190.53"},
                                                                      {'i', "192.36.148.17"},
                                                                      {'j', "192.58.128.30"},
                                                                      {'k', "193.0.14.129"},
                                                                      {'l', "199.7.83.42"},
                                                                      {'m', "202.12.27.33"}}};

struct NameServer {
    std::string name;
    std::vector<SocketAddress> addresses;
};

struct Delegation {
    Name zone;
    std::vector<NameServer> servers;
};

SocketAddress address_of(const Record& record, std::uint16_t port) {
    SocketAddress address;
    // SAFETY: sockaddr_storage is made for holding either; the caller has checked type and length.
    if (record.type == Type::A) {
        auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
        v4->sin_family = AF_INET;
        std::copy_n(record.rdata.begin(), 4, reinterpret_cast<std::uint8_t*>(&v4->sin_addr));
        address.size = sizeof(sockaddr_in);
    } else {
        auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
        v6->sin6_family = AF_INET6;
        std::copy_n(record.rdata.begin(), 16, reinterpret_cast<std::uint8_t*>(&v6->sin6_addr));
        address.size = sizeof(sockaddr_in6);
    }
    address.set_port(port);
    return address;
}

bool is_address(const Record& record) {
    return (record.type == Type::A && record.rdata.size() == 4) ||
           (record.type == Type::AAAA && record.rdata.size() == 16);
}

class Iteration {
  public:
    explicit Iteration(const IterateOptions& options) : options_(options), query_(options.query) {
        query_.recursion_desired = false;
    }

    Result<Step> resolve(const Question& question, unsigned depth) {
        if (depth > most_depth) return fail(Code::resource_exhausted, question.name.to_text() + ": too many levels");
        Delegation at = root();
        while (true) {
            Step step = TRY(ask_any(at, question, depth));
            if (options_.on_step) options_.on_step(step);
            if (auto lower = referral(step.message, at, question.name)) {
                at = std::move(*lower);
                continue;
            }
            // An alias without what it leads to: the rest is another way down from the root.
            if (auto target = open_alias(step.message, question)) {
                Question next = question;
                next.name = *target;
                return resolve(next, depth + 1);
            }
            return step;
        }
    }

  private:
    Delegation root() const {
        Delegation found;
        for (const SocketAddress& address : options_.roots) found.servers.push_back({address.to_text(), {address}});
        if (!found.servers.empty()) return found;
        for (const auto& [letter, text] : root_hints)
            if (auto address = SocketAddress::parse(text, options_.port))
                found.servers.push_back({std::string(1, letter) + ".root-servers.net.", {*address}});
        return found;
    }

    Result<Step> ask_any(Delegation& at, const Question& question, unsigned depth) {
        std::string problem = "it has no servers";
        for (int pass = 0; pass < 2; ++pass)
            for (NameServer& server : at.servers) {
                // Names without glue are looked up only when those with addresses have failed.
                if (server.addresses.empty() && pass == 1)
                    server.addresses = addresses_of(server.name, at.zone, depth);
                else if (pass == 1)
                    continue;
                for (const SocketAddress& address : server.addresses) {
                    if (++questions_ > most_questions)
                        return fail(Code::resource_exhausted, question.name.to_text() + ": more than " +
                                                                  std::to_string(most_questions) + " questions");
                    auto answer = ask(address, question, query_);
                    if (!answer) {
                        problem = answer.error().describe();
                        if (options_.on_failure) options_.on_failure(server.name, answer.error());
                        continue;
                    }
                    auto message = Message::parse(answer->packet);
                    if (!message) {
                        problem = server.name + ": " + message.error().describe();
                        if (options_.on_failure) options_.on_failure(server.name, message.error());
                        continue;
                    }
                    if (message->code() != Rcode::NOERROR && message->code() != Rcode::NXDOMAIN) {
                        problem = server.name + " (" + address.to_text() + ") answered " + to_string(message->code());
                        if (options_.on_failure) options_.on_failure(server.name, Error(Code::unavailable, problem));
                        continue;
                    }
                    return Step{.zone = at.zone,
                                .server = server.name,
                                .answer = std::move(*answer),
                                .message = std::move(*message),
                                .depth = depth};
                }
            }
        return fail(Code::unavailable, "no server of " + at.zone.to_text() + " gives an answer: " + problem);
    }

    std::vector<SocketAddress> addresses_of(const std::string& server, const Name& zone, unsigned depth) {
        std::vector<SocketAddress> found;
        auto name = Name::parse(server);
        // A server inside its own zone without glue can't be found by going down again.
        if (!name || (name->is_within(zone) && !zone.is_root())) return found;
        for (Type type : {Type::A, Type::AAAA}) {
            if (type == Type::AAAA && (!options_.ipv6 || !found.empty())) break;
            auto step = resolve({.name = *name, .type = type}, depth + 1);
            if (!step) continue;
            for (const Record& record : step->message.answers)
                if (is_address(record)) found.push_back(address_of(record, options_.port));
        }
        return found;
    }

    // The delegation that a message without an answer points to; nothing when it is an answer, or points nowhere lower.
    std::optional<Delegation> referral(const Message& message, const Delegation& at, const Name& wanted) const {
        if (!message.answers.empty() || message.header.authoritative || message.code() != Rcode::NOERROR)
            return std::nullopt;
        Delegation lower;
        for (const Record& record : message.authorities) {
            if (record.type != Type::NS || !wanted.is_within(record.name)) continue;
            // Only downwards: a referral to the same zone or above is a lame server's.
            if (record.name.label_count() <= at.zone.label_count() || !record.name.is_within(at.zone)) continue;
            lower.zone = record.name;
            NameServer server{.name = rdata_name(record.rdata).to_text(), .addresses = {}};
            for (Type family : {Type::A, Type::AAAA}) {
                if (family == Type::AAAA && !options_.ipv6) break;
                for (const Record& glue : message.additionals)
                    if (glue.type == family && is_address(glue) && glue.name == rdata_name(record.rdata))
                        server.addresses.push_back(address_of(glue, options_.port));
            }
            lower.servers.push_back(std::move(server));
        }
        if (lower.servers.empty()) return std::nullopt;
        return lower;
    }

    // The end of the answer's CNAME chain when nothing of the asked type stands there.
    static std::optional<Name> open_alias(const Message& message, const Question& question) {
        if (question.type == Type::CNAME || question.type == Type::ANY) return std::nullopt;
        Name at = question.name;
        for (std::size_t hops = 0; hops <= message.answers.size(); ++hops) {
            const Record* alias = nullptr;
            for (const Record& record : message.answers) {
                if (record.name != at) continue;
                if (record.type == question.type) return std::nullopt;
                if (record.type == Type::CNAME) alias = &record;
            }
            if (alias == nullptr) break;
            at = rdata_name(alias->rdata);
        }
        // A negative answer for the target by the same server ends it too.
        if (at == question.name || message.code() == Rcode::NXDOMAIN) return std::nullopt;
        for (const Record& record : message.authorities)
            if (record.type == Type::SOA && at.is_within(record.name)) return std::nullopt;
        return at;
    }

    const IterateOptions& options_;
    QueryOptions query_;
    unsigned questions_ = 0;
};

}  // namespace

Result<Step> iterate(const Question& question, const IterateOptions& options) {
    return Iteration(options).resolve(question, 0);
}

}  // namespace wherry::dns::tools
