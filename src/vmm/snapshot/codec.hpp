// Plain State structures to bytes and back. A State names its members once, in the order they are written:
//
//     struct State {
//         DeviceState device;
//         std::optional<std::string> serial;
//         void fields(this auto& self, auto&& f) { f(self.device, self.serial); }
//     };
//     Writer writer;
//     writer(state);
//     Reader reader(writer.bytes());
//     reader(state);
//     TRY(reader.finish());
//
// What may be a member: integers, bool, enumerations with a last_value(), std::string, std::array, std::vector,
// std::optional, structures with fields(), and structures of the kernel that is_raw names. Integers are little-endian
// and of fixed size, lengths are 32 bits. Bytes are hostile: the reader checks each length against what is left, bool
// and enumerations against their values, and allocates no more than what the bytes pay for; after the first mistake
// it reads nothing more, and finish() says what was wrong. What a value means is for whoever restores it to judge.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/result.hpp"

namespace wherry::vmm::snapshot {

static_assert(std::endian::native == std::endian::little);

// Structures that are written as they lie in memory: fixed layouts of the kernel's, without pointers.
template <class T>
inline constexpr bool is_raw = false;

inline constexpr std::size_t largest_string = 64U << 10U;

// What is written as it lies in memory, one after the other.
template <class T>
concept Plain = !std::same_as<T, bool> && (std::integral<T> || std::same_as<T, std::byte> || is_raw<T>);

template <class T>
concept Described = requires(T& value) { value.fields([](auto&...) {}); };

class Writer {
  public:
    template <class... T>
    void operator()(const T&... values) {
        (write(values), ...);
    }
    const std::string& bytes() const { return bytes_; }

  private:
    void append(const void* data, std::size_t size) { bytes_.append(static_cast<const char*>(data), size); }
    void write_length(std::size_t length);

    template <class T>
    void write(const T& value) {
        if constexpr (std::is_enum_v<T> && !Plain<T>) {
            write(static_cast<std::underlying_type_t<T>>(value));
        } else if constexpr (std::same_as<T, bool>) {
            write(std::uint8_t{value});
        } else if constexpr (Plain<T>) {
            static_assert(std::is_trivially_copyable_v<T>);
            append(&value, sizeof value);
        } else {
            static_assert(Described<const T>, "a member that the codec does not know");
            value.fields(*this);
        }
    }
    void write(const std::string& value) {
        write_length(value.size());
        append(value.data(), value.size());
    }
    template <class T, std::size_t N>
    void write(const std::array<T, N>& values) {
        for (const T& value : values) write(value);
    }
    template <class T>
    void write(const std::vector<T>& values) {
        write_length(values.size());
        if constexpr (Plain<T>) {
            if (!values.empty()) append(values.data(), values.size() * sizeof(T));
        } else {
            for (const T& value : values) write(value);
        }
    }
    template <class T>
    void write(const std::optional<T>& value) {
        write(value.has_value());
        if (value) write(*value);
    }

    std::string bytes_;
};

class Reader {
  public:
    explicit Reader(std::string_view bytes) : rest_(bytes) {}

    template <class... T>
    void operator()(T&... values) {
        (read(values), ...);
    }
    // data_loss unless everything was read and nothing is left.
    Result<> finish() const;

  private:
    bool take(void* to, std::size_t size);
    std::size_t take_length(std::size_t limit);
    void wrong(const char* what);

    template <class T>
    void read(T& value) {
        if constexpr (std::is_enum_v<T> && !Plain<T>) {
            std::underlying_type_t<T> number = 0;
            read(number);
            if (number < 0 || number > static_cast<std::underlying_type_t<T>>(last_value(T{})))
                return wrong("a value that nothing stands for");
            value = static_cast<T>(number);
        } else if constexpr (std::same_as<T, bool>) {
            std::uint8_t number = 0;
            read(number);
            if (number > 1) return wrong("neither true nor false");
            value = number == 1;
        } else if constexpr (Plain<T>) {
            static_assert(std::is_trivially_copyable_v<T>);
            take(&value, sizeof value);
        } else {
            static_assert(Described<T>, "a member that the codec does not know");
            if (problem_ == nullptr) value.fields(*this);
        }
    }
    void read(std::string& value);
    template <class T, std::size_t N>
    void read(std::array<T, N>& values) {
        for (T& value : values) read(value);
    }
    template <class T>
    void read(std::vector<T>& values) {
        values.clear();
        // An element takes a byte at least, so what is left bounds the count.
        const std::size_t count = take_length(rest_.size());
        if constexpr (Plain<T>) {
            if (count > rest_.size() / sizeof(T)) return wrong("a length beyond its end");
            values.resize(count);
            if (count > 0) take(values.data(), count * sizeof(T));
            return;
        }
        for (std::size_t i = 0; i < count && problem_ == nullptr; ++i) read(values.emplace_back());
    }
    template <class T>
    void read(std::optional<T>& value) {
        bool has_value = false;
        read(has_value);
        value.reset();
        if (has_value && problem_ == nullptr) read(value.emplace());
    }

    std::string_view rest_;
    const char* problem_ = nullptr;
};

// What a State is made of, as text: two monitors whose texts differ cannot read each other's files.
class Shape {
  public:
    template <class... T>
    void operator()(const T&... values) {
        (add(values), ...);
    }
    const std::string& text() const { return text_; }

  private:
    template <class T>
    void add(const T& value) {
        if constexpr (std::is_enum_v<T> || std::integral<T> || std::same_as<T, std::byte>) {
            text_ += static_cast<char>('0' + sizeof value);
        } else if constexpr (is_raw<T>) {
            text_ += 'r' + std::to_string(sizeof value);
        } else {
            text_ += '(';
            value.fields(*this);
            text_ += ')';
        }
    }
    void add(const std::string&) { text_ += 's'; }
    template <class T, std::size_t N>
    void add(const std::array<T, N>&) {
        text_ += 'a' + std::to_string(N);
        add(T{});
    }
    template <class T>
    void add(const std::vector<T>&) {
        text_ += 'v';
        add(T{});
    }
    template <class T>
    void add(const std::optional<T>&) {
        text_ += 'o';
        add(T{});
    }

    std::string text_;
};

template <class State>
std::string shape_of() {
    Shape shape;
    shape(State{});
    return shape.text();
}

}  // namespace wherry::vmm::snapshot
