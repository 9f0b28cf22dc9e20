#include "confine/seccomp_log.hpp"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/id.hpp"

namespace wherry::confine {
namespace {

constexpr std::size_t most_events = 64;
// Records are under 1 KiB; the kernel's own limit of a message is 8970 (MAX_AUDIT_MESSAGE_LENGTH).
constexpr std::size_t buffer_size = 16U << 10U;
constexpr unsigned seccomp_record = 1326;  // AUDIT_SECCOMP

template <class T>
bool number(std::string_view text, T& out, int base = 10) {
    if (base == 16 && text.starts_with("0x")) text.remove_prefix(2);
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out, base);
    return error == std::errc{} && end == text.data() + text.size();
}

// "name", or hexadecimal when it has characters that would confuse a reader.
std::string untrusted_string(std::string_view text) {
    std::string raw;
    if (text.size() >= 2 && text.front() == '"' && text.back() == '"') {
        raw = text.substr(1, text.size() - 2);
    } else if (auto bytes = unhex(text)) {
        raw = std::move(*bytes);
    }
    raw.resize(std::min<std::size_t>(raw.size(), 16));
    for (char& c : raw)
        if (c < 0x20 || c > 0x7e) c = '?';
    return raw;
}

}  // namespace

std::optional<SeccompDenial> parse_seccomp_record(std::string_view text) {
    SeccompDenial denial;
    bool has_pid = false;
    bool has_syscall = false;
    bool has_arch = false;
    // Values are never split by blanks: the kernel writes suspicious strings in hexadecimal. The first of each key
    // counts.
    std::size_t fields = 0;
    while (!text.empty() && ++fields <= 64) {
        auto end = text.find_first_of(" \n");
        std::string_view field = text.substr(0, end);
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
        auto equals = field.find('=');
        if (equals == std::string_view::npos) continue;
        std::string_view key = field.substr(0, equals);
        std::string_view value = field.substr(equals + 1);
        if (key == "pid" && !has_pid) {
            if (!number(value, denial.pid) || denial.pid < 0) return std::nullopt;
            has_pid = true;
        } else if (key == "uid") {
            number(value, denial.uid);
        } else if (key == "comm" && denial.command.empty()) {
            denial.command = untrusted_string(value);
        } else if (key == "sig") {
            number(value, denial.signal);
        } else if (key == "arch" && !has_arch) {
            if (!number(value, denial.arch, 16)) return std::nullopt;
            has_arch = true;
        } else if (key == "syscall" && !has_syscall) {
            if (!number(value, denial.syscall)) return std::nullopt;
            has_syscall = true;
        } else if (key == "code") {
            number(value, denial.action, 16);
        }
    }
    if (!has_pid || !has_arch || !has_syscall) return std::nullopt;
    return denial;
}

namespace {

Result<Fd> open_netlink() {
    Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_AUDIT));
    if (!socket) return fail_errno("audit socket");
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    address.nl_groups = 1U << (AUDIT_NLGRP_READLOG - 1);
    // SAFETY: bind(2) takes every kind of address by way of sockaddr.
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
        return fail_errno("joining the audit records' group");
    return socket;
}

Result<Fd> open_kernel_log() {
    Fd log = TRY(open_file("/dev/kmsg", O_RDONLY | O_NONBLOCK));
    if (::lseek(log.get(), 0, SEEK_END) < 0) return fail_errno("end of /dev/kmsg");
    return log;
}

// All messages of one datagram.
void parse_datagram(std::string_view bytes, std::vector<SeccompDenial>& out) {
    while (bytes.size() >= sizeof(nlmsghdr) && out.size() < most_events) {
        nlmsghdr header;
        std::memcpy(&header, bytes.data(), sizeof header);
        if (header.nlmsg_len < sizeof header) return;
        // Older kernels leave the header's own length out of nlmsg_len for audit records; so take what is there.
        std::size_t length = std::min<std::size_t>(header.nlmsg_len, bytes.size());
        if (header.nlmsg_type == seccomp_record) {
            std::string_view text = bytes.substr(sizeof header, length - sizeof header);
            if (auto nul = text.find('\0'); nul != std::string_view::npos) text = text.substr(0, nul);
            if (auto denial = parse_seccomp_record(text)) out.push_back(std::move(*denial));
        }
        bytes.remove_prefix(std::min(bytes.size(), static_cast<std::size_t>(NLMSG_ALIGN(length))));
    }
}

// "6,1234,5678901,-;audit: type=1326 audit(...): auid=..."
void parse_kernel_line(std::string_view line, std::vector<SeccompDenial>& out) {
    unsigned priority = 0;
    auto comma = line.find(',');
    if (comma == std::string_view::npos || !number(line.substr(0, comma), priority)) return;
    if (priority >> 3U != 0) return;  // not from the kernel: anyone who may write /dev/kmsg could have made it up
    auto semicolon = line.find(';');
    if (semicolon == std::string_view::npos) return;
    line.remove_prefix(semicolon + 1);
    constexpr std::string_view start = "audit: type=1326 ";
    if (!line.starts_with(start)) return;
    line.remove_prefix(start.size());
    if (auto denial = parse_seccomp_record(line.substr(0, line.find('\n')))) out.push_back(std::move(*denial));
}

}  // namespace

Result<SeccompLog> SeccompLog::open(Source source) {
    Fd fd = source == Source::netlink ? TRY(open_netlink()) : TRY(open_kernel_log());
    return SeccompLog(std::move(fd), source);
}

Result<SeccompLog> SeccompLog::open() {
    if (auto log = open(Source::netlink)) return log;
    return open(Source::kernel_log);
}

Result<std::vector<SeccompDenial>> SeccompLog::read() {
    std::vector<SeccompDenial> out;
    std::array<char, buffer_size> buffer;
    // Bounded also where most of what comes is no seccomp record.
    for (int rounds = 0; rounds < 256 && out.size() < most_events; ++rounds) {
        sockaddr_nl from{};
        socklen_t from_size = sizeof from;
        // SAFETY: recvfrom(2) takes every kind of address by way of sockaddr.
        ssize_t got = source_ == Source::netlink ? ::recvfrom(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT,
                                                              reinterpret_cast<sockaddr*>(&from), &from_size)
                                                 : ::read(fd_.get(), buffer.data(), buffer.size());
        if (got < 0) {
            // Overrun: records were lost (ENOBUFS of the socket, EPIPE of /dev/kmsg); the next ones are there.
            if (errno == EINTR || errno == ENOBUFS || errno == EPIPE) continue;
            if (errno == EAGAIN) break;
            return fail_errno("reading the log of denied system calls");
        }
        if (got == 0) break;
        std::string_view bytes(buffer.data(), static_cast<std::size_t>(got));
        if (source_ == Source::kernel_log) {
            parse_kernel_line(bytes, out);
        } else if (from.nl_pid == 0) {  // from the kernel, not from another process
            parse_datagram(bytes, out);
        }
    }
    return out;
}

}  // namespace wherry::confine
