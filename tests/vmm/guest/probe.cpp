// Stands in for a monitor in the jailer's tests: says that it runs, with its arguments, to standard output and to
// /run/ready, and stays until it is killed. Everything else is looked at from outside, in /proc.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int count, char** words) {
    static char text[8192];
    size_t used = 0;
    used += static_cast<size_t>(snprintf(text, sizeof text, "pid %d\n", static_cast<int>(getpid())));
    for (int i = 0; i < count; ++i) used += static_cast<size_t>(snprintf(text + used, sizeof text - used, "argument %s\n", words[i]));
    // Old root, other users' files: nothing of these must work.
    used += static_cast<size_t>(snprintf(text + used, sizeof text - used, "outside %d\n", open("/../../etc/passwd", O_RDONLY) >= 0));
    used += static_cast<size_t>(snprintf(text + used, sizeof text - used, "kvm %d\n", open("/dev/kvm", O_RDWR | O_CLOEXEC) >= 0));
    used += static_cast<size_t>(snprintf(text + used, sizeof text - used, "tun %d\n", open("/dev/net/tun", O_RDWR | O_CLOEXEC) >= 0));
    used += static_cast<size_t>(snprintf(text + used, sizeof text - used, "end\n"));
    (void)!write(1, text, used);
    int file = open("/run/ready.new", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    (void)!write(file, text, used);
    close(file);
    (void)rename("/run/ready.new", "/run/ready");
    while (true) pause();
}
