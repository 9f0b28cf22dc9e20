// Load and echo for bench/dns.py: one thread each, batches of 64 datagrams.
//
//   load PORT SECONDS QUERIES WINDOW   asks 127.0.0.1:PORT, WINDOW questions on their way; QUERIES holds messages, each
//                                      behind its 16-bit length; prints answered, lost, failed, seconds
//   echo PORT                          sends every datagram back as it came: what the kernel alone costs
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <poll.h>
#include <string>
#include <vector>

namespace {

constexpr unsigned batch = 64;

double now() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

int open_socket(int port, bool serve) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    int size = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if ((serve ? bind(fd, generic, sizeof address) : connect(fd, generic, sizeof address)) < 0) {
        std::perror("socket");
        std::exit(1);
    }
    return fd;
}

struct Batch {
    std::array<mmsghdr, batch> messages{};
    std::array<iovec, batch> vectors{};
    std::array<sockaddr_in, batch> peers{};
    std::vector<std::uint8_t> buffers = std::vector<std::uint8_t>(batch * 4096);
    explicit Batch(bool with_peers) {
        for (unsigned i = 0; i < batch; ++i) {
            vectors[i] = {buffers.data() + i * 4096, 4096};
            messages[i].msg_hdr.msg_iov = &vectors[i];
            messages[i].msg_hdr.msg_iovlen = 1;
            if (with_peers) messages[i].msg_hdr.msg_name = &peers[i];
        }
    }
};

int echo(int port) {
    int fd = open_socket(port, true);
    Batch in(true);
    while (true) {
        for (unsigned i = 0; i < batch; ++i) {
            in.vectors[i].iov_len = 4096;
            in.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_in);
        }
        int got = recvmmsg(fd, in.messages.data(), batch, MSG_WAITFORONE, nullptr);
        if (got <= 0) continue;
        for (int i = 0; i < got; ++i) in.vectors[i].iov_len = in.messages[i].msg_len;
        for (int done = 0; done < got;) {
            int sent = sendmmsg(fd, in.messages.data() + done, static_cast<unsigned>(got - done), 0);
            done += sent > 0 ? sent : 1;
        }
    }
}

int load(int port, double seconds, const char* path, long window) {
    std::ifstream file(path, std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(file)), {});
    std::vector<std::pair<std::size_t, std::size_t>> queries;
    for (std::size_t at = 0; at + 2 <= text.size();) {
        std::size_t size = static_cast<unsigned char>(text[at]) << 8 | static_cast<unsigned char>(text[at + 1]);
        queries.emplace_back(at + 2, size);
        at += 2 + size;
    }
    if (queries.empty()) return 2;
    int fd = open_socket(port, false);
    Batch in(false);
    Batch out(false);
    long on_the_way = 0, answered = 0, lost = 0, failed = 0, bytes = 0;
    std::uint64_t random = 88172645463325252U;
    const double start = now();
    double last = start, time = start;
    while (time - start < seconds) {
        while (on_the_way + batch <= window) {
            for (unsigned i = 0; i < batch; ++i) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                auto [at, size] = queries[random % queries.size()];
                std::memcpy(out.buffers.data() + i * 4096, text.data() + at, size);
                std::memcpy(out.buffers.data() + i * 4096, &random, 2);
                out.vectors[i].iov_len = size;
            }
            int sent = sendmmsg(fd, out.messages.data(), batch, 0);
            if (sent <= 0) break;
            on_the_way += sent;
        }
        for (unsigned i = 0; i < batch; ++i) in.vectors[i].iov_len = 4096;
        int got = recvmmsg(fd, in.messages.data(), batch, MSG_DONTWAIT, nullptr);
        time = now();
        if (got <= 0) {
            pollfd wait{fd, POLLIN, 0};
            poll(&wait, 1, 20);
            time = now();
            if (time - last > 0.2) {
                lost += on_the_way;
                on_the_way = 0;
                last = time;
            }
            continue;
        }
        last = time;
        on_the_way -= got;
        if (on_the_way < 0) on_the_way = 0;
        answered += got;
        for (int i = 0; i < got; ++i) {
            const std::uint8_t* answer = in.buffers.data() + i * 4096;
            bytes += in.messages[i].msg_len;
            if ((answer[3] & 15) != 0 && (answer[3] & 15) != 3) ++failed;
        }
    }
    std::printf("%ld %ld %ld %.6f %ld\n", answered, lost, failed, now() - start, bytes);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 3 && std::strcmp(argv[1], "echo") == 0) return echo(std::atoi(argv[2]));
    if (argc == 6 && std::strcmp(argv[1], "load") == 0)
        return load(std::atoi(argv[2]), std::atof(argv[3]), argv[4], std::atol(argv[5]));
    std::fprintf(stderr, "usage: load PORT SECONDS QUERIES WINDOW | echo PORT\n");
    return 2;
}
