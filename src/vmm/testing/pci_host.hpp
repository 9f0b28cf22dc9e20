// For tests and fuzzing: a machine that writes down what PCI functions ask of it.
#pragma once

#include <map>
#include <vector>

#include "vmm/pci/function.hpp"

namespace wherry::vmm::testing {

class RecordingHost final : public pci::Host {
  public:
    void send(const pci::Message& message) override { messages.push_back(message); }
    Result<> map_doorbell(std::uint64_t address, int eventfd) override {
        if (!doorbells.emplace(address, eventfd).second) return fail(Code::already_exists, "doorbell");
        return {};
    }
    void unmap_doorbell(std::uint64_t address, int eventfd) override {
        const auto found = doorbells.find(address);
        if (found == doorbells.end() || found->second != eventfd) ++mistakes;
        if (found != doorbells.end()) doorbells.erase(found);
    }

    std::vector<pci::Message> messages;
    std::map<std::uint64_t, int> doorbells;
    unsigned mistakes = 0;  // what was taken back and never given
};

template <class T>
T get_configuration(pci::Function& function, std::uint32_t offset) {
    T value = 0;
    function.read_configuration(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
}
template <class T>
void set_configuration(pci::Function& function, std::uint32_t offset, T value) {
    function.write_configuration(offset, std::as_bytes(std::span(&value, 1)));
}

}  // namespace wherry::vmm::testing
