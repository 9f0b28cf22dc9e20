#include "cli/dns_words.hpp"

#include <netdb.h>
#include <netinet/in.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>

namespace wherry::cli {

namespace {

volatile sig_atomic_t interrupted = 0;

void note_interruption(int) {
    interrupted = 1;
}

}  // namespace

int chosen_family(const ParsedOptions& options) {
    if (options.flag("ipv4") == options.flag("ipv6")) return AF_UNSPEC;
    return options.flag("ipv4") ? AF_INET : AF_INET6;
}

Result<std::vector<dns::SocketAddress>> system_addresses(const std::string& name, int family, std::uint16_t port) {
    addrinfo hints{};
    hints.ai_family = family;
    hints.ai_socktype = SOCK_DGRAM;
    addrinfo* list = nullptr;
    int problem = ::getaddrinfo(name.c_str(), nullptr, &hints, &list);
    if (problem != 0) {
        bool passing = problem == EAI_AGAIN || problem == EAI_FAIL;
        return fail(passing ? Code::unavailable : Code::not_found, name + ": " + ::gai_strerror(problem));
    }
    std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, ::freeaddrinfo);
    std::vector<dns::SocketAddress> found;
    for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
        if ((entry->ai_family != AF_INET && entry->ai_family != AF_INET6) ||
            entry->ai_addrlen > sizeof(sockaddr_storage))
            continue;
        dns::SocketAddress address;
        std::memcpy(&address.storage, entry->ai_addr, entry->ai_addrlen);
        address.size = entry->ai_addrlen;
        address.set_port(port);
        found.push_back(address);
    }
    if (found.empty()) return fail(Code::not_found, name + ": no address of this family");
    return found;
}

Result<std::chrono::milliseconds> parse_seconds(std::string_view text, std::string_view option) {
    double seconds = 0;
    auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
    // Not the negation: not-a-number fails every comparison.
    if (error == std::errc() && stop == text.data() + text.size() && seconds >= 0.001 && seconds <= 3600)
        return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
    return fail(Code::invalid_argument, "invalid argument \"" + std::string(text) + "\" for \"--" +
                                            std::string(option) + "\" flag: seconds from 0.001 to 3600 are wanted");
}

Result<unsigned> parse_number(const ParsedOptions& options, std::string_view option, unsigned fallback, unsigned least,
                              unsigned most) {
    if (!options.given(option)) return fallback;
    std::string text = options.text(option);
    unsigned value = 0;
    auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && stop == text.data() + text.size() && value >= least && value <= most) return value;
    return fail(Code::invalid_argument, "invalid argument \"" + text + "\" for \"--" + std::string(option) +
                                            "\" flag: a number from " + std::to_string(least) + " to " +
                                            std::to_string(most) + " is wanted");
}

Interruption::Interruption() {
    interrupted = 0;
    struct sigaction action{};
    action.sa_handler = note_interruption;  // without SA_RESTART: waits end
    ::sigaction(SIGINT, &action, &interrupt_);
    ::sigaction(SIGTERM, &action, &terminate_);
}

Interruption::~Interruption() {
    ::sigaction(SIGINT, &interrupt_, nullptr);
    ::sigaction(SIGTERM, &terminate_, nullptr);
}

bool Interruption::happened() {
    return interrupted != 0;
}

std::string milliseconds(double nanoseconds, int digits) {
    std::array<char, 40> text{};
    (void)std::snprintf(text.data(), text.size(), "%.*f", digits, nanoseconds / 1e6);
    return text.data();
}

}  // namespace wherry::cli
