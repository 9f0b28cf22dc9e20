// Process 1 of the guests that tests/vmm boots: static, with busybox beside it.
//
// It reads commands as lines from the console, runs each with busybox's shell and answers
//
//     @@begin
//     <output of the command, both streams>
//     @@end <status>
//
// An empty line it answers itself, with "@@here"; it ends, for a panic, at the line "@@die". Before the first it prints
// "@@ready <microseconds of CLOCK_BOOTTIME>". Called as /bin/guest it is a tool for what busybox cannot do:
//
//     guest vsock-echo PORT              serves one connection after the other, giving back what comes
//     guest vsock-tell PORT              answers each connection with a random number and the time, and closes it
//     guest vsock-send CID PORT TEXT     connects, sends, prints what comes back until the end
//     guest vsock-pour CID PORT MIB      connects and writes so many MiB, then waits for the peer to close
//     guest touch MIB                    allocates and writes so much memory, prints "touched", waits for end of input
//     guest pattern DEVICE write|check OFFSET LENGTH SEED    with O_DIRECT
//     guest random-read DEVICE DEPTH MILLISECONDS            4 KiB reads by io_uring; prints operations per second
//     guest discard DEVICE OFFSET LENGTH
//     guest tcp-pour ADDRESS PORT MILLISECONDS    connects and writes for so long
//     guest tcp-drain ADDRESS PORT           connects, reads to the end; prints bytes and microseconds
//     guest reboot | poweroff | halt
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <linux/reboot.h>

namespace {

int fail(const char* what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return 1;
}

uint64_t boot_time_us() {
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
}

void write_all(int fd, const char* data, size_t size) {
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        data += n;
        size -= static_cast<size_t>(n);
    }
}

int vsock_socket() {
    return socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

// A listening socket, announced; -1 when there is none.
int vsock_listen(unsigned port) {
    int listener = vsock_socket();
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = VMADDR_CID_ANY;
    address.svm_port = port;
    if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(listener, 16) != 0) return -1;
    printf("listening\n");
    fflush(stdout);
    return listener;
}

int vsock_tell(unsigned port) {
    int listener = vsock_listen(port);
    if (listener < 0) return fail("vsock");
    while (true) {
        int connection = accept(listener, nullptr, nullptr);
        if (connection < 0) return fail("accept");
        uint64_t random = 0;
        syscall(SYS_getrandom, &random, sizeof random, 0);
        timespec now{};
        clock_gettime(CLOCK_REALTIME, &now);
        char text[64];
        int length = snprintf(text, sizeof text, "%016llx %lld.%03ld\n", static_cast<unsigned long long>(random), static_cast<long long>(now.tv_sec),
                              now.tv_nsec / 1000000);
        write_all(connection, text, static_cast<size_t>(length));
        close(connection);
    }
}

int vsock_echo(unsigned port) {
    int listener = vsock_listen(port);
    if (listener < 0) return fail("vsock");
    signal(SIGCHLD, SIG_IGN);
    while (true) {
        int connection = accept(listener, nullptr, nullptr);
        if (connection < 0) return fail("accept");
        if (fork() == 0) {
            static char buffer[65536];
            ssize_t n = 0;
            while ((n = read(connection, buffer, sizeof buffer)) > 0) write_all(connection, buffer, static_cast<size_t>(n));
            _exit(0);
        }
        close(connection);
    }
}

int vsock_connect(unsigned cid, unsigned port) {
    int fd = vsock_socket();
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = cid;
    address.svm_port = port;
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return -1;
    return fd;
}

int vsock_send(unsigned cid, unsigned port, const char* text) {
    int fd = vsock_connect(cid, port);
    if (fd < 0) return fail("connect");
    write_all(fd, text, strlen(text));
    shutdown(fd, SHUT_WR);
    char buffer[4096];
    ssize_t n = 0;
    while ((n = read(fd, buffer, sizeof buffer)) > 0) write_all(1, buffer, static_cast<size_t>(n));
    return n < 0 ? fail("read") : 0;
}

int vsock_pour(unsigned cid, unsigned port, unsigned mebibytes) {
    int fd = vsock_connect(cid, port);
    if (fd < 0) return fail("connect");
    static char buffer[1 << 20];
    for (size_t i = 0; i < sizeof buffer; ++i) buffer[i] = static_cast<char>(i * 31);
    for (unsigned i = 0; i < mebibytes; ++i) write_all(fd, buffer, sizeof buffer);
    shutdown(fd, SHUT_WR);
    char end = 0;
    return read(fd, &end, 1) == 0 ? 0 : fail("end");
}

int tcp_connect(const char* host, unsigned port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1 || connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return -1;
    return fd;
}

int tcp_pour(const char* host, unsigned port, unsigned milliseconds) {
    int fd = tcp_connect(host, port);
    if (fd < 0) return fail("connect");
    static char buffer[1 << 17];
    uint64_t end = boot_time_us() + static_cast<uint64_t>(milliseconds) * 1000;
    while (boot_time_us() < end) write_all(fd, buffer, sizeof buffer);
    shutdown(fd, SHUT_WR);
    char last = 0;
    return read(fd, &last, 1) == 0 ? 0 : fail("end");
}

int tcp_drain(const char* host, unsigned port) {
    int fd = tcp_connect(host, port);
    if (fd < 0) return fail("connect");
    static char buffer[1 << 17];
    uint64_t total = 0;
    uint64_t begin = boot_time_us();
    ssize_t n = 0;
    while ((n = read(fd, buffer, sizeof buffer)) > 0) total += static_cast<uint64_t>(n);
    printf("%llu %llu\n", static_cast<unsigned long long>(total), static_cast<unsigned long long>(boot_time_us() - begin));
    return n < 0 ? fail("read") : 0;
}

int touch(size_t mebibytes) {
    size_t size = mebibytes << 20;
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return fail("mmap");
    for (size_t at = 0; at < size; at += 4096) static_cast<volatile char*>(memory)[at] = 1;
    printf("touched\n");
    return 0;
}

// The byte at each place follows from the place and a seed, so that a block in the wrong place is seen.
void fill(unsigned char* block, uint64_t offset, uint64_t seed) {
    for (size_t i = 0; i < 4096; i += 8) {
        uint64_t value = (offset + i + 1) * 0x9e3779b97f4a7c15ULL ^ seed * 0xbf58476d1ce4e5b9ULL;
        memcpy(block + i, &value, 8);
    }
}

int pattern(const char* device, bool writing, uint64_t offset, uint64_t length, uint64_t seed) {
    int fd = open(device, (writing ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
    if (fd < 0) return fail(device);
    auto* block = static_cast<unsigned char*>(aligned_alloc(4096, 8192));
    unsigned char* expected = block + 4096;
    for (uint64_t at = offset; at < offset + length; at += 4096) {
        fill(expected, at, seed);
        if (writing) {
            if (pwrite(fd, expected, 4096, static_cast<off_t>(at)) != 4096) return fail("write");
        } else {
            if (pread(fd, block, 4096, static_cast<off_t>(at)) != 4096) return fail("read");
            if (memcmp(block, expected, 4096) != 0) {
                fprintf(stderr, "differs at %llu\n", static_cast<unsigned long long>(at));
                return 1;
            }
        }
    }
    if (writing && fsync(fd) != 0) return fail("fsync");
    return 0;
}

int discard(const char* device, uint64_t offset, uint64_t length) {
    int fd = open(device, O_RDWR | O_CLOEXEC);
    if (fd < 0) return fail(device);
    uint64_t range[2] = {offset, length};
    return ioctl(fd, BLKDISCARD, range) == 0 ? 0 : fail("BLKDISCARD");
}

struct Ring {
    int fd = -1;
    unsigned* submission_tail = nullptr;
    unsigned* submission_mask = nullptr;
    unsigned* array = nullptr;
    io_uring_sqe* entries = nullptr;
    unsigned* completion_head = nullptr;
    unsigned* completion_tail = nullptr;
    unsigned* completion_mask = nullptr;
    io_uring_cqe* completions = nullptr;

    bool open(unsigned depth) {
        io_uring_params parameters{};
        fd = static_cast<int>(syscall(SYS_io_uring_setup, depth, &parameters));
        if (fd < 0) return false;
        size_t size = parameters.sq_off.array + parameters.sq_entries * sizeof(unsigned);
        auto* submission = static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING));
        size = parameters.cq_off.cqes + parameters.cq_entries * sizeof(io_uring_cqe);
        auto* completion = static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_CQ_RING));
        entries = static_cast<io_uring_sqe*>(mmap(nullptr, parameters.sq_entries * sizeof(io_uring_sqe), PROT_READ | PROT_WRITE,
                                                  MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQES));
        submission_tail = reinterpret_cast<unsigned*>(submission + parameters.sq_off.tail);
        submission_mask = reinterpret_cast<unsigned*>(submission + parameters.sq_off.ring_mask);
        array = reinterpret_cast<unsigned*>(submission + parameters.sq_off.array);
        completion_head = reinterpret_cast<unsigned*>(completion + parameters.cq_off.head);
        completion_tail = reinterpret_cast<unsigned*>(completion + parameters.cq_off.tail);
        completion_mask = reinterpret_cast<unsigned*>(completion + parameters.cq_off.ring_mask);
        completions = reinterpret_cast<io_uring_cqe*>(completion + parameters.cq_off.cqes);
        return true;
    }
};

int random_read(const char* device, unsigned depth, unsigned milliseconds) {
    int fd = open(device, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd < 0) return fail(device);
    uint64_t size = 0;
    if (ioctl(fd, BLKGETSIZE64, &size) != 0) return fail("size");
    Ring ring;
    if (!ring.open(depth)) return fail("io_uring");
    auto* buffers = static_cast<char*>(aligned_alloc(4096, static_cast<size_t>(depth) * 4096));
    uint64_t state = 88172645463325252ULL;
    uint64_t finished = 0;
    uint64_t begin = boot_time_us();
    uint64_t end = begin + static_cast<uint64_t>(milliseconds) * 1000;
    unsigned free_slots[256];
    unsigned free_count = 0;
    for (unsigned i = 0; i < depth && i < 256; ++i) free_slots[free_count++] = i;
    while (boot_time_us() < end) {
        unsigned submitted = 0;
        while (free_count > 0) {
            unsigned slot = free_slots[--free_count];
            state ^= state << 13U;
            state ^= state >> 7U;
            state ^= state << 17U;
            unsigned tail = *ring.submission_tail;
            unsigned index = tail & *ring.submission_mask;
            io_uring_sqe& entry = ring.entries[index];
            memset(&entry, 0, sizeof entry);
            entry.opcode = IORING_OP_READ;
            entry.fd = fd;
            entry.addr = reinterpret_cast<uint64_t>(buffers + static_cast<size_t>(slot) * 4096);
            entry.len = 4096;
            entry.off = state % (size / 4096) * 4096;
            entry.user_data = slot;
            ring.array[index] = index;
            __atomic_store_n(ring.submission_tail, tail + 1, __ATOMIC_RELEASE);
            ++submitted;
        }
        if (syscall(SYS_io_uring_enter, ring.fd, submitted, 1, IORING_ENTER_GETEVENTS, nullptr, 0) < 0 && errno != EINTR) return fail("enter");
        unsigned head = *ring.completion_head;
        while (head != __atomic_load_n(ring.completion_tail, __ATOMIC_ACQUIRE)) {
            const io_uring_cqe& done = ring.completions[head & *ring.completion_mask];
            if (done.res != 4096) {
                fprintf(stderr, "read: %d\n", done.res);
                return 1;
            }
            free_slots[free_count++] = static_cast<unsigned>(done.user_data);
            ++finished;
            ++head;
        }
        __atomic_store_n(ring.completion_head, head, __ATOMIC_RELEASE);
    }
    printf("%llu\n", static_cast<unsigned long long>(finished * 1000000 / (boot_time_us() - begin)));
    return 0;
}

int tool(int count, char** words) {
    auto number = [&](int index) { return index < count ? strtoull(words[index], nullptr, 0) : 0; };
    const char* name = words[1];
    if (strcmp(name, "vsock-echo") == 0) return vsock_echo(static_cast<unsigned>(number(2)));
    if (strcmp(name, "vsock-tell") == 0) return vsock_tell(static_cast<unsigned>(number(2)));
    if (strcmp(name, "vsock-send") == 0 && count > 4) return vsock_send(static_cast<unsigned>(number(2)), static_cast<unsigned>(number(3)), words[4]);
    if (strcmp(name, "vsock-pour") == 0)
        return vsock_pour(static_cast<unsigned>(number(2)), static_cast<unsigned>(number(3)), static_cast<unsigned>(number(4)));
    if (strcmp(name, "touch") == 0) return touch(number(2));
    if (strcmp(name, "pattern") == 0 && count > 6) return pattern(words[2], words[3][0] == 'w', number(4), number(5), number(6));
    if (strcmp(name, "random-read") == 0 && count > 4)
        return random_read(words[2], static_cast<unsigned>(number(3)), static_cast<unsigned>(number(4)));
    if (strcmp(name, "discard") == 0 && count > 4) return discard(words[2], number(3), number(4));
    if (strcmp(name, "tcp-pour") == 0 && count > 4) return tcp_pour(words[2], static_cast<unsigned>(number(3)), static_cast<unsigned>(number(4)));
    if (strcmp(name, "tcp-drain") == 0 && count > 3) return tcp_drain(words[2], static_cast<unsigned>(number(3)));
    sync();
    if (strcmp(name, "reboot") == 0) return reboot(LINUX_REBOOT_CMD_RESTART);
    if (strcmp(name, "poweroff") == 0) return reboot(LINUX_REBOOT_CMD_POWER_OFF);
    if (strcmp(name, "halt") == 0) return reboot(static_cast<int>(LINUX_REBOOT_CMD_HALT));
    fprintf(stderr, "no such tool: %s\n", name);
    return 2;
}

// Modules lie in /modules in the order they are loaded in: "00-virtio_ring.ko", ...
void load_modules() {
    char path[64];
    for (int index = 0; index < 100; ++index) {
        snprintf(path, sizeof path, "/modules/%02d.ko", index);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) return;
        if (syscall(SYS_finit_module, fd, "", 0) != 0) printf("@@module %s: %s\n", path, strerror(errno));
        close(fd);
    }
}

void prepare() {
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mkdir("/tmp", 0755);
    mkdir("/mnt", 0755);
    mount("dev", "/dev", "devtmpfs", 0, "mode=755");
    mount("proc", "/proc", "proc", 0, nullptr);
    mount("sys", "/sys", "sysfs", 0, nullptr);
    int console = open("/dev/console", O_RDWR | O_NOCTTY);
    if (console >= 0) {
        dup2(console, 0);
        dup2(console, 1);
        dup2(console, 2);
        if (console > 2) close(console);
    }
    termios settings{};
    if (tcgetattr(0, &settings) == 0) {
        cfmakeraw(&settings);
        settings.c_oflag |= OPOST | ONLCR;
        tcsetattr(0, TCSANOW, &settings);
    }
    setenv("PATH", "/bin", 1);
}

// One line, without its end; false at the end of the console.
bool read_line(char* line, size_t size) {
    size_t used = 0;
    while (true) {
        char c = 0;
        ssize_t n = read(0, &c, 1);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        if (c == '\n' || c == '\r') break;
        if (used + 1 < size) line[used++] = c;
    }
    line[used] = 0;
    return true;
}

int run_line(char* line) {
    pid_t child = fork();
    if (child == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, 0);
        execl("/bin/busybox", "sh", "-c", line, static_cast<char*>(nullptr));
        _exit(127);
    }
    int status = 0;
    // Process 1 reaps everybody; the command's own end is the one that is told.
    while (true) {
        int one = 0;
        pid_t ended = wait(&one);
        if (ended == child) {
            status = one;
            break;
        }
        if (ended < 0 && errno != EINTR) break;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

int main(int count, char** words) {
    if (getpid() != 1) return count > 1 ? tool(count, words) : 2;
    uint64_t reached = boot_time_us();
    prepare();
    load_modules();
    printf("@@ready %llu\n", static_cast<unsigned long long>(reached));
    fflush(stdout);
    static char line[4096];
    while (read_line(line, sizeof line)) {
        if (line[0] == 0) {
            write_all(1, "@@here\n", 7);
            continue;
        }
        if (strcmp(line, "@@die") == 0) return 1;  // the kernel panics: its process 1 is gone
        printf("@@begin\n");
        fflush(stdout);
        int status = run_line(line);
        printf("@@end %d\n", status);
        fflush(stdout);
    }
    while (true) pause();
}
