#include "confine/seccomp_compile/compile.hpp"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <span>

#include "confine/digest.hpp"
namespace wherry::confine {
namespace {

struct ContextDeleter {
    void operator()(void* context) const { ::seccomp_release(context); }
};
using Context = std::unique_ptr<void, ContextDeleter>;

struct Architecture {
    std::string_view oci;
    std::uint32_t token;  // SCMP_ARCH_..., which is AUDIT_ARCH_... except for x32
};
constexpr std::array<Architecture, 18> architectures{{
    {"SCMP_ARCH_X86", SCMP_ARCH_X86},
    {"SCMP_ARCH_X86_64", SCMP_ARCH_X86_64},
    {"SCMP_ARCH_X32", SCMP_ARCH_X32},
    {"SCMP_ARCH_ARM", SCMP_ARCH_ARM},
    {"SCMP_ARCH_AARCH64", SCMP_ARCH_AARCH64},
    {"SCMP_ARCH_MIPS", SCMP_ARCH_MIPS},
    {"SCMP_ARCH_MIPS64", SCMP_ARCH_MIPS64},
    {"SCMP_ARCH_MIPS64N32", SCMP_ARCH_MIPS64N32},
    {"SCMP_ARCH_MIPSEL", SCMP_ARCH_MIPSEL},
    {"SCMP_ARCH_MIPSEL64", SCMP_ARCH_MIPSEL64},
    {"SCMP_ARCH_MIPSEL64N32", SCMP_ARCH_MIPSEL64N32},
    {"SCMP_ARCH_PPC", SCMP_ARCH_PPC},
    {"SCMP_ARCH_PPC64", SCMP_ARCH_PPC64},
    {"SCMP_ARCH_PPC64LE", SCMP_ARCH_PPC64LE},
    {"SCMP_ARCH_S390", SCMP_ARCH_S390},
    {"SCMP_ARCH_S390X", SCMP_ARCH_S390X},
    {"SCMP_ARCH_RISCV64", SCMP_ARCH_RISCV64},
    {"SCMP_ARCH_PARISC", SCMP_ARCH_PARISC},
}};

Result<std::uint32_t> architecture_token(const std::string& name) {
    for (const Architecture& candidate : architectures)
        if (candidate.oci == name) return candidate.token;
    return fail(Code::invalid_argument, "unknown seccomp architecture \"" + name + "\"");
}

// Calls younger than the library here. From 424 on, numbers are the same on every architecture.
struct YoungCall {
    std::string_view name;
    int number;
    bool x86_64_only = false;
};
constexpr std::array<YoungCall, 21> young_calls{{
    {"uretprobe", 335, true},   {"uprobe", 336, true},      {"futex_waitv", 449},      {"set_mempolicy_home_node", 450},
    {"cachestat", 451},         {"fchmodat2", 452},         {"map_shadow_stack", 453}, {"futex_wake", 454},
    {"futex_wait", 455},        {"futex_requeue", 456},     {"statmount", 457},        {"listmount", 458},
    {"lsm_get_self_attr", 459}, {"lsm_set_self_attr", 460}, {"lsm_list_modules", 461}, {"mseal", 462},
    {"setxattrat", 463},        {"getxattrat", 464},        {"listxattrat", 465},      {"removexattrat", 466},
    {"open_tree_attr", 467},
}};

const YoungCall* young_call(std::string_view name) {
    for (const YoungCall& call : young_calls)
        if (call.name == name) return &call;
    return nullptr;
}

std::uint32_t library_action(SeccompAction action, std::uint32_t error_number) {
    switch (action) {
        case SeccompAction::kill_process:
            return SCMP_ACT_KILL_PROCESS;
        case SeccompAction::kill_thread:
            return SCMP_ACT_KILL_THREAD;
        case SeccompAction::trap:
            return SCMP_ACT_TRAP;
        case SeccompAction::error_number:
            return SCMP_ACT_ERRNO(error_number);
        case SeccompAction::trace:
            return SCMP_ACT_TRACE(error_number);
        case SeccompAction::notify:
            return SCMP_ACT_NOTIFY;
        case SeccompAction::log:
            return SCMP_ACT_LOG;
        case SeccompAction::allow:
            return SCMP_ACT_ALLOW;
    }
    return SCMP_ACT_KILL_PROCESS;
}

scmp_compare library_operator(SeccompOperator op) {
    switch (op) {
        case SeccompOperator::not_equal:
            return SCMP_CMP_NE;
        case SeccompOperator::less:
            return SCMP_CMP_LT;
        case SeccompOperator::less_equal:
            return SCMP_CMP_LE;
        case SeccompOperator::equal:
            return SCMP_CMP_EQ;
        case SeccompOperator::greater_equal:
            return SCMP_CMP_GE;
        case SeccompOperator::greater:
            return SCMP_CMP_GT;
        case SeccompOperator::masked_equal:
            return SCMP_CMP_MASKED_EQ;
    }
    return SCMP_CMP_EQ;
}

struct Flag {
    std::string_view name;
    std::uint32_t bit;
};
constexpr std::array<Flag, 4> flags{{
    {"SECCOMP_FILTER_FLAG_TSYNC", SECCOMP_FILTER_FLAG_TSYNC},
    {"SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG},
    {"SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW},
    {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 1U << 5U},
}};

Result<std::uint32_t> program_flags(const SeccompProfile& profile) {
    std::uint32_t bits = 0;
    for (const std::string& name : profile.flags) {
        auto found = std::ranges::find(flags, name, &Flag::name);
        if (found == flags.end()) return fail(Code::invalid_argument, "unknown seccomp flag \"" + name + "\"");
        bits |= found->bit;
    }
    for (const SeccompRule& rule : profile.rules)
        if (rule.action == SeccompAction::notify) bits |= SECCOMP_FILTER_FLAG_NEW_LISTENER;
    if (profile.default_action == SeccompAction::notify)
        return fail(Code::invalid_argument, "SCMP_ACT_NOTIFY cannot be the default seccomp action");
    return bits;
}

// Comparisons of one rule hold together; but of one argument only one comparison is possible, and then each stands
// alone.
bool repeats_an_argument(const SeccompRule& rule) {
    std::array<int, 6> seen{};
    for (const SeccompArgument& argument : rule.arguments)
        if (++seen[argument.index] > 1) return true;
    return false;
}

Result<> add_call(void* context, std::uint32_t action, int number, const std::string& name, const SeccompRule& rule) {
    std::vector<scmp_arg_cmp> comparisons;
    for (const SeccompArgument& a : rule.arguments)
        comparisons.push_back(
            {.arg = a.index, .op = library_operator(a.op), .datum_a = a.value, .datum_b = a.value_two});
    auto add = [&](std::span<const scmp_arg_cmp> some) -> Result<> {
        int error = ::seccomp_rule_add_array(context, action, number, static_cast<unsigned>(some.size()), some.data());
        if (error != 0 && error != -EEXIST)
            return fail(Code::invalid_argument, "seccomp rule for " + name + ": " + std::strerror(-error), -error);
        return {};
    };
    if (!repeats_an_argument(rule)) return add(comparisons);
    for (const scmp_arg_cmp& one : comparisons) TRY(add({&one, 1}));
    return {};
}

// What the library's program does not say: calls younger than the library, and ENOSYS for those younger than the
// profile.
struct Additions {
    std::map<int, std::uint32_t> common;  // number -> SECCOMP_RET_...
    std::map<int, std::uint32_t> x86_64;
    int newest_listed = 0;  // over all rules
    // On 32-bit x86 sockets can also be made by socketcall(2), whose arguments lie in memory. A profile that looks at
    // the arguments of socket would be walked around that way: its first function, SYS_SOCKET, is then refused like a
    // call nobody listed. C libraries use socket itself since Linux 4.3.
    std::optional<std::uint32_t> socketcall_answer;
};

Result<Context> build(const SeccompProfile& profile, Additions& additions) {
    std::uint32_t default_action = library_action(profile.default_action, profile.default_error_number.value_or(EPERM));
    Context context(::seccomp_init(default_action));
    if (!context) return fail(Code::internal, "libseccomp did not start");
    for (const std::string& name : profile.architectures) {
        std::uint32_t token = TRY(architecture_token(name));
        int error = ::seccomp_arch_add(context.get(), token);
        if (error != 0 && error != -EEXIST)
            return fail(Code::invalid_argument, "seccomp architecture " + name + ": " + std::strerror(-error), -error);
    }
    // A binary tree in place of a chain: a few comparisons a call whatever its number.
    (void)::seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
    auto names_call = [](const SeccompRule& rule, std::string_view name) {
        return std::ranges::find(rule.names, name) != rule.names.end();
    };
    bool looks_at_socket = std::ranges::any_of(
        profile.rules, [&](const SeccompRule& rule) { return names_call(rule, "socket") && !rule.arguments.empty(); });
    bool lists_socketcall =
        std::ranges::any_of(profile.rules, [&](const SeccompRule& rule) { return names_call(rule, "socketcall"); });
    if (looks_at_socket && !lists_socketcall && profile.default_action != SeccompAction::allow)
        additions.socketcall_answer = default_action;
    for (const SeccompRule& rule : profile.rules) {
        std::uint32_t action = library_action(rule.action, rule.error_number.value_or(EPERM));
        for (const std::string& name : rule.names) {
            int number = ::seccomp_syscall_resolve_name(name.c_str());
            if (number == __NR_SCMP_ERROR) {
                const YoungCall* young = young_call(name);
                if (young == nullptr) continue;  // nobody can make a call that has no number
                if (!young->x86_64_only) additions.newest_listed = std::max(additions.newest_listed, young->number);
                if (!rule.arguments.empty()) continue;
                (young->x86_64_only ? additions.x86_64 : additions.common).emplace(young->number, action);
                continue;
            }
            additions.newest_listed = std::max(additions.newest_listed, number);
            if (action != default_action) TRY(add_call(context.get(), action, number, name, rule));
        }
    }
    return context;
}

Result<std::vector<sock_filter>> export_program(void* context) {
    Fd file(::memfd_create("seccomp", MFD_CLOEXEC));
    if (!file) return fail_errno("memfd_create");
    if (int error = ::seccomp_export_bpf(context, file.get()); error != 0)
        return fail(Code::invalid_argument, std::string("compiling the seccomp profile: ") + std::strerror(-error),
                    -error);
    if (::lseek(file.get(), 0, SEEK_SET) < 0) return fail_errno("lseek");
    std::string bytes = TRY(read_to_end(file.get()));
    std::vector<sock_filter> program(bytes.size() / sizeof(sock_filter));
    std::memcpy(program.data(), bytes.data(), program.size() * sizeof(sock_filter));
    return program;
}

// The newest call the library knows on an architecture.
int newest_known(std::uint32_t token) {
    for (int number = 1023; number > 0; --number) {
        char* name = ::seccomp_syscall_resolve_num_arch(token, number);
        if (name == nullptr) continue;
        // SAFETY: the library hands out memory of malloc.
        std::free(name);
        return number;
    }
    return 0;
}

sock_filter statement(unsigned code, std::uint32_t k) {
    return {static_cast<std::uint16_t>(code), 0, 0, k};
}
sock_filter jump(unsigned code, std::uint32_t k, std::size_t yes, std::size_t no) {
    return {static_cast<std::uint16_t>(code), static_cast<std::uint8_t>(yes), static_cast<std::uint8_t>(no), k};
}

// The part for one architecture; falls through to its end for everything it has no answer to.
std::vector<sock_filter> additions_for(std::uint32_t token, const Additions& additions, bool answer_enosys) {
    std::map<int, std::uint32_t> answers = additions.common;
    if (token == AUDIT_ARCH_X86_64) answers.insert(additions.x86_64.begin(), additions.x86_64.end());
    int known = newest_known(token);
    std::vector<sock_filter> code;
    code.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    for (auto [number, action] : answers) {
        code.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), 0, 1));
        code.push_back(statement(BPF_RET | BPF_K, action));
    }
    if (token == AUDIT_ARCH_I386 && additions.socketcall_answer) {
        constexpr std::uint32_t socketcall = 102;
        constexpr std::uint32_t make_socket = 1;
        code.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, socketcall, 0, 4));
        code.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args)));
        code.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, make_socket, 0, 1));
        code.push_back(statement(BPF_RET | BPF_K, *additions.socketcall_answer));
        code.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    }
    if (answer_enosys) {
        // x32 calls have bit 30 set: they are the library's. So is a number it knows, even if no rule lists it.
        constexpr std::uint32_t x32_bit = 0x40000000U;
        auto limit = static_cast<std::uint32_t>(std::max(known, additions.newest_listed));
        code.push_back(jump(BPF_JMP | BPF_JGE | BPF_K, x32_bit, 2, 0));
        code.push_back(jump(BPF_JMP | BPF_JGT | BPF_K, limit, 0, 1));
        code.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS));
    }
    return code;
}

std::vector<sock_filter> with_additions(const SeccompProfile& profile, std::vector<sock_filter> program,
                                        const Additions& additions) {
    std::vector<std::uint32_t> tokens;
    for (const std::string& name : profile.architectures)
        if (auto token = architecture_token(name); token && *token != SCMP_ARCH_X32) tokens.push_back(*token);
    tokens.push_back(::seccomp_arch_native());  // the library always has it
    std::ranges::sort(tokens);
    auto repeated = std::ranges::unique(tokens);
    tokens.erase(repeated.begin(), repeated.end());
    bool answer_enosys = profile.default_action == SeccompAction::error_number;
    std::vector<sock_filter> out;
    for (std::uint32_t token : tokens) {
        std::vector<sock_filter> part = additions_for(token, additions, answer_enosys);
        if (part.size() > 250) continue;  // a jump reaches no further; the profile then works without the additions
        out.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
        out.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, token, 0, part.size()));
        out.insert(out.end(), part.begin(), part.end());
    }
    out.insert(out.end(), program.begin(), program.end());
    return out;
}

}  // namespace

std::string seccomp_library_version() {
    const scmp_version* version = ::seccomp_version();
    return std::to_string(version->major) + '.' + std::to_string(version->minor) + '.' + std::to_string(version->micro);
}

Result<SeccompProgram> compile_seccomp(const SeccompProfile& profile) {
    SeccompProgram program;
    program.flags = TRY(program_flags(profile));
    Additions additions;
    Context context = TRY(build(profile, additions));
    program.instructions = with_additions(profile, TRY(export_program(context.get())), additions);
    if (program.instructions.size() > BPF_MAXINSNS)
        return fail(Code::invalid_argument,
                    "the seccomp profile compiles to more than " + std::to_string(BPF_MAXINSNS) + " instructions");
    return program;
}

std::optional<std::string> syscall_name(std::uint32_t audit_arch, int number) {
    std::uint32_t token = audit_arch;
    if (audit_arch == AUDIT_ARCH_X86_64 && number >= 0x40000000) token = SCMP_ARCH_X32;
    char* name = ::seccomp_syscall_resolve_num_arch(token, number);
    if (name != nullptr) {
        std::string out(name);
        // SAFETY: the library hands out memory of malloc.
        std::free(name);
        return out;
    }
    for (const YoungCall& call : young_calls)
        if (call.number == number && (!call.x86_64_only || audit_arch == AUDIT_ARCH_X86_64))
            return std::string(call.name);
    return std::nullopt;
}

std::string seccomp_cache_key(const SeccompProfile& profile) {
    // The number is the compiler's own: to be raised when this file compiles the same profile differently.
    return small_sha256_hex("wherry seccomp 1\nlibseccomp " + seccomp_library_version() + '\n' +
                            to_json(to_oci_json(profile)));
}

}  // namespace wherry::confine
