#include "vmm/core/seccomp_filter.hpp"

#include <asm/ioctls.h>
#include <linux/audit.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <utility>

#include "base/json.hpp"
#include "confine/process_attributes.hpp"
#include "vmm/arch/x86_64/syscall_names.hpp"

namespace wherry::vmm {
namespace {

AllowedCall with_ioctl(unsigned long request) {
    // The kernel looks at 32 bits of it.
    return {SYS_ioctl, {{.index = 1, .mask = 0xffffffff, .value = request}}};
}

void add_all(std::vector<AllowedCall>& to, std::initializer_list<int> numbers) {
    for (int number : numbers) to.push_back({number, {}});
}

// What the C library and the runtime need on every thread.
void add_common(std::vector<AllowedCall>& to) {
    add_all(to, {SYS_futex,           SYS_read,        SYS_close,  SYS_clock_gettime, SYS_gettimeofday,
                 SYS_madvise,         SYS_munmap,      SYS_brk,    SYS_mremap,        SYS_rt_sigreturn,
                 SYS_rt_sigprocmask,  SYS_sigaltstack, SYS_exit,   SYS_exit_group,    SYS_sched_yield,
                 SYS_restart_syscall, SYS_getpid,      SYS_gettid, SYS_getrandom,     SYS_rseq});
    // Memory, never executable.
    to.push_back({SYS_mmap, {{.index = 2, .mask = PROT_EXEC, .value = 0}}});
    to.push_back({SYS_mprotect, {{.index = 2, .mask = PROT_EXEC, .value = 0}}});
    constexpr std::uint64_t get_name = 16;  // PR_GET_NAME, for log lines
    to.push_back({SYS_prctl, {{.index = 0, .mask = 0xffffffff, .value = get_name}}});
}

std::vector<AllowedCall> vcpu_calls() {
    std::vector<AllowedCall> calls;
    calls.push_back(with_ioctl(KVM_RUN));
    add_all(calls, {SYS_write});
    add_common(calls);
    // A driver that starts or resets its device does so from here.
    calls.push_back(with_ioctl(TUNSETOFFLOAD));
    calls.push_back(with_ioctl(TUNSETQUEUE));
    add_all(calls, {SYS_epoll_ctl, SYS_timerfd_settime, SYS_io_uring_enter});
    // To the process that serves its queues, and its answer (vhost-user).
    add_all(calls, {SYS_sendmsg, SYS_recvmsg, SYS_recvfrom});
    return calls;
}

// The numbers of ioctls whose structures end in flexible arrays are spelled out, as C++ counts those arrays' stand-ins.
std::vector<unsigned long> snapshot_requests() {
    using Pair = std::array<std::uint32_t, 2>;
    using ExtendedState = std::array<std::byte, 4096>;
    return {KVM_GET_DIRTY_LOG,
            KVM_GET_MP_STATE,
            KVM_GET_REGS,
            KVM_GET_SREGS,
            _IOR(KVMIO, 0xa4, ExtendedState),  // KVM_GET_XSAVE
            _IOR(KVMIO, 0xcf, ExtendedState),  // KVM_GET_XSAVE2
            KVM_GET_XCRS,
            KVM_GET_DEBUGREGS,
            KVM_GET_LAPIC,
            KVM_GET_TSC_KHZ,
            _IOWR(KVMIO, 0x88, Pair),           // KVM_GET_MSRS
            _IOWR(KVMIO, 0x02, std::uint32_t),  // KVM_GET_MSR_INDEX_LIST
            KVM_GET_VCPU_EVENTS,
            KVM_GET_IRQCHIP,
            KVM_GET_PIT2,
            KVM_GET_CLOCK,
            KVM_CHECK_EXTENSION,
            KVM_KVMCLOCK_CTRL};
}

std::vector<AllowedCall> vmm_calls() {
    std::vector<AllowedCall> calls;
    add_all(calls, {SYS_epoll_wait, SYS_epoll_pwait, SYS_write, SYS_readv, SYS_writev, SYS_preadv, SYS_pwritev,
                    SYS_io_uring_enter, SYS_timerfd_settime, SYS_epoll_ctl, SYS_sendto, SYS_recvfrom});
    add_common(calls);
    add_all(calls,
            {SYS_pread64,    SYS_pwrite64, SYS_fdatasync,      SYS_fallocate,         SYS_fstat,   SYS_newfstatat,
             SYS_statx,      SYS_openat,   SYS_fcntl,          SYS_io_uring_register, SYS_accept4, SYS_connect,
             SYS_shutdown,   SYS_lseek,    SYS_timerfd_create, SYS_eventfd2,          SYS_tgkill,  SYS_unlink,
             SYS_readlinkat, SYS_sendmsg,  SYS_recvmsg});
    // Memory that is plugged and unplugged while the machine runs.
    calls.push_back(with_ioctl(KVM_SET_USER_MEMORY_REGION));
    calls.push_back({SYS_socket, {{.index = 0, .mask = 0xffffffff, .value = AF_UNIX}}});
    // A shared folder's process that is another one: how long its answers may take. Sockets are AF_UNIX's, which have
    // options of SOL_SOCKET only.
    static_assert(SO_RCVTIMEO % 2 == 0 && SO_SNDTIMEO == SO_RCVTIMEO + 1);
    calls.push_back({SYS_setsockopt, {{.index = 2, .mask = 0xfffffffe, .value = SO_RCVTIMEO}}});
    for (unsigned long request :
         {BLKGETSIZE64, static_cast<unsigned long>(TUNSETOFFLOAD), static_cast<unsigned long>(TUNSETQUEUE),
          static_cast<unsigned long>(TCSETS), static_cast<unsigned long>(TCSETSF), static_cast<unsigned long>(TCGETS)})
        calls.push_back(with_ioctl(request));
    // Snapshots: a new file's size, and asking KVM, which sets nothing.
    add_all(calls, {SYS_ftruncate});
    for (unsigned long request : snapshot_requests()) calls.push_back(with_ioctl(request));
    return calls;
}

void add_pci(std::vector<AllowedCall>& calls, ThreadKind kind) {
    // Interrupts, and where notifications go: drivers move BARs and unmask vectors on processors' threads.
    calls.push_back(with_ioctl(KVM_SIGNAL_MSI));
    calls.push_back(with_ioctl(KVM_IOEVENTFD));
    if (kind != ThreadKind::vmm) return;
    // Devices that are opened while the machine runs.
    add_all(calls, {SYS_io_uring_setup});
    calls.push_back(with_ioctl(TUNSETIFF));
    calls.push_back(with_ioctl(TUNSETVNETHDRSZ));
}

std::vector<AllowedCall> api_calls() {
    std::vector<AllowedCall> calls;
    add_all(calls, {SYS_poll, SYS_ppoll, SYS_recvfrom, SYS_sendto, SYS_accept4, SYS_write});
    add_common(calls);
    return calls;
}

constexpr std::uint32_t argument_low(unsigned index) {
    return static_cast<std::uint32_t>(offsetof(seccomp_data, args) + std::size_t{index} * 8);
}

sock_filter statement(std::uint16_t code, std::uint32_t k) {
    return {code, 0, 0, k};
}

// Compares 32 bits of an argument under a mask; where a mismatch goes is filled in later.
void add_half(std::vector<sock_filter>& out, std::uint32_t offset, std::uint32_t mask, std::uint32_t value) {
    if (mask == 0) return;
    out.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offset));
    if (mask != 0xffffffff) out.push_back(statement(BPF_ALU | BPF_AND | BPF_K, mask));
    out.push_back(statement(BPF_JMP | BPF_JEQ | BPF_K, value & mask));
}

// Lets through what has one of the values in the accumulator; anything else goes on behind. One instruction a value:
// the kernel compiles a program for each thread, and tries it for each system call there is.
void allow_values(std::vector<sock_filter>& out, std::span<const std::uint32_t> values) {
    constexpr std::size_t most = 200;  // a jump reaches 255 instructions
    while (!values.empty()) {
        const std::size_t count = std::min(values.size(), most);
        for (std::size_t i = 0; i < count; ++i) {
            const bool is_last = i + 1 == count;
            out.push_back({BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint8_t>(count - 1 - i),
                           static_cast<std::uint8_t>(is_last ? 1 : 0), values[i]});
        }
        out.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
        values = values.subspan(count);
    }
}

// One call's entries, all of them with checks: its end for whatever arguments.
std::vector<sock_filter> check_arguments(std::vector<const AllowedCall*> entries, std::uint32_t otherwise) {
    const auto is_word = [](const AllowedCall& entry) {
        return entry.checks.size() == 1 && entry.checks[0].mask == 0xffffffff;
    };
    std::vector<sock_filter> out;
    while (!entries.empty()) {
        const AllowedCall& first = *entries.front();
        if (is_word(first)) {  // such as requests of ioctl: all of them at once
            const unsigned index = first.checks[0].index;
            std::vector<std::uint32_t> values;
            std::erase_if(entries, [&](const AllowedCall* entry) {
                if (!is_word(*entry) || entry->checks[0].index != index) return false;
                values.push_back(static_cast<std::uint32_t>(entry->checks[0].value));
                return true;
            });
            out.push_back(statement(BPF_LD | BPF_W | BPF_ABS, argument_low(index)));
            allow_values(out, values);
            continue;
        }
        std::vector<sock_filter> body;
        for (const ArgumentCheck& check : first.checks) {
            add_half(body, argument_low(check.index), static_cast<std::uint32_t>(check.mask),
                     static_cast<std::uint32_t>(check.value));
            add_half(body, argument_low(check.index) + 4, static_cast<std::uint32_t>(check.mask >> 32U),
                     static_cast<std::uint32_t>(check.value >> 32U));
        }
        body.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
        for (std::size_t i = 0; i < body.size(); ++i)
            if (BPF_CLASS(body[i].code) == BPF_JMP) body[i].jf = static_cast<std::uint8_t>(body.size() - i - 1);
        out.insert(out.end(), body.begin(), body.end());
        entries.erase(entries.begin());
    }
    out.push_back(statement(BPF_RET | BPF_K, otherwise));
    return out;
}

void append(std::vector<sock_filter>& to, const std::vector<sock_filter>& more) {
    to.insert(to.end(), more.begin(), more.end());
}

// All entries of one number.
struct ListedCall {
    std::uint32_t number = 0;
    bool is_unconditional = false;  // one of them has no checks
    std::vector<const AllowedCall*> entries = {};
};

void add_checked(std::vector<sock_filter>& out, const ListedCall& call, std::uint32_t otherwise) {
    const auto body = check_arguments(call.entries, otherwise);
    out.push_back({BPF_JMP | BPF_JEQ | BPF_K, 1, 0, call.number});
    out.push_back(statement(BPF_JMP | BPF_JA, static_cast<std::uint32_t>(body.size())));
    append(out, body);
}

// Looks for the number in the accumulator by halves: at an installation the kernel follows the program for each of the
// system calls there are, and for those whose end depends on arguments again at each call.
std::vector<sock_filter> find_call(std::span<const ListedCall> calls, std::uint32_t otherwise) {
    constexpr std::size_t few = 6;
    std::vector<sock_filter> out;
    if (calls.size() <= few) {
        std::vector<std::uint32_t> numbers;
        for (const ListedCall& call : calls) {
            if (call.is_unconditional) {
                numbers.push_back(call.number);
            } else {
                add_checked(out, call, otherwise);
            }
        }
        allow_values(out, numbers);
        out.push_back(statement(BPF_RET | BPF_K, otherwise));
        return out;
    }
    const std::size_t half = calls.size() / 2;
    const auto lower = find_call(calls.first(half), otherwise);
    if (lower.size() <= UINT8_MAX) {
        out.push_back({BPF_JMP | BPF_JGE | BPF_K, static_cast<std::uint8_t>(lower.size()), 0, calls[half].number});
    } else {
        out.push_back({BPF_JMP | BPF_JGE | BPF_K, 0, 1, calls[half].number});
        out.push_back(statement(BPF_JMP | BPF_JA, static_cast<std::uint32_t>(lower.size())));
    }
    append(out, lower);
    append(out, find_call(calls.subspan(half), otherwise));
    return out;
}

Result<AllowedCall> parse_call(const json::value& item) {
    if (!item.is_object()) return fail(Code::invalid_argument, "seccomp filter: expected an object");
    const JsonReader reader(item.get_object(), "filter");
    const std::string name = TRY(reader.required_string("syscall"));
    const auto number = x86_64::syscall_number(name);
    if (!number) return fail(Code::invalid_argument, "seccomp filter: unknown system call " + name);
    AllowedCall call{*number, {}};
    for (const JsonReader& argument : TRY(reader.children("args"))) {
        ArgumentCheck check;
        const auto index = TRY(argument.unsigned_integer("index"));
        const auto value = TRY(argument.unsigned_integer("val"));
        if (!index || *index > 5 || !value) return fail(Code::invalid_argument, "seccomp filter: argument of " + name);
        check.index = static_cast<unsigned>(*index);
        check.value = *value;
        if (TRY(argument.string_or("type", "qword")) == "dword") check.mask = 0xffffffff;
        const json::value* op = argument.find("op");
        if (op != nullptr && op->is_object() && op->get_object().contains("masked_eq")) {
            const auto mask = TRY(JsonReader(op->get_object()).unsigned_integer("masked_eq"));
            check.mask = mask.value_or(check.mask);
        } else if (op == nullptr || !op->is_string() || op->get_string() != "eq") {
            return fail(Code::invalid_argument, "seccomp filter: only eq and masked_eq are known, at " + name);
        }
        check.value &= check.mask;
        call.checks.push_back(check);
    }
    return call;
}

}  // namespace

std::vector<AllowedCall> allowed_calls(ThreadKind kind, DeviceBus bus) {
    if (kind == ThreadKind::api) return api_calls();
    std::vector<AllowedCall> calls = kind == ThreadKind::vmm ? vmm_calls() : vcpu_calls();
    if (bus == DeviceBus::pci) add_pci(calls, kind);
    return calls;
}

confine::SeccompProgram make_filter(const std::vector<AllowedCall>& calls, std::uint32_t otherwise) {
    std::vector<const AllowedCall*> entries;
    for (const AllowedCall& call : calls) entries.push_back(&call);
    std::ranges::sort(entries, {}, [](const AllowedCall* entry) { return std::pair(entry->number, entry); });
    std::vector<ListedCall> listed;
    for (const AllowedCall* entry : entries) {
        const auto number = static_cast<std::uint32_t>(entry->number);
        if (listed.empty() || listed.back().number != number) listed.push_back({.number = number});
        listed.back().is_unconditional = listed.back().is_unconditional || entry->checks.empty();
        listed.back().entries.push_back(entry);
    }
    confine::SeccompProgram program;
    auto& out = program.instructions;
    out.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
    out.push_back({BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_X86_64});
    out.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
    out.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    const auto first = std::ranges::find_if(listed, [&](const ListedCall& call) {
        return !calls.empty() && call.number == static_cast<std::uint32_t>(calls.front().number);
    });
    if (first != listed.end() && !first->is_unconditional) {
        add_checked(out, *first, otherwise);
        listed.erase(first);
    }
    append(out, find_call(listed, otherwise));
    return program;
}

const confine::SeccompProgram& SeccompPrograms::of(ThreadKind kind) const {
    return kind == ThreadKind::vmm ? vmm : kind == ThreadKind::api ? api : vcpu;
}

SeccompPrograms default_programs(DeviceBus bus) {
    return {.vmm = make_filter(allowed_calls(ThreadKind::vmm, bus), SECCOMP_RET_TRAP),
            .api = make_filter(allowed_calls(ThreadKind::api, bus), SECCOMP_RET_TRAP),
            .vcpu = make_filter(allowed_calls(ThreadKind::vcpu, bus), SECCOMP_RET_TRAP)};
}

const confine::SeccompProgram& DefaultPrograms::of(ThreadKind kind, DeviceBus bus) {
    const std::lock_guard lock(mutex_);
    auto& program = programs_[static_cast<std::size_t>(bus)][static_cast<std::size_t>(kind)];
    if (program.empty()) program = make_filter(allowed_calls(kind, bus), SECCOMP_RET_TRAP);
    return program;
}

Result<SeccompPrograms> parse_programs(std::string_view json_text) {
    const json::object file = TRY(parse_json_object(json_text), "seccomp filter");
    SeccompPrograms programs;
    for (auto [name, program] : {std::pair{"vmm", &programs.vmm}, {"api", &programs.api}, {"vcpu", &programs.vcpu}}) {
        const auto section = TRY(JsonReader(file).child(name));
        if (!section) return fail(Code::invalid_argument, std::string("seccomp filter: no section ") + name);
        const std::string action = TRY(section->string_or("default_action", "trap"));
        std::uint32_t otherwise = SECCOMP_RET_TRAP;
        if (action == "kill_process") otherwise = SECCOMP_RET_KILL_PROCESS;
        if (action == "kill_thread") otherwise = SECCOMP_RET_KILL_THREAD;
        if (action == "log") otherwise = SECCOMP_RET_LOG;
        if (action == "allow") otherwise = SECCOMP_RET_ALLOW;
        if (TRY(section->string_or("filter_action", "allow")) != "allow")
            return fail(Code::invalid_argument, "seccomp filter: only lists of what is allowed are known");
        const json::value* list = section->find("filter");
        if (list == nullptr || !list->is_array()) return section->wrong("filter", "an array");
        std::vector<AllowedCall> calls;
        for (const json::value& item : list->get_array()) calls.push_back(TRY(parse_call(item)));
        *program = make_filter(calls, otherwise);
    }
    return programs;
}

Result<> install(const confine::SeccompProgram& program) {
    if (program.empty()) return {};
    if (const int error = confine::post_fork::set_no_new_privileges(); error != 0)
        return fail_errno(error, "no_new_privs");
    TRY(confine::install_seccomp(program));
    return {};
}

}  // namespace wherry::vmm
