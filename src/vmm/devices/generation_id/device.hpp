// Two pages that tell a guest when it is no longer alone with its past: the VM generation id (Microsoft's "Virtual
// Machine Generation ID", 16 random bytes that change with each restore) and Amazon's vmclock page (its disruption
// marker and its generation counter; no clock: docs/decisions/0215). A notification of both by ACPI's generic event
// device follows a change.
#pragma once

#include <cstdint>
#include <memory>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm::generation_id {

struct State {
    std::uint64_t disruptions = 0;

    void fields(this auto& self, auto&& f) { f(self.disruptions); }
};

class GenerationIdDevice {
  public:
    // Writes a fresh id. `interrupt` is an eventfd.
    static Result<std::unique_ptr<GenerationIdDevice>> create(std::shared_ptr<GuestMemory> memory, GuestAddress id_page,
                                                              GuestAddress clock_page, Fd interrupt);
    // Another id and another disruption marker, and the guest is told.
    Result<> change();
    State save() const { return {.disruptions = disruptions_}; }
    // change() follows, when the interrupt controllers are there.
    void restore(const State& state) { disruptions_ = state.disruptions; }

  private:
    GenerationIdDevice() = default;
    Result<> write();

    std::shared_ptr<GuestMemory> memory_;
    GuestAddress id_page_;
    GuestAddress clock_page_;
    Fd interrupt_;
    std::uint64_t disruptions_ = 0;
};

}  // namespace wherry::vmm::generation_id
