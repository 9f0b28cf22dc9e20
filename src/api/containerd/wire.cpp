#include "api/containerd/wire.hpp"

#include <limits>

namespace wherry::api::containerd {

Result<std::uint64_t> WireReader::varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (rest_.empty()) return fail(Code::invalid_argument, "protobuf: number is cut");
        auto byte = static_cast<unsigned char>(rest_.front());
        rest_.remove_prefix(1);
        if (shift == 63 && byte > 1) return fail(Code::invalid_argument, "protobuf: number over 64 bits");
        value |= std::uint64_t{byte & 0x7FU} << shift;
        if ((byte & 0x80U) == 0) return value;
    }
    return fail(Code::invalid_argument, "protobuf: number over ten bytes");
}

Result<std::optional<WireField>> WireReader::next() {
    if (rest_.empty()) return std::nullopt;
    std::uint64_t key = TRY(varint());
    WireField field;
    std::uint64_t number = key >> 3U;
    if (number == 0 || number > 0x1FFF'FFFFU) return fail(Code::invalid_argument, "protobuf: impossible field number");
    field.number = static_cast<std::uint32_t>(number);
    switch (key & 7U) {
        case 0:
            field.type = WireType::varint;
            field.integer = TRY(varint());
            return field;
        case 2: {
            field.type = WireType::bytes;
            std::uint64_t length = TRY(varint());
            if (length > rest_.size()) return fail(Code::invalid_argument, "protobuf: field is cut");
            field.bytes = rest_.substr(0, static_cast<std::size_t>(length));
            rest_.remove_prefix(field.bytes.size());
            return field;
        }
        case 1:
        case 5: {
            bool wide = (key & 7U) == 1;
            field.type = wide ? WireType::fixed64 : WireType::fixed32;
            std::size_t length = wide ? 8 : 4;
            if (length > rest_.size()) return fail(Code::invalid_argument, "protobuf: field is cut");
            for (std::size_t i = 0; i < length; ++i)
                field.integer |= std::uint64_t{static_cast<unsigned char>(rest_[i])} << (8U * i);
            rest_.remove_prefix(length);
            return field;
        }
        default:
            return fail(Code::invalid_argument, "protobuf: unknown wire type");
    }
}

void WireWriter::raw_varint(std::uint64_t value) {
    while (value >= 0x80U) {
        out_ += static_cast<char>((value & 0x7FU) | 0x80U);
        value >>= 7U;
    }
    out_ += static_cast<char>(value);
}

void WireWriter::varint(std::uint32_t number, std::uint64_t value) {
    raw_varint(std::uint64_t{number} << 3U);
    raw_varint(value);
}

void WireWriter::bytes(std::uint32_t number, std::string_view value) {
    raw_varint((std::uint64_t{number} << 3U) | 2U);
    raw_varint(value.size());
    out_.append(value);
}

namespace wire {

std::unexpected<Error> wrong_type(std::uint32_t number) {
    return fail(Code::invalid_argument, "protobuf: field " + std::to_string(number) + " has the wrong type");
}

std::unexpected<Error> too_many(std::uint32_t number) {
    return fail(Code::resource_exhausted, "protobuf: field " + std::to_string(number) + " has too many elements");
}

}  // namespace wire
}  // namespace wherry::api::containerd
