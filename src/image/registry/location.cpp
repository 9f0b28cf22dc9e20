#include "image/registry/location.hpp"

#include <arpa/inet.h>
#include <dirent.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <memory>

#include "base/fd.hpp"

namespace wherry::image {

namespace {

constexpr std::string_view hub = "docker.io";
constexpr std::string_view hub_host = "registry-1.docker.io";

bool has_port(std::string_view host) {
    return host.starts_with('[') ? host.find("]:") != std::string_view::npos : host.contains(':');
}

std::string without_port(std::string_view host) {
    if (host.starts_with('[')) {
        std::size_t end = host.find(']');
        return std::string(host.substr(1, end == std::string_view::npos ? 0 : end - 1));
    }
    return std::string(host.substr(0, host.rfind(':')));
}

struct Address {
    int family = AF_UNSPEC;
    std::array<unsigned char, 16> bytes{};
};

Address parse_address(const std::string& text) {
    Address address;
    if (::inet_pton(AF_INET, text.c_str(), address.bytes.data()) == 1)
        address.family = AF_INET;
    else if (::inet_pton(AF_INET6, text.c_str(), address.bytes.data()) == 1)
        address.family = AF_INET6;
    return address;
}

std::optional<unsigned> parse_bits(std::string_view text, int family) {
    unsigned bits = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bits);
    if (error != std::errc{} || end != text.data() + text.size() || bits > (family == AF_INET ? 32U : 128U))
        return std::nullopt;
    return bits;
}

bool in_subnet(const std::string& host, std::string_view subnet) {
    std::size_t slash = subnet.find('/');
    if (slash == std::string_view::npos) return false;
    Address network = parse_address(std::string(subnet.substr(0, slash)));
    Address address = parse_address(host);
    if (address.family == AF_UNSPEC || address.family != network.family) return false;
    auto bits = parse_bits(subnet.substr(slash + 1), network.family);
    if (!bits) return false;
    for (unsigned bit = 0; bit < *bits; ++bit) {
        unsigned char mask = static_cast<unsigned char>(0x80U >> (bit % 8));
        if (((address.bytes[bit / 8] ^ network.bytes[bit / 8]) & mask) != 0) return false;
    }
    return true;
}

// Names in the folder that end so, sorted.
std::vector<std::string> files_ending(const std::string& folder, std::string_view suffix) {
    std::vector<std::string> names;
    std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(folder.c_str()), &::closedir);
    if (!stream) return names;
    while (const dirent* entry = ::readdir(stream.get())) {
        std::string_view name = entry->d_name;
        if (name.ends_with(suffix) && name.size() > suffix.size()) names.push_back(folder + "/" + std::string(name));
    }
    std::ranges::sort(names);
    return names;
}

std::unexpected<Error> no_mirror(std::string_view text, std::string_view why) {
    return fail(Code::invalid_argument, "invalid mirror: \"" + std::string(text) + "\": " + std::string(why));
}

}  // namespace

Result<> RegistryConfig::add_mirror(std::string_view text) {
    std::string host(hub);
    std::string_view url = text;
    if (std::size_t equals = text.find('='); equals != std::string_view::npos && equals < text.find("://")) {
        host = text.substr(0, equals);
        url = text.substr(equals + 1);
        if (host.empty() || host.contains('/')) return no_mirror(text, "expected HOST=URL");
    }
    const bool plain = url.starts_with("http://");
    if (!plain && !url.starts_with("https://")) return no_mirror(text, "no scheme of http or https");
    std::string_view rest = url.substr(plain ? 7 : 8);
    if (rest.empty() || rest.starts_with('/')) return no_mirror(text, "no host");
    if (rest.contains('@')) return no_mirror(text, "credentials are not taken from the configuration");
    if (rest.contains('?') || rest.contains('#')) return no_mirror(text, "query and fragment are not allowed");
    const std::string authority(rest.substr(0, rest.find('/')));
    if (!plain_endpoint(authority)) return no_mirror(text, "no such host");
    mirrors[host].emplace_back(url);
    return {};
}

Result<> RegistryConfig::add_insecure(std::string text) {
    if (text.contains("://"))
        return fail(Code::invalid_argument, "insecure registry " + text + " should not contain a scheme");
    if (std::size_t slash = text.find('/'); slash != std::string::npos) {
        const Address network = parse_address(text.substr(0, slash));
        if (network.family == AF_UNSPEC || !parse_bits(std::string_view(text).substr(slash + 1), network.family))
            return fail(Code::invalid_argument, "insecure registry " + text + ": expected a host or a subnet");
    } else if (text.empty() || !plain_endpoint(text)) {
        return fail(Code::invalid_argument, "insecure registry " + text + " is not valid");
    }
    insecure_registries.push_back(std::move(text));
    return {};
}

RegistryLocation own_location(std::string_view host) {
    RegistryLocation own;
    own.host = host == hub || host == "index.docker.io" ? hub_host : host;
    return own;
}

std::vector<RegistryLocation> pull_locations(const RegistryConfig& config, std::string_view host) {
    std::vector<RegistryLocation> locations;
    if (auto found = config.mirrors.find(std::string(host)); found != config.mirrors.end()) {
        for (std::string_view url : found->second) {
            RegistryLocation location;
            location.mirror = true;
            location.plain = url.starts_with("http://");
            url.remove_prefix(*location.plain ? 7 : 8);
            while (url.ends_with('/')) url.remove_suffix(1);
            std::size_t slash = url.find('/');
            location.host = url.substr(0, slash);
            if (slash != std::string_view::npos) location.prefix = url.substr(slash);
            locations.push_back(std::move(location));
        }
    }
    locations.push_back(own_location(host));
    return locations;
}

bool is_loopback_registry(std::string_view host) {
    std::string name = without_port(host);
    if (name == "localhost" || name == "::1") return true;
    return in_subnet(name, "127.0.0.0/8");
}

bool is_insecure_registry(const RegistryConfig& config, std::string_view host) {
    if (is_loopback_registry(host)) return true;
    const std::string name = without_port(host);
    return std::ranges::any_of(config.insecure_registries, [&](const std::string& entry) {
        return entry == host || entry == name || in_subnet(name, entry);
    });
}

Result<http::Endpoint> secure_endpoint(const RegistryConfig& config, const std::string& host) {
    http::ClientTls tls;
    tls.verify_server = !is_insecure_registry(config, host);
    for (const std::string& folder : config.certificate_folders) {
        const std::string own = folder + "/" + host;
        tls.more_authorities = files_ending(own, ".crt");
        auto certificates = files_ending(own, ".cert");
        if (!certificates.empty()) {
            tls.certificate = certificates.front();
            tls.key = tls.certificate.substr(0, tls.certificate.size() - 5) + ".key";
            if (!path_exists(tls.key))
                return fail(Code::not_found, "missing key " + tls.key + " for client certificate");
        }
        if (!tls.more_authorities.empty() || !certificates.empty()) break;
    }
    if (!tls.more_authorities.empty()) tls.verify_server = true;
    http::Endpoint endpoint = TRY(http::parse_endpoint("https://" + host, tls));
    if (!has_port(host)) endpoint.port = 443;
    return endpoint;
}

Result<http::Endpoint> plain_endpoint(const std::string& host) {
    http::Endpoint endpoint = TRY(http::parse_endpoint("http://" + host));
    if (!has_port(host)) endpoint.port = 80;
    return endpoint;
}

}  // namespace wherry::image
