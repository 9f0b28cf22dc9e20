// Against the machine's own /dev/kvm where there is one: a guest of a few bytes.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "kvm/arch/x86_64/system.hpp"
#include "kvm/system.hpp"

namespace wherry::kvm {
namespace {

TEST(System, MissingDeviceIsAnError) {
    auto system = System::open("/nonexistent/kvm");
    ASSERT_FALSE(system);
    EXPECT_EQ(system.error().code(), Code::not_found);
}

TEST(System, SomethingElseIsNotKvm) {
    EXPECT_FALSE(System::open("/dev/null"));
}

TEST(Vcpu, RunsAByteOfRealModeCode) {
    if (access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "no /dev/kvm";
    auto system = System::open();
    ASSERT_TRUE(system) << system.error().describe();
    auto vm = system->create_vm();
    ASSERT_TRUE(vm) << vm.error().describe();
    void* memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    // mov al, 0x5a; out 0x10, al; hlt
    constexpr std::array<unsigned char, 5> code = {0xb0, 0x5a, 0xe6, 0x10, 0xf4};
    std::memcpy(memory, code.data(), code.size());
    ASSERT_TRUE(vm->set_memory({.slot = 0, .guest_address = 0x1000, .bytes = 4096, .host = memory}));
    auto vcpu = vm->create_vcpu(0);
    ASSERT_TRUE(vcpu) << vcpu.error().describe();
    auto special = get_special_registers(*vcpu);
    ASSERT_TRUE(special);
    special->cs.base = 0;
    special->cs.selector = 0;
    ASSERT_TRUE(set_special_registers(*vcpu, *special));
    kvm_regs registers = {};
    registers.rip = 0x1000;
    registers.rflags = 2;
    ASSERT_TRUE(set_registers(*vcpu, registers));
    auto ran = vcpu->run();
    ASSERT_TRUE(ran) << ran.error().describe();
    ASSERT_EQ(vcpu->shared().exit_reason, static_cast<unsigned>(KVM_EXIT_IO));
    EXPECT_EQ(vcpu->shared().io.port, 0x10);
    ASSERT_EQ(vcpu->io_data().size(), 1U);
    EXPECT_EQ(vcpu->io_data()[0], std::byte{0x5a});
    vcpu->request_exit(true);
    ran = vcpu->run();
    ASSERT_TRUE(ran);
    EXPECT_FALSE(*ran);
    munmap(memory, 4096);
}

TEST(Cpuid, IsThere) {
    if (access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "no /dev/kvm";
    auto system = System::open();
    ASSERT_TRUE(system);
    auto entries = supported_cpuid(*system);
    ASSERT_TRUE(entries) << entries.error().describe();
    EXPECT_FALSE(entries->empty());
}

}  // namespace
}  // namespace wherry::kvm
