// A file system's rules, checked from inside a guest in a folder of it (in the manner of pjdfstest): folder-suite FOLDER
// prints each rule that does not hold, then "N checks, N failed"; status 1 when any failed. More:
//
//     folder-suite FOLDER lock PATH read|write       takes a POSIX lock, prints "locked", holds it to the end of its input
//     folder-suite FOLDER try-lock PATH read|write|flock   prints "free" or "taken"
//     folder-suite FOLDER wait-lock PATH             waits for a POSIX lock; prints "locked"
//     folder-suite FOLDER churn SECONDS              makes, renames, links and removes below FOLDER for so long
//     folder-suite FOLDER read PATH BLOCK            reads a file to its end; prints bytes and microseconds
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

namespace {

int checks = 0;
int failures = 0;

void expect(bool holds, const char* what, int line) {
    ++checks;
    if (holds) return;
    ++failures;
    printf("line %d: %s (%s)\n", line, what, strerror(errno));
}

#define CHECK(...) expect((__VA_ARGS__), #__VA_ARGS__, __LINE__)
#define FAILS(error, ...) expect((errno = 0, (__VA_ARGS__) == -1 && errno == (error)), #__VA_ARGS__ " fails with " #error, __LINE__)

struct stat status(const char* path) {
    struct stat out {};
    if (lstat(path, &out) != 0) memset(&out, 0xff, sizeof out);
    return out;
}

void put(const char* path, const char* text) {
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (write(fd, text, strlen(text)) < 0) perror(path);
    close(fd);
}

bool holds(const char* path, const char* text) {
    char buffer[256] = {};
    const int fd = open(path, O_RDONLY);
    const ssize_t size = read(fd, buffer, sizeof buffer - 1);
    close(fd);
    return size == static_cast<ssize_t>(strlen(text)) && strcmp(buffer, text) == 0;
}

// As another user, in a child: whether f() is true there.
template <class F>
bool as(uid_t uid, gid_t gid, F f) {
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        if (setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0) _exit(2);
        _exit(f() ? 0 : 1);
    }
    int ended = 0;
    waitpid(child, &ended, 0);
    return WIFEXITED(ended) && WEXITSTATUS(ended) == 0;
}

void files() {
    umask(022);
    const int fd = open("file", O_RDWR | O_CREAT | O_EXCL, 0666);
    CHECK(fd >= 0 && (status("file").st_mode & 07777) == 0644 && status("file").st_uid == 0);
    FAILS(EEXIST, open("file", O_RDWR | O_CREAT | O_EXCL, 0666));
    FAILS(ENOENT, open("absent", O_RDONLY));
    FAILS(ENOTDIR, open("file/x", O_RDONLY));
    CHECK(write(fd, "hello world", 11) == 11 && status("file").st_size == 11);
    CHECK(pwrite(fd, "W", 1, 6) == 1 && holds("file", "hello World"));
    CHECK(ftruncate(fd, 5) == 0 && holds("file", "hello"));
    CHECK(truncate("file", 8) == 0 && status("file").st_size == 8);
    CHECK(lseek(fd, 0, SEEK_END) == 8);
    CHECK(fallocate(fd, 0, 0, 10000) == 0 && status("file").st_size == 10000);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0 && status("file").st_size == 10000);
    CHECK(fsync(fd) == 0 && fdatasync(fd) == 0);
    CHECK(unlink("file") == 0);
    struct stat open_one {};
    CHECK(fstat(fd, &open_one) == 0 && open_one.st_nlink == 0);
    char byte = 1;
    CHECK(pread(fd, &byte, 1, 100) == 1 && byte == 0);
    CHECK(close(fd) == 0);
    FAILS(ENOENT, unlink("file"));

    put("log", "a\n");
    const int one = open("log", O_WRONLY | O_APPEND), two = open("log", O_WRONLY | O_APPEND);
    CHECK(write(one, "b\n", 2) == 2 && write(two, "c\n", 2) == 2 && holds("log", "a\nb\nc\n"));
    close(one);
    close(two);
    const int truncated = open("log", O_WRONLY | O_TRUNC);
    CHECK(truncated >= 0 && status("log").st_size == 0);
    close(truncated);

    // Content of many pages, through the page cache and a mapping.
    const int big = open("big", O_RDWR | O_CREAT, 0600);
    static unsigned char block[65536];
    bool right = true;
    for (unsigned i = 0; i < 40; ++i) {
        memset(block, static_cast<int>(i + 1), sizeof block);
        right = right && write(big, block, sizeof block) == sizeof block;
    }
    CHECK(right);
    for (unsigned i = 0; i < 40; ++i) {
        right = right && pread(big, block, sizeof block, static_cast<off_t>(i) * 65536) == sizeof block && block[0] == i + 1 && block[65535] == i + 1;
    }
    CHECK(right);
    const int copy = open("copy", O_RDWR | O_CREAT, 0600);
    off64_t from = 65536, to = 0;
    CHECK(copy_file_range(big, &from, copy, &to, 65536, 0) == 65536 && pread(copy, block, 65536, 0) == 65536 && block[7] == 2);
    close(copy);
    close(big);
    auto* mapped = static_cast<unsigned char*>(mmap(nullptr, 65536, PROT_READ, MAP_PRIVATE, open("big", O_RDONLY), 0));
    CHECK(mapped != MAP_FAILED && mapped[65535] == 1);
}

void directories() {
    CHECK(mkdir("folder", 0777) == 0 && (status("folder").st_mode & 07777) == 0755 && status("folder").st_nlink >= 1);
    FAILS(EEXIST, mkdir("folder", 0777));
    FAILS(ENOENT, mkdir("absent/x", 0777));
    put("folder/file", "x");
    FAILS(ENOTEMPTY, rmdir("folder"));
    FAILS(EISDIR, unlink("folder"));
    FAILS(ENOTDIR, rmdir("folder/file"));
    FAILS(EISDIR, open("folder", O_WRONLY));
    char name[300];
    memset(name, 'n', sizeof name);
    name[256] = 0;
    FAILS(ENAMETOOLONG, mkdir(name, 0777));
    name[255] = 0;
    CHECK(mkdir(name, 0777) == 0 && rmdir(name) == 0);
    for (int i = 0; i < 300; ++i) {
        snprintf(name, sizeof name, "folder/entry-%03d", i);
        put(name, "");
    }
    DIR* listing = opendir("folder");
    int count = 0, halfway = 0;
    long position = 0;
    while (const dirent* entry = readdir(listing)) {
        if (entry->d_name[0] == 'e') ++count;
        if (count == 150 && position == 0) {
            position = telldir(listing);
            halfway = count;
        }
    }
    CHECK(count == 300);
    seekdir(listing, position);
    while (const dirent* entry = readdir(listing)) halfway += entry->d_name[0] == 'e';
    CHECK(halfway == 300);
    rewinddir(listing);
    CHECK(unlink("folder/entry-000") == 0);
    count = 0;
    while (const dirent* entry = readdir(listing)) count += entry->d_name[0] == 'e';
    CHECK(count == 299);
    CHECK(fsync(dirfd(listing)) == 0);
    closedir(listing);
    struct statvfs space {};
    CHECK(statvfs("folder", &space) == 0 && space.f_blocks > 0 && space.f_namemax == 255);
}

void names() {
    put("one", "one");
    put("two", "two");
    const ino_t number = status("one").st_ino;
    CHECK(rename("one", "three") == 0 && status("three").st_ino == number);
    FAILS(ENOENT, access("one", F_OK));
    CHECK(rename("three", "two") == 0 && holds("two", "one"));
    mkdir("a", 0755);
    mkdir("a/b", 0755);
    FAILS(EINVAL, rename("a", "a/b/c"));
    FAILS(EISDIR, rename("two", "a"));
    FAILS(ENOTDIR, rename("a", "two"));
    CHECK(rename("two", "a/b/two") == 0 && holds("a/b/two", "one"));
    put("x", "x");
    put("y", "y");
    FAILS(EEXIST, renameat2(AT_FDCWD, "x", AT_FDCWD, "y", RENAME_NOREPLACE));
    CHECK(renameat2(AT_FDCWD, "x", AT_FDCWD, "y", RENAME_EXCHANGE) == 0 && holds("x", "y") && holds("y", "x"));
    CHECK(link("x", "hard") == 0 && status("x").st_nlink == 2 && status("hard").st_ino == status("x").st_ino);
    FAILS(EEXIST, link("x", "y"));
    FAILS(EPERM, link("a", "linked-folder"));
    CHECK(unlink("x") == 0 && status("hard").st_nlink == 1 && holds("hard", "y"));
    CHECK(symlink("hard", "link") == 0 && S_ISLNK(status("link").st_mode) && status("link").st_size == 4 && holds("link", "y"));
    char target[64] = {};
    CHECK(readlink("link", target, sizeof target) == 4 && strcmp(target, "hard") == 0);
    CHECK(symlink("loop", "loop") == 0);
    FAILS(ELOOP, open("loop", O_RDONLY));
    FAILS(ELOOP, open("link", O_RDONLY | O_NOFOLLOW));
    CHECK(mkfifo("pipe", 0600) == 0 && S_ISFIFO(status("pipe").st_mode));
    FAILS(EPERM, mknod("null", S_IFCHR | 0666, 0x103));
    FAILS(EPERM, mknod("disk", S_IFBLK | 0666, 0x800));
    // A pipe is the guest's: both ends are here.
    const int reader = open("pipe", O_RDONLY | O_NONBLOCK), writer = open("pipe", O_WRONLY | O_NONBLOCK);
    char byte = 0;
    CHECK(write(writer, "z", 1) == 1 && read(reader, &byte, 1) == 1 && byte == 'z');
    // The folder's top is the top.
    CHECK(symlink("/../../../../../../secret", "up") == 0 && symlink("../../../../../../../secret", "up-too") == 0);
    FAILS(ENOENT, open("up", O_RDONLY));
    FAILS(ENOENT, open("up-too", O_RDONLY));
}

void attributes() {
    put("file", "x");
    CHECK(chmod("file", 04751) == 0 && (status("file").st_mode & 07777) == 04751);
    CHECK(chown("file", 1000, 2000) == 0 && status("file").st_uid == 1000 && status("file").st_gid == 2000);
    CHECK((status("file").st_mode & 07777) == 0751);
    const timespec times[2] = {{.tv_sec = 1000, .tv_nsec = 5}, {.tv_sec = 2000, .tv_nsec = 6}};
    CHECK(utimensat(AT_FDCWD, "file", times, 0) == 0 && status("file").st_mtim.tv_sec == 2000 && status("file").st_mtim.tv_nsec == 6);
    symlink("file", "link");
    CHECK(lchown("link", 7, 8) == 0 && status("link").st_uid == 7 && status("file").st_uid == 1000);
    CHECK(chmod("file", 0600) == 0);
    CHECK(as(1000, 2000, [] { return open("file", O_RDWR) >= 0 && chmod("file", 0640) == 0; }));
    CHECK(as(1001, 2000, [] { return open("file", O_RDONLY) >= 0 && open("file", O_RDWR) < 0 && errno == EACCES; }));
    CHECK(as(1001, 2001, [] { return open("file", O_RDONLY) < 0 && errno == EACCES && chmod("file", 0777) < 0 && errno == EPERM; }));
    CHECK(as(1000, 2000, [] { return chown("file", 1001, 2000) < 0 && errno == EPERM && mknod("file2", S_IFREG, 0) < 0 && errno == EACCES; }));
    mkdir("open", 0);
    chmod("open", 01777);
    CHECK(as(1000, 2000, [] { return mkdir("open/mine", 0755) == 0 && symlink("x", "open/my-link") == 0 && mkfifo("open/my-pipe", 0644) == 0; }));
    CHECK(status("open/mine").st_uid == 1000 && status("open/mine").st_gid == 2000 && status("open/my-link").st_uid == 1000);
    CHECK(as(1000, 2000, [] { return open("open/my-file", O_CREAT | O_RDWR, 0644) >= 0; }));
    CHECK(status("open/my-file").st_uid == 1000 && status("open/my-file").st_gid == 2000);
    CHECK(as(1001, 2001, [] { return unlink("open/my-file") < 0 && errno == EPERM; }));
    // A folder with the set-group-id bit gives its group on.
    mkdir("group", 0);
    chown("group", 0, 3000);
    chmod("group", 02777);
    CHECK(as(1000, 2000, [] { return open("group/file", O_CREAT | O_RDWR, 0644) >= 0 && mkdir("group/folder", 0755) == 0; }));
    CHECK(status("group/file").st_gid == 3000 && status("group/folder").st_gid == 3000 && (status("group/folder").st_mode & S_ISGID) != 0);
    // Who writes without rights takes the set-id bits away.
    put("set-id", "x");
    chmod("set-id", 06777);
    CHECK(as(1000, 2000, [] { return write(open("set-id", O_WRONLY), "y", 1) == 1; }));
    CHECK((status("set-id").st_mode & 07777) == 0777);
    chmod("set-id", 06777);
    CHECK(as(1000, 2000, [] { return truncate("set-id", 0) == 0; }));
    CHECK((status("set-id").st_mode & 07777) == 0777);
    char value[16] = {};
    if (setxattr("file", "user.name", "value", 5, 0) == 0) {
        CHECK(getxattr("file", "user.name", value, sizeof value) == 5 && memcmp(value, "value", 5) == 0);
        FAILS(EEXIST, setxattr("file", "user.name", "value", 5, XATTR_CREATE));
        FAILS(ERANGE, getxattr("file", "user.name", value, 2));
        CHECK(listxattr("file", nullptr, 0) == 10);
        CHECK(removexattr("file", "user.name") == 0);
        FAILS(ENODATA, getxattr("file", "user.name", value, sizeof value));
    } else {
        CHECK(errno == EOPNOTSUPP);  // the host's file system has none
    }
    FAILS(EPERM, setxattr("file", "trusted.name", "value", 5, 0));
}

bool lock(int fd, short type, off_t start, off_t length, bool wait = false) {
    struct flock wanted {};
    wanted.l_type = type;
    wanted.l_start = start;
    wanted.l_len = length;
    return fcntl(fd, wait ? F_SETLKW : F_SETLK, &wanted) == 0;
}

void locks() {
    put("locked", "0123456789");
    const int fd = open("locked", O_RDWR);
    CHECK(lock(fd, F_WRLCK, 0, 5));
    CHECK(as(0, 0, [] { return !lock(open("locked", O_RDWR), F_WRLCK, 4, 1) && errno == EAGAIN; }));
    CHECK(as(0, 0, [] { return lock(open("locked", O_RDWR), F_WRLCK, 5, 5); }));
    CHECK(as(0, 0, [] {
        struct flock found {};
        found.l_type = F_RDLCK;
        return fcntl(open("locked", O_RDWR), F_GETLK, &found) == 0 && found.l_type == F_WRLCK && found.l_start == 0 && found.l_len == 5;
    }));
    CHECK(lock(fd, F_RDLCK, 0, 5));
    CHECK(as(0, 0, [] { return lock(open("locked", O_RDWR), F_RDLCK, 0, 5); }));
    CHECK(lock(fd, F_UNLCK, 0, 0));
    CHECK(as(0, 0, [] { return lock(open("locked", O_RDWR), F_WRLCK, 0, 0); }));
    // Any close of the file gives the process' locks up.
    CHECK(lock(fd, F_WRLCK, 0, 0));
    close(open("locked", O_RDONLY));
    CHECK(as(0, 0, [] { return lock(open("locked", O_RDWR), F_WRLCK, 0, 0); }));
    CHECK(flock(fd, LOCK_EX) == 0);
    CHECK(as(0, 0, [] { return flock(open("locked", O_RDWR), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; }));
    CHECK(flock(fd, LOCK_UN) == 0);
    CHECK(as(0, 0, [] { return flock(open("locked", O_RDWR), LOCK_EX | LOCK_NB) == 0; }));
    // One waits until the other lets go.
    int pipes[2];
    if (pipe(pipes) != 0) return;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        const int other = open("locked", O_RDWR);
        lock(other, F_WRLCK, 0, 0);
        write(pipes[1], "x", 1);
        usleep(20000);
        put("order", "first");
        lock(other, F_UNLCK, 0, 0);
        _exit(0);
    }
    char byte = 0;
    CHECK(read(pipes[0], &byte, 1) == 1);
    CHECK(lock(fd, F_WRLCK, 0, 0, true) && holds("order", "first"));
    waitpid(child, nullptr, 0);
    close(fd);
}

int churn(unsigned seconds) {
    const time_t end = time(nullptr) + static_cast<time_t>(seconds);
    unsigned random = 1, rounds = 0;
    char a[64], b[64];
    for (; time(nullptr) < end; ++rounds) {
        random = random * 1103515245 + 12345;
        snprintf(a, sizeof a, "churn-%u", (random >> 8) % 20);
        snprintf(b, sizeof b, "churn-%u", (random >> 16) % 20);
        switch ((random >> 24) % 7) {
            case 0: mkdir(a, 0755); break;
            case 1: rename(a, b); break;
            case 2: unlink(a); break;
            case 3: rmdir(a); break;
            case 4: symlink("../../../../secret", a); break;
            case 5: close(open(a, O_RDWR | O_CREAT, 0644)); break;
            default: link(a, b); break;
        }
    }
    printf("%u rounds\n", rounds);
    return 0;
}

int read_file(const char* path, size_t block) {
    const int fd = open(path, O_RDONLY);
    if (fd < 0) {
        perror(path);
        return 1;
    }
    auto* buffer = static_cast<char*>(malloc(block));
    timespec begin{}, end{};
    clock_gettime(CLOCK_MONOTONIC, &begin);
    unsigned long long total = 0;
    ssize_t n = 0;
    while ((n = read(fd, buffer, block)) > 0) total += static_cast<unsigned long long>(n);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%llu %lld\n", total, (end.tv_sec - begin.tv_sec) * 1000000LL + (end.tv_nsec - begin.tv_nsec) / 1000);
    return n < 0 ? 1 : 0;
}

int lock_tool(const char* verb, const char* path, const char* kind) {
    const int fd = open(path, strcmp(kind, "read") == 0 ? O_RDONLY : O_RDWR);
    if (fd < 0) {
        perror(path);
        return 1;
    }
    const short type = strcmp(kind, "read") == 0 ? F_RDLCK : F_WRLCK;
    if (strcmp(verb, "try-lock") == 0) {
        const bool taken = strcmp(kind, "flock") == 0 ? flock(fd, LOCK_EX | LOCK_NB) == 0 : lock(fd, type, 0, 0);
        puts(taken ? "free" : "taken");
        return 0;
    }
    if (!lock(fd, type, 0, 0, strcmp(verb, "wait-lock") == 0)) {
        perror("lock");
        return 1;
    }
    puts("locked");
    fflush(stdout);
    char byte = 0;
    if (strcmp(verb, "lock") == 0)
        while (read(0, &byte, 1) > 0) {
        }
    return 0;
}

}  // namespace

int main(int count, char** words) {
    if (count < 2 || chdir(words[1]) != 0) {
        perror("folder-suite");
        return 2;
    }
    const char* verb = count > 2 ? words[2] : "";
    if (strcmp(verb, "churn") == 0 && count > 3) return churn(static_cast<unsigned>(atoi(words[3])));
    if (strcmp(verb, "read") == 0 && count > 4) return read_file(words[3], strtoul(words[4], nullptr, 0));
    if (strstr(verb, "lock") != nullptr && count > 3) return lock_tool(verb, words[3], count > 4 ? words[4] : "write");
    // Each part in a folder of its own.
    struct {
        const char* name;
        void (*run)();
    } const parts[] = {{"files", files}, {"directories", directories}, {"names", names}, {"attributes", attributes}, {"locks", locks}};
    for (const auto& part : parts) {
        if (mkdir(part.name, 0755) != 0 || chmod(part.name, 0755) != 0 || chdir(part.name) != 0) {
            perror(part.name);
            return 2;
        }
        part.run();
        if (chdir("..") != 0) return 2;
    }
    printf("%d checks, %d failed\n", checks, failures);
    return failures == 0 ? 0 : 1;
}
