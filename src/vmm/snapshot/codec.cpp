#include "vmm/snapshot/codec.hpp"

namespace wherry::vmm::snapshot {

void Writer::write_length(std::size_t length) {
    write(static_cast<std::uint32_t>(length));
}

void Reader::wrong(const char* what) {
    if (problem_ == nullptr) problem_ = what;
}

bool Reader::take(void* to, std::size_t size) {
    if (problem_ == nullptr && size > rest_.size()) wrong("it ends early");
    if (problem_ != nullptr) return false;
    std::memcpy(to, rest_.data(), size);
    rest_.remove_prefix(size);
    return true;
}

std::size_t Reader::take_length(std::size_t limit) {
    std::uint32_t length = 0;
    read(length);
    if (problem_ == nullptr && (length > limit || length > rest_.size())) wrong("a length beyond its end");
    return problem_ == nullptr ? length : 0;
}

void Reader::read(std::string& value) {
    const std::size_t length = take_length(largest_string);
    value.assign(rest_.substr(0, length));
    rest_.remove_prefix(length);
}

Result<> Reader::finish() const {
    if (problem_ != nullptr) return fail(Code::data_loss, std::string("the state is damaged: ") + problem_);
    if (!rest_.empty()) return fail(Code::data_loss, "the state is damaged: bytes are left over");
    return {};
}

}  // namespace wherry::vmm::snapshot
