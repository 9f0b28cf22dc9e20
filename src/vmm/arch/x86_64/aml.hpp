// Just enough of ACPI's machine language (ACPI 6.5, section 20.2) to describe a machine: each function gives the bytes
// of one term.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace wherry::vmm::aml {

using Bytes = std::string;

Bytes name_path(std::string_view path);  // "\_SB_", "VGEN": segments of four characters
Bytes integer(std::uint64_t value);
Bytes text(std::string_view value);
Bytes eisa_id(std::string_view id);  // "PNP0501"
Bytes package(std::initializer_list<Bytes> elements);
Bytes name(std::string_view path, const Bytes& value);
Bytes scope(std::string_view path, const Bytes& terms);
Bytes device(std::string_view path, const Bytes& terms);
Bytes method(std::string_view path, unsigned arguments, bool is_serialized, const Bytes& terms);
// If (Arg0 == value) { terms }
Bytes if_first_argument_is(std::uint64_t value, const Bytes& terms);
Bytes notify(std::string_view path, std::uint64_t value);
Bytes resources(std::initializer_list<Bytes> descriptors);
Bytes io_port(std::uint16_t port, std::uint8_t count);
Bytes memory32(std::uint32_t address, std::uint32_t bytes);
// What a bridge passes on: numbers of buses, and memory that is not cached.
Bytes bus_numbers(std::uint16_t first, std::uint16_t count);
Bytes memory_window32(std::uint32_t address, std::uint32_t bytes);
// _OSC of a PCI host bridge (PCI Firmware 3.2, section 4.5.1): the operating system gets, of what it asks for, what is
// in `granted`.
Bytes grant_control(std::uint32_t granted);
Bytes interrupt(std::uint32_t gsi);  // edge, active high, exclusive

}  // namespace wherry::vmm::aml
