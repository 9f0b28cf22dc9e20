#include "vmm/arch/x86_64/aml.hpp"

namespace wherry::vmm::aml {
namespace {

void little(Bytes& out, std::uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i) out.push_back(static_cast<char>((value >> (8 * i)) & 0xffU));
}

// Section 20.2.4: the length counts its own bytes.
Bytes with_length(const Bytes& body) {
    Bytes out;
    std::size_t length = body.size() + 1;
    if (length < 0x40) {
        little(out, length, 1);
        return out + body;
    }
    unsigned extra = 1;
    while (extra < 3 && body.size() + 1 + extra >= (std::size_t{1} << (4 + 8 * extra))) ++extra;
    length = body.size() + 1 + extra;
    little(out, (extra << 6U) | (length & 0xfU), 1);
    little(out, length >> 4U, extra);
    return out + body;
}

Bytes extended(char opcode) {
    return {'\x5b', opcode};
}

}  // namespace

Bytes name_path(std::string_view path) {
    Bytes out;
    if (path.starts_with('\\')) {
        out.push_back('\\');
        path.remove_prefix(1);
    }
    return out.append(path);
}

Bytes integer(std::uint64_t value) {
    Bytes out;
    if (value <= 1) {
        little(out, value, 1);
    } else if (value <= 0xff) {
        out.push_back('\x0a');
        little(out, value, 1);
    } else if (value <= 0xffff) {
        out.push_back('\x0b');
        little(out, value, 2);
    } else if (value <= 0xffffffff) {
        out.push_back('\x0c');
        little(out, value, 4);
    } else {
        out.push_back('\x0e');
        little(out, value, 8);
    }
    return out;
}

Bytes text(std::string_view value) {
    Bytes out = "\x0d";
    out.append(value);
    out.push_back('\0');
    return out;
}

Bytes eisa_id(std::string_view id) {
    const auto letter = [&](std::size_t i) { return static_cast<std::uint32_t>(id[i] - 0x40) & 0x1fU; };
    const auto digit = [&](std::size_t i) {
        const char c = id[i];
        return static_cast<std::uint32_t>(c <= '9' ? c - '0' : c - 'A' + 10);
    };
    const std::uint32_t value = (letter(0) << 26U) | (letter(1) << 21U) | (letter(2) << 16U) | (digit(3) << 12U) |
                                (digit(4) << 8U) | (digit(5) << 4U) | digit(6);
    Bytes out = "\x0c";
    little(out, __builtin_bswap32(value), 4);
    return out;
}

Bytes package(std::initializer_list<Bytes> elements) {
    Bytes body;
    little(body, elements.size(), 1);
    for (const Bytes& element : elements) body += element;
    return "\x12" + with_length(body);
}

Bytes name(std::string_view path, const Bytes& value) {
    return "\x08" + name_path(path) + value;
}

Bytes scope(std::string_view path, const Bytes& terms) {
    return "\x10" + with_length(name_path(path) + terms);
}

Bytes device(std::string_view path, const Bytes& terms) {
    return extended('\x82') + with_length(name_path(path) + terms);
}

Bytes method(std::string_view path, unsigned arguments, bool is_serialized, const Bytes& terms) {
    Bytes body = name_path(path);
    little(body, arguments | (is_serialized ? 8U : 0U), 1);
    return "\x14" + with_length(body + terms);
}

Bytes if_first_argument_is(std::uint64_t value, const Bytes& terms) {
    return "\xa0" + with_length("\x93\x68" + integer(value) + terms);
}

Bytes notify(std::string_view path, std::uint64_t value) {
    return "\x86" + name_path(path) + integer(value);
}

Bytes resources(std::initializer_list<Bytes> descriptors) {
    Bytes list;
    for (const Bytes& descriptor : descriptors) list += descriptor;
    list.push_back('\x79');  // end tag, with a checksum of 0: not checked
    list.push_back('\0');
    return "\x11" + with_length(integer(list.size()) + list);
}

Bytes io_port(std::uint16_t port, std::uint8_t count) {
    Bytes out = "\x47\x01";
    little(out, port, 2);
    little(out, port, 2);
    little(out, 1, 1);
    little(out, count, 1);
    return out;
}

Bytes memory32(std::uint32_t address, std::uint32_t bytes) {
    Bytes out = "\x86";
    little(out, 9, 2);
    little(out, 1, 1);
    little(out, address, 4);
    little(out, bytes, 4);
    return out;
}

Bytes bus_numbers(std::uint16_t first, std::uint16_t count) {
    Bytes out = "\x88";  // word address space
    little(out, 13, 2);
    little(out, 2, 1);     // buses
    little(out, 0x0c, 1);  // first and last are fixed; passed on
    little(out, 0, 1);
    little(out, 0, 2);  // granularity
    little(out, first, 2);
    little(out, first + count - 1U, 2);
    little(out, 0, 2);  // translation
    little(out, count, 2);
    return out;
}

Bytes memory_window32(std::uint32_t address, std::uint32_t bytes) {
    Bytes out = "\x87";  // double word address space
    little(out, 23, 2);
    little(out, 0, 1);     // memory
    little(out, 0x0c, 1);  // first and last are fixed; passed on
    little(out, 1, 1);     // read and write, not cached
    little(out, 0, 4);     // granularity
    little(out, address, 4);
    little(out, address + bytes - 1U, 4);
    little(out, 0, 4);  // translation
    little(out, bytes, 4);
    return out;
}

Bytes grant_control(std::uint32_t granted) {
    // CreateDWordField(Arg3, 8, CTRL); And(CTRL, granted, CTRL); Return(Arg3)
    const Bytes body = "\x8a\x6b" + integer(8) + name_path("CTRL") + "\x7b" + name_path("CTRL") + integer(granted) +
                       name_path("CTRL") + "\xa4\x6b";
    return method("_OSC", 4, false, body);
}

Bytes interrupt(std::uint32_t gsi) {
    Bytes out = "\x89";
    little(out, 6, 2);
    little(out, 3, 1);  // consumer, edge
    little(out, 1, 1);
    little(out, gsi, 4);
    return out;
}

}  // namespace wherry::vmm::aml
