#include "adopt/archive.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

namespace wherry::adopt {

namespace {

constexpr std::size_t block = 512;

std::string layer_name(const DockerLayer& layer) {
    return "blobs/sha256/" + layer.diff_id.substr(std::string_view("sha256:").size());
}

}  // namespace

std::string tar_header(const std::string& name, std::uint64_t size) {
    std::string header(block, '\0');
    auto put = [&](std::size_t at, std::string_view text) { header.replace(at, text.size(), text); };
    put(0, std::string_view(name).substr(0, 100));
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    if (size < (std::uint64_t{1} << 33U)) {
        std::array<char, 16> digits{};
        std::snprintf(digits.data(), digits.size(), "%011llo", static_cast<unsigned long long>(size));
        put(124, digits.data());
    } else {
        header[124] = static_cast<char>(0x80);
        for (std::size_t i = 0; i < 8; ++i) header[135 - i] = static_cast<char>((size >> (8 * i)) & 0xFFU);
    }
    put(136, "00000000000");
    put(148, "        ");
    header[156] = '0';
    put(257, std::string_view("ustar\0", 6));
    put(263, "00");
    unsigned sum = 0;
    for (char byte : header) sum += static_cast<unsigned char>(byte);
    std::array<char, 16> digits{};
    std::snprintf(digits.data(), digits.size(), "%06o", sum);
    put(148, std::string_view(digits.data(), 7));
    return header;
}

void ImageArchive::add_file(const std::string& name, std::string_view content) {
    piece_ += tar_header(name, content.size());
    piece_ += content;
    piece_.append((block - content.size() % block) % block, '\0');
}

std::string ImageArchive::manifest() const {
    json::array layers;
    for (const DockerLayer& layer : image_.layers) layers.emplace_back(layer_name(layer));
    json::array names;
    for (const std::string& name : image_.names) names.emplace_back(name);
    json::object one;
    one["Config"] = image_.id.substr(7) + ".json";
    one["RepoTags"] = std::move(names);
    one["Layers"] = std::move(layers);
    json::array all;
    all.emplace_back(std::move(one));
    return to_json(json::value(std::move(all)));
}

// False: it has been sent already.
Result<bool> ImageArchive::begin_layer(const DockerLayer& layer) {
    if (!sent_.insert(layer.diff_id).second) return false;
    std::uint64_t length = TRY(LayerStream::length(TRY(root_.tar_split(layer))));
    Fd tree = TRY(root_.layer_tree(layer));
    layer_.emplace(TRY(root_.tar_split(layer)), std::move(tree));
    if (known_(layer)) length = std::min<std::uint64_t>(length, block);
    piece_ = tar_header(layer_name(layer), length);
    piece_at_ = 0;
    layer_left_ = length;
    padding_ = (block - length % block) % block;
    return true;
}

// False: the end.
Result<bool> ImageArchive::advance() {
    while (next_layer_ < image_.layers.size()) {
        const DockerLayer& layer = image_.layers[next_layer_++];
        if (TRY(begin_layer(layer), "layer " + layer.diff_id)) return true;
    }
    if (documents_sent_) return false;
    documents_sent_ = true;
    piece_.clear();
    piece_at_ = 0;
    add_file(image_.id.substr(7) + ".json", image_.config);
    add_file("manifest.json", manifest());
    piece_.append(2 * block, '\0');
    return true;
}

Result<std::size_t> ImageArchive::read(std::span<std::byte> buffer) {
    for (;;) {
        if (piece_at_ < piece_.size()) {
            std::size_t count = std::min(buffer.size(), piece_.size() - piece_at_);
            std::memcpy(buffer.data(), piece_.data() + piece_at_, count);
            piece_at_ += count;
            return count;
        }
        if (layer_left_ > 0) {
            std::size_t wanted = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), layer_left_));
            std::size_t got = TRY(layer_->read(buffer.first(wanted)));
            if (got == 0) return fail(Code::data_loss, "a layer is shorter than Docker's notes say");
            layer_left_ -= got;
            return got;
        }
        layer_.reset();
        if (padding_ > 0) {
            piece_.assign(static_cast<std::size_t>(std::exchange(padding_, 0)), '\0');
            piece_at_ = 0;
            continue;
        }
        if (!TRY(advance())) return std::size_t{0};
    }
}

}  // namespace wherry::adopt
