// Which devices a cgroup may use: rules of devices.allow and devices.deny on v1, a small eBPF program on v2.
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "confine/cgroup_internal.hpp"

namespace wherry::confine::cgroup_detail {
namespace {

bool covers_everything(const DeviceRule& rule) {
    return rule.type == 'a' && !rule.major && !rule.minor && rule.read && rule.write && rule.make_node;
}

std::string number_text(const std::optional<std::int64_t>& number) {
    return number ? std::to_string(*number) : "*";
}

// devices.allow and devices.deny of a v1 cgroup, each opened once: every write is a rule of its own.
class RulesV1 {
  public:
    explicit RulesV1(int directory) : directory_(directory) {}

    Result<> write(bool allow, const std::string& text) {
        Fd& file = allow ? allow_ : deny_;
        if (!file) file = TRY(open_at(directory_, allow ? "devices.allow" : "devices.deny", O_WRONLY));
        ssize_t written = -1;
        do {
            written = ::write(file.get(), text.data(), text.size());
        } while (written < 0 && errno == EINTR);
        if (written < 0) return fail_errno("device rule \"" + text + "\"");
        return {};
    }
    // v1 knows no type "a" but for everything.
    Result<> write(const DeviceRule& rule, char type) {
        return write(rule.allow, std::string(1, type) + ' ' + number_text(rule.major) + ':' + number_text(rule.minor) +
                                     ' ' + rule.access());
    }

  private:
    int directory_;
    Fd allow_, deny_;
};

// Assembles instructions; jumps are patched when their target is known.
class Assembler {
  public:
    void add(std::uint8_t code, std::uint8_t destination, std::uint8_t source, std::int16_t offset,
             std::int32_t immediate) {
        bpf_insn instruction{};
        instruction.code = code;
        instruction.dst_reg = destination & 0xfU;
        instruction.src_reg = source & 0xfU;
        instruction.off = offset;
        instruction.imm = immediate;
        instructions_.push_back(instruction);
    }
    // A jump to the end of the present rule.
    void jump_to_next(std::uint8_t operation, std::uint8_t reg, std::uint32_t value) {
        pending_.push_back(instructions_.size());
        add(static_cast<std::uint8_t>(BPF_JMP32 | operation | BPF_K), reg, 0, 0, static_cast<std::int32_t>(value));
    }
    void jump_to_next() {
        pending_.push_back(instructions_.size());
        add(BPF_JMP | BPF_JA, 0, 0, 0, 0);
    }
    void end_of_rule() {
        for (std::size_t at : pending_)
            instructions_[at].off = static_cast<std::int16_t>(instructions_.size() - at - 1);
        pending_.clear();
    }
    void answer(bool allow) {
        add(BPF_ALU | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, allow ? 1 : 0);
        add(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }
    const std::vector<bpf_insn>& instructions() const { return instructions_; }

  private:
    std::vector<bpf_insn> instructions_;
    std::vector<std::size_t> pending_;
};

// Later rules win, bit by bit: r2 holds the kinds of access nobody has decided on yet. The rules run from the last to
// the first; one that allows takes its bits off, one that denies ends it if it meets any that are left.
std::vector<bpf_insn> build_program(const std::vector<DeviceRule>& rules) {
    Assembler code;
    constexpr std::uint8_t load_word = BPF_LDX | BPF_MEM | BPF_W;
    code.add(load_word, BPF_REG_2, BPF_REG_1, offsetof(bpf_cgroup_dev_ctx, access_type), 0);
    code.add(BPF_ALU | BPF_MOV | BPF_X, BPF_REG_3, BPF_REG_2, 0, 0);
    code.add(BPF_ALU | BPF_AND | BPF_K, BPF_REG_3, 0, 0, 0xffff);  // r3: block or character
    code.add(BPF_ALU | BPF_RSH | BPF_K, BPF_REG_2, 0, 0, 16);      // r2: what is wanted
    code.add(load_word, BPF_REG_4, BPF_REG_1, offsetof(bpf_cgroup_dev_ctx, major), 0);
    code.add(load_word, BPF_REG_5, BPF_REG_1, offsetof(bpf_cgroup_dev_ctx, minor), 0);
    for (auto rule = rules.rbegin(); rule != rules.rend(); ++rule) {
        std::uint32_t bits = (rule->read ? BPF_DEVCG_ACC_READ : 0U) | (rule->write ? BPF_DEVCG_ACC_WRITE : 0U) |
                             (rule->make_node ? BPF_DEVCG_ACC_MKNOD : 0U);
        if (bits == 0) continue;
        if (covers_everything(*rule)) {  // nothing before it can matter
            if (!rule->allow) break;     // the answer at the end is no
            code.answer(true);
            return code.instructions();
        }
        if (rule->type != 'a')
            code.jump_to_next(BPF_JNE, BPF_REG_3, rule->type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR);
        if (rule->major) code.jump_to_next(BPF_JNE, BPF_REG_4, static_cast<std::uint32_t>(*rule->major));
        if (rule->minor) code.jump_to_next(BPF_JNE, BPF_REG_5, static_cast<std::uint32_t>(*rule->minor));
        if (rule->allow) {
            code.add(BPF_ALU | BPF_AND | BPF_K, BPF_REG_2, 0, 0, static_cast<std::int32_t>(~bits));
            code.jump_to_next(BPF_JNE, BPF_REG_2, 0);
            code.answer(true);
        } else {
            // JSET jumps when it meets any of the bits: over the jump to the next rule, into the refusal.
            code.add(BPF_JMP32 | BPF_JSET | BPF_K, BPF_REG_2, 0, 1, static_cast<std::int32_t>(bits));
            code.jump_to_next();
            code.answer(false);
        }
        code.end_of_rule();
    }
    code.answer(false);
    return code.instructions();
}

int bpf(int command, bpf_attr& attributes) {
    // SAFETY: bpf(2) with an attribute block of the size this header has; the kernel accepts older and newer sizes.
    return static_cast<int>(::syscall(SYS_bpf, command, &attributes, sizeof attributes));
}

std::uint64_t address(const void* pointer) {
    // SAFETY: bpf(2) takes pointers as 64-bit numbers.
    return reinterpret_cast<std::uintptr_t>(pointer);
}

}  // namespace

Result<> apply_device_rules_v1(int directory, const std::vector<DeviceRule>& rules) {
    if (rules.empty()) return {};
    // What precedes a rule for everything has no effect.
    std::size_t start = 0;
    bool everything = false;
    for (std::size_t i = 0; i < rules.size(); ++i) {
        if (!covers_everything(rules[i])) continue;
        start = i + 1;
        everything = rules[i].allow;
    }
    RulesV1 file(directory);
    TRY(file.write(everything, "a"), "device rules");
    for (std::size_t i = start; i < rules.size(); ++i) {
        if (rules[i].access().empty()) continue;
        if (rules[i].type == 'a') {
            TRY(file.write(rules[i], 'b'));
            TRY(file.write(rules[i], 'c'));
        } else {
            TRY(file.write(rules[i], rules[i].type));
        }
    }
    return {};
}

Result<> apply_device_rules_v2(int directory, const std::vector<DeviceRule>& rules) {
    if (rules.empty()) return {};
    std::vector<bpf_insn> instructions = build_program(rules);
    static constexpr char license[] = "Dual MIT/GPL";

    bpf_attr query{};
    std::array<std::uint32_t, 64> present{};
    query.query.target_fd = static_cast<std::uint32_t>(directory);
    query.query.attach_type = BPF_CGROUP_DEVICE;
    query.query.prog_ids = address(present.data());
    query.query.prog_cnt = present.size();
    if (bpf(BPF_PROG_QUERY, query) != 0) return fail_errno("asking for the device program of a cgroup");
    std::uint32_t old_count = query.query.prog_cnt;

    bpf_attr load{};
    load.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    load.insn_cnt = static_cast<std::uint32_t>(instructions.size());
    load.insns = address(instructions.data());
    load.license = address(license);
    std::memcpy(load.prog_name, "wherry_devices", sizeof "wherry_devices");
    Fd program(bpf(BPF_PROG_LOAD, load));
    if (!program) return fail_errno("loading the device program");

    bpf_attr attach{};
    attach.target_fd = static_cast<std::uint32_t>(directory);
    attach.attach_bpf_fd = static_cast<std::uint32_t>(program.get());
    attach.attach_type = BPF_CGROUP_DEVICE;
    attach.attach_flags = BPF_F_ALLOW_MULTI;
    if (bpf(BPF_PROG_ATTACH, attach) != 0) return fail_errno("attaching the device program");

    // Both programs have to agree until the old one is gone: at no moment is more allowed than either says.
    for (std::uint32_t i = 0; i < old_count && i < present.size(); ++i) {
        bpf_attr by_id{};
        by_id.prog_id = present[i];
        Fd old(bpf(BPF_PROG_GET_FD_BY_ID, by_id));
        if (!old) return fail_errno("opening the previous device program");
        bpf_attr detach{};
        detach.target_fd = static_cast<std::uint32_t>(directory);
        detach.attach_bpf_fd = static_cast<std::uint32_t>(old.get());
        detach.attach_type = BPF_CGROUP_DEVICE;
        if (bpf(BPF_PROG_DETACH, detach) != 0) return fail_errno("detaching the previous device program");
    }
    return {};
}

}  // namespace wherry::confine::cgroup_detail
