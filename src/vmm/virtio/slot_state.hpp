// What the transport of one device keeps over a snapshot: the state of the kind it is.
#pragma once

#include <optional>

#include "vmm/virtio/mmio.hpp"
#include "vmm/virtio/pci.hpp"

namespace wherry::vmm {

struct SlotState {
    std::optional<MmioState> mmio;
    std::optional<PciState> pci;

    void fields(this auto& self, auto&& f) { f(self.mmio, self.pci); }
};

}  // namespace wherry::vmm
