#include <gtest/gtest.h>

#include <array>
#include <string>

#include "image/tar/decoder.hpp"
#include "image/tar/reader.hpp"
#include "image/tar/writer.hpp"

namespace wherry::image {
namespace {

struct ReadBack {
    std::vector<TarEntry> entries;
    std::vector<std::string> contents;
    std::string error;
};

ReadBack read_back(std::string_view archive, std::size_t chunk = 700) {
    ReadBack back;
    TarReader reader([&]() -> Result<std::span<const std::byte>> {
        auto piece = as_bytes(archive.substr(0, chunk));
        archive.remove_prefix(piece.size());
        return piece;
    });
    for (;;) {
        auto entry = reader.next();
        if (!entry) back.error = entry.error().describe();
        if (!entry || !*entry) return back;
        back.entries.push_back(**entry);
        back.contents.emplace_back();
        for (;;) {
            auto piece = reader.data();
            if (!piece) back.error = piece.error().describe();
            if (!piece || piece->empty()) break;
            back.contents.back() += as_text(*piece);
        }
    }
}

std::string written(const std::vector<std::pair<TarEntry, std::string>>& entries) {
    std::string archive;
    TarWriter writer([&](std::span<const std::byte> bytes) -> Result<> {
        archive += as_text(bytes);
        return {};
    });
    for (const auto& [entry, content] : entries) {
        EXPECT_TRUE(writer.begin(entry));
        EXPECT_TRUE(writer.content(as_bytes(content)));
        EXPECT_TRUE(writer.end());
    }
    EXPECT_TRUE(writer.finish());
    return archive;
}

TarEntry file(std::string path, std::uint64_t size) {
    TarEntry entry;
    entry.path = std::move(path);
    entry.mode = 0644;
    entry.size_bytes = size;
    entry.stored_bytes = size;
    return entry;
}

TEST(Tar, KeepsWhatItIsGiven) {
    TarEntry rich = file(std::string(300, 'n') + "/ü\n", 5);
    rich.mode = 04755;
    rich.uid = 3'000'000'000;
    rich.gid = 70000;
    rich.mtime_seconds = -5;
    rich.mtime_nanoseconds = 250'000'000;
    rich.xattrs = {{"user.x", std::string("a\0b\nc=", 6)}, {"security.capability", std::string(20, '\1')}};
    TarEntry link;
    link.type = TarType::symlink;
    link.path = "l";
    link.target = std::string(200, 't');
    TarEntry device;
    device.type = TarType::block_device;
    device.path = "d";
    device.device_major = 8;
    device.device_minor = 17;
    TarEntry sparse = file("dir/sparse", 6);
    sparse.sparse = true;
    sparse.size_bytes = 1U << 30U;
    sparse.extents = {{0, 3}, {(1U << 30U) - 3, 3}};
    std::string archive = written({{rich, "hello"}, {link, ""}, {device, ""}, {sparse, "abcdef"}});
    for (std::size_t chunk : {1UL, 100UL, 512UL, 100000UL}) {
        ReadBack back = read_back(archive, chunk);
        EXPECT_EQ(back.error, "");
        ASSERT_EQ(back.entries.size(), 4U);
        EXPECT_EQ(back.entries[0].path, rich.path);
        EXPECT_EQ(back.entries[0].uid, rich.uid);
        EXPECT_EQ(back.entries[0].mode, rich.mode);
        EXPECT_EQ(back.entries[0].mtime_seconds, -5);
        EXPECT_EQ(back.entries[0].mtime_nanoseconds, 250'000'000U);
        EXPECT_EQ(back.entries[0].xattrs, rich.xattrs);
        EXPECT_EQ(back.contents[0], "hello");
        EXPECT_EQ(back.entries[1].target, link.target);
        EXPECT_EQ(back.entries[2].device_minor, 17U);
        EXPECT_TRUE(back.entries[3].sparse);
        EXPECT_EQ(back.entries[3].path, "dir/sparse");
        EXPECT_EQ(back.entries[3].size_bytes, 1U << 30U);
        EXPECT_EQ(back.entries[3].extents[1].offset, (1U << 30U) - 3);
        EXPECT_EQ(back.contents[3], "abcdef");
    }
}

TEST(Tar, FillsUpAFileThatShrank) {
    ReadBack back = read_back(written({{file("f", 2000), "short"}, {file("g", 1), "x"}}));
    ASSERT_EQ(back.contents.size(), 2U);
    EXPECT_EQ(back.contents[0].size(), 2000U);
    EXPECT_EQ(back.contents[1], "x");
}

TEST(Tar, RefusesWhatIsCutOrChanged) {
    std::string archive = written({{file("f", 2000), std::string(2000, 'x')}});
    EXPECT_NE(read_back(archive.substr(0, 1000)).error.find("unexpected end"), std::string::npos);
    std::string changed = archive;
    changed[0] = 'F';
    EXPECT_NE(read_back(changed).error.find("does not look like a tar"), std::string::npos);
    EXPECT_EQ(read_back(archive.substr(0, 512 + 2048)).error, "");  // no end marker: as readers everywhere
    EXPECT_EQ(read_back("").error, "");
    EXPECT_EQ(read_back(std::string(1024, '\0')).entries.size(), 0U);
}

TEST(Decoder, TellsStreamsApart) {
    // gzip and zstd of "hello\n", made by the usual tools.
    std::string gzip(
        "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\xe7\x02\x00\x20\x30\x3a\x36\x06\x00\x00\x00", 26);
    std::string zstd("\x28\xb5\x2f\xfd\x04\x58\x31\x00\x00hello\n\x53\x88\xbd\x91", 19);
    auto decoded = [](std::string bytes) -> Result<std::string> {
        ByteSource source = ByteSource::from_string(std::move(bytes));
        StreamDecoder decoder(source);
        std::string out;
        std::array<std::byte, 3> buffer{};
        for (;;) {
            std::size_t count = TRY(decoder.read(buffer));
            if (count == 0) return out;
            out += as_text(std::span(buffer).first(count));
        }
    };
    EXPECT_EQ(decoded("plain").value(), "plain");
    EXPECT_EQ(decoded("").value(), "");
    EXPECT_EQ(decoded(gzip).value(), "hello\n");
    EXPECT_EQ(decoded(gzip + gzip).value(), "hello\nhello\n");
    for (std::size_t cut = 3; cut < gzip.size(); ++cut) EXPECT_FALSE(decoded(gzip.substr(0, cut))) << cut;
    EXPECT_FALSE(decoded(gzip + "garbage"));
    std::string wrong = gzip;
    wrong[18] = static_cast<char>(wrong[18] ^ 1);
    EXPECT_FALSE(decoded(wrong));
    EXPECT_EQ(decoded(zstd).value(), "hello\n");
    for (std::size_t cut = 5; cut < zstd.size(); ++cut) EXPECT_FALSE(decoded(zstd.substr(0, cut))) << cut;

    // The same by bzip2 and xz.
    std::string bzip2(
        "BZh91AY&"
        "SY\xc1\xc0\x80\xe2\x00\x00\x01\x41\x00\x00\x10\x02\x44\xa0\x00\x30\xcd\x00\xc3\x46\x29\x97\x17\x72\x45\x38"
        "\x50\x90\xc1\xc0\x80\xe2",
        42);
    std::string xz(
        "\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\x01\x00\x05he"
        "llo\n"
        "\x00\x00\x00\xa5\x60\x97\xf1\x94\xf6\xfd\xe0\x00\x01\x1e\x06\xc1\x2f\xa4\x1d\x1f\xb6\xf3\x7d\x01\x00\x00\x00"
        "\x00\x04"
        "\x59\x5a",
        64);
    for (const auto& [data, magic] : {std::pair(bzip2, 4U), std::pair(xz, 6U)}) {
        auto whole = decoded(data);
        ASSERT_TRUE(whole) << whole.error().describe();
        EXPECT_EQ(*whole, "hello\n");
        EXPECT_EQ(decoded(data + data).value(), "hello\nhello\n");
        for (std::size_t cut = magic; cut < data.size(); ++cut) EXPECT_FALSE(decoded(data.substr(0, cut))) << cut;
        EXPECT_FALSE(decoded(data + "garbage"));
        std::string changed = data;
        changed[10] = static_cast<char>(changed[10] ^ 1);
        EXPECT_FALSE(decoded(changed));
    }
    EXPECT_EQ(decoded("BZhing").value(), "BZhing");
    // A dictionary of 1.5 GiB (LZMA2 dictionary size byte 37, header CRC made anew) is refused, not allocated.
    std::string greedy = xz;
    greedy.replace(12, 12, "\x02\x00\x21\x01\x25\x00\x00\x00\x3b\x78\x7b\x41", 12);
    auto refused = decoded(greedy);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Code::resource_exhausted) << refused.error().describe();
}

}  // namespace
}  // namespace wherry::image
