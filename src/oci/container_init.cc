// PID 1 of `docker run --init`: forwards signals to its one child, reaps whatever else ends, and ends with the child's
// exit code. Freestanding: no libc, a few KiB, embedded in the runtime and run from a sealed memfd
// (see init_binary.hpp), so that it costs a container two pages. Usage: docker-init -- PROGRAM ARG0 ARG...
#include <asm/ioctls.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/signal.h>
#include <linux/wait.h>

namespace {

using Word = long;

#if defined(__x86_64__)
Word call(Word number, Word a = 0, Word b = 0, Word c = 0, Word d = 0, Word e = 0) {
    Word result = 0;
    register Word r10 asm("r10") = d;
    register Word r8 asm("r8") = e;
    // SAFETY: the kernel's calling convention (syscall(2)).
    asm volatile("syscall"
                 : "=a"(result)
                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                 : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
Word call(Word number, Word a = 0, Word b = 0, Word c = 0, Word d = 0, Word e = 0) {
    register Word x8 asm("x8") = number;
    register Word x0 asm("x0") = a;
    register Word x1 asm("x1") = b;
    register Word x2 asm("x2") = c;
    register Word x3 asm("x3") = d;
    register Word x4 asm("x4") = e;
    // SAFETY: the kernel's calling convention (syscall(2)).
    asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}
#else
#error "no system call convention for this machine"
#endif

Word address(const void* pointer) {
    return reinterpret_cast<Word>(pointer);
}

[[noreturn]] void leave(int code) {
    for (;;) call(__NR_exit_group, code);
}

constexpr Word signal_set_bytes = 8;
constexpr int signal_count = 64;

struct SignalAction {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    unsigned long mask;
};

void set_ignored(int number, bool ignored) {
    SignalAction action{};
    action.handler = ignored ? SIG_IGN : SIG_DFL;
    call(__NR_rt_sigaction, number, address(&action), 0, signal_set_bytes);
}

[[noreturn]] void become_program(char** argv, char** envp, unsigned long old_mask) {
    // A process group of its own, in the foreground of the terminal if there is one: ^C is for the program.
    call(__NR_setpgid, 0, 0);
    int group = static_cast<int>(call(__NR_getpgid, 0));
    call(__NR_ioctl, 0, TIOCSPGRP, address(&group));
    set_ignored(SIGTTIN, false);
    set_ignored(SIGTTOU, false);
    call(__NR_rt_sigprocmask, SIG_SETMASK, address(&old_mask), 0, signal_set_bytes);
    Word error = call(__NR_execve, address(argv[0]), address(argv + 1), address(envp));
    const char text[] = "docker-init: the program cannot be executed\n";
    call(__NR_write, 2, address(text), sizeof text - 1);
    leave(error == -ENOENT ? 127 : 126);
}

// Reaps all that have ended; ends itself when `program` is among them.
void reap(Word program) {
    for (;;) {
        int status = 0;
        Word pid = call(__NR_wait4, -1, address(&status), WNOHANG, 0);
        if (pid <= 0) return;
        if (pid != program) continue;
        int signal_number = status & 0x7f;
        leave(signal_number != 0 ? 128 + signal_number : (status >> 8) & 0xff);
    }
}

}  // namespace

extern "C" [[noreturn]] void container_init(Word* stack) {
    Word argc = stack[0];
    // SAFETY: the layout of the initial stack (System V ABI): argc, argv..., 0, envp..., 0.
    char** argv = reinterpret_cast<char**>(stack + 1);
    char** envp = argv + argc + 1;
    if (argc < 4) leave(2);
    constexpr Word set_name = 15;  // PR_SET_NAME: run by descriptor, it would be called after the memfd
    call(__NR_prctl, set_name, address("docker-init"));
    set_ignored(SIGTTIN, true);
    set_ignored(SIGTTOU, true);
    unsigned long all = ~0UL;
    unsigned long old_mask = 0;
    call(__NR_rt_sigprocmask, SIG_BLOCK, address(&all), address(&old_mask), signal_set_bytes);
#if defined(__x86_64__)
    Word program = call(__NR_fork);
#else
    Word program = call(__NR_clone, SIGCHLD, 0, 0, 0, 0);
#endif
    if (program < 0) leave(125);
    if (program == 0) become_program(argv + 2, envp, old_mask);
    for (;;) {
        Word number = call(__NR_rt_sigtimedwait, address(&all), 0, 0, signal_set_bytes);
        if (number == SIGCHLD) {
            reap(program);
        } else if (number > 0 && number <= signal_count) {
            call(__NR_kill, program, number);
        }
    }
}

#if defined(__x86_64__)
asm(".globl _start\n_start:\n  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call container_init\n");
#else
asm(".globl _start\n_start:\n  mov x29, #0\n  mov x0, sp\n  bl container_init\n");
#endif

extern "C" void* memset(void* target, int value, unsigned long count) {
    char* bytes = static_cast<char*>(target);
    for (unsigned long i = 0; i < count; ++i) {
        bytes[i] = static_cast<char>(value);
        asm volatile("" ::: "memory");  // or the compiler would call memset here
    }
    return target;
}
