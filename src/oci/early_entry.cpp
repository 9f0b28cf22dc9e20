// Where a binary that links this library may begin (linker option -e wherry_entry), before the C library's own _start:
// protect_own_binary() executes the binary a second time, and what happens before that is wasted. Setting up the C
// library alone asks the processor some forty times who it is (cpuid), which under a hypervisor takes a quarter of a
// millisecond; here nothing is set up yet. Whatever fails here is done again, with errors told, by
// protect_own_binary().
//
// Only system calls, no library function: not even memset is ready (its best version is chosen later).
#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/statfs.h>

namespace {

#if defined(__x86_64__)

using Word = long;

inline Word call(Word number, Word a, Word b = 0, Word c = 0, Word d = 0, Word e = 0) {
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

template <class T>
Word word(T* pointer) {
    // SAFETY: system calls take pointers as numbers.
    return reinterpret_cast<Word>(pointer);
}

constexpr Word readonly_flag = 1;  // ST_RDONLY
constexpr const char* own_binary = "/proc/self/exe";

bool on_readonly_mount(Word fd) {
    struct statfs info;
    return call(__NR_fstatfs, fd, word(&info)) == 0 && (info.f_flags & readonly_flag) != 0;
}

bool is_protected() {
    Word fd = call(__NR_openat, AT_FDCWD, word(own_binary), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return true;  // main() will say what is wrong
    Word seals = call(__NR_fcntl, fd, F_GET_SEALS);
    bool good = on_readonly_mount(fd) || (seals > 0 && (seals & F_SEAL_WRITE) != 0);
    call(__NR_close, fd);
    return good;
}

#endif

}  // namespace

#if defined(__x86_64__)

// `stack`: argc, the arguments, a null, the environment, a null (System V ABI, "Initial Stack").
extern "C" [[gnu::used]] void wherry_protect_early(long* stack) {
    if (is_protected()) return;
    Word tree = call(__NR_open_tree, AT_FDCWD, word(own_binary), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree < 0) return;
    mount_attr attributes;
    attributes.attr_set = MOUNT_ATTR_RDONLY;
    attributes.attr_clr = 0;
    attributes.propagation = 0;
    attributes.userns_fd = 0;
    if (call(__NR_mount_setattr, tree, word(""), AT_EMPTY_PATH, word(&attributes), sizeof attributes) == 0 &&
        on_readonly_mount(tree))
        call(__NR_execveat, tree, word(""), word(stack + 1), word(stack + 1 + stack[0] + 1), AT_EMPTY_PATH);
    call(__NR_close, tree);
}

// SAFETY: rdx and the stack are handed to _start as they came.
asm(R"(
.text
.globl wherry_entry
.type wherry_entry, @function
wherry_entry:
    xor %ebp, %ebp
    mov %rsp, %rdi
    push %rdx
    sub $8, %rsp
    call wherry_protect_early
    add $8, %rsp
    pop %rdx
    jmp _start
.size wherry_entry, . - wherry_entry
)");

#endif
