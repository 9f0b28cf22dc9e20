#include "dns/master_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <charconv>
#include <cstdio>

#include "base/fd.hpp"

namespace wherry::dns {

namespace {

constexpr int max_include_depth = 16;

// A file mapped for reading: zones are large and read once, from front to back.
class MappedFile {
  public:
    static Result<MappedFile> open(const std::string& path) {
        Fd file = TRY(open_file(path, O_RDONLY));
        struct stat info{};
        if (::fstat(file.get(), &info) < 0) return fail_errno("stat " + path);
        if (!S_ISREG(info.st_mode)) return fail(Code::invalid_argument, path + " is not a regular file");
        MappedFile mapped;
        if (info.st_size == 0) return mapped;
        mapped.size_ = static_cast<std::size_t>(info.st_size);
        mapped.address_ = ::mmap(nullptr, mapped.size_, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file.get(), 0);
        if (mapped.address_ == MAP_FAILED) {
            mapped.address_ = nullptr;
            return fail_errno("map " + path);
        }
        return mapped;
    }
    MappedFile(MappedFile&& other) noexcept
        : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    MappedFile& operator=(MappedFile&&) = delete;
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    ~MappedFile() {
        if (address_ != nullptr) ::munmap(address_, size_);
    }
    std::string_view text() const { return {static_cast<const char*>(address_), size_}; }

  private:
    MappedFile() = default;
    void* address_ = nullptr;
    std::size_t size_ = 0;
};

class Parser {
  public:
    Parser(const MasterFileOptions& options, const RecordSink& sink) : options_(options), sink_(sink) {}

    Result<> file(const std::string& path, const Name& origin, int depth) {
        MappedFile mapped = TRY(MappedFile::open(path));
        return text(mapped.text(), path, origin, depth, /*folder_known=*/true);
    }

    Result<> text(std::string_view content, std::string_view name, Name origin, int depth, bool folder_known) {
        MasterScanner scanner(content);
        std::optional<Name> owner;
        while (true) {
            auto line = scanner.next();
            auto here = [&] { return std::string(name) + ":" + std::to_string(scanner.line()); };
            if (!line) return std::unexpected(std::move(line).error().context(here()));
            if (!*line) return {};
            std::span<const Token> tokens = **line;
            if (!scanner.starts_with_space() && !tokens[0].quoted && tokens[0].text.starts_with('$')) {
                TRY(directive(tokens, name, origin, depth, folder_known), here());
                continue;
            }
            if (!scanner.starts_with_space()) {
                owner = TRY(Name::parse(tokens[0].text, &origin), here());
                tokens = tokens.subspan(1);
            }
            if (!owner) return fail(Code::invalid_argument, here() + ": the first record has no owner");
            TRY(record(*owner, tokens, origin), here());
        }
    }

  private:
    Result<> directive(std::span<const Token> tokens, std::string_view name, Name& origin, int depth,
                       bool folder_known) {
        std::string_view word = tokens[0].text;
        if (word == "$ORIGIN" && tokens.size() == 2) {
            origin = TRY(Name::parse(tokens[1].text, &origin));
            return {};
        }
        if (word == "$TTL" && tokens.size() == 2) {
            ttl_ = TRY(parse_ttl(tokens[1].text));
            return {};
        }
        if (word == "$INCLUDE" && (tokens.size() == 2 || tokens.size() == 3)) {
            if (!options_.allow_include || !folder_known)
                return fail(Code::permission_denied, "$INCLUDE is not allowed here");
            if (depth >= max_include_depth) return fail(Code::resource_exhausted, "$INCLUDE is nested too deep");
            Name included = origin;
            if (tokens.size() == 3) included = TRY(Name::parse(tokens[2].text, &origin));
            std::string path(tokens[1].text);
            if (auto slash = name.rfind('/'); !path.starts_with('/') && slash != std::string_view::npos)
                path = std::string(name.substr(0, slash + 1)) + path;
            return file(path, included, depth + 1);
        }
        if (word == "$GENERATE" && tokens.size() >= 4) return generate(tokens, origin);
        return fail(Code::invalid_argument, "\"" + std::string(word.substr(0, 64)) +
                                                "\" is not a known directive with the right number of fields");
    }

    // $GENERATE start-stop[/step] owner [ttl] [class] type data: "$" is the number, "${offset,width,base}" formats it,
    // "\$" is a dollar sign.
    Result<> generate(std::span<const Token> tokens, const Name& origin) {
        std::uint32_t start = 0, stop = 0, step = 1;
        std::string_view range = tokens[1].text;
        const char* end = range.data() + range.size();
        auto wrong = [&] {
            return fail(Code::invalid_argument,
                        "$GENERATE: \"" + std::string(range.substr(0, 64)) + "\" is not start-stop[/step]");
        };
        auto first = std::from_chars(range.data(), end, start);
        if (first.ec != std::errc() || first.ptr == end || *first.ptr != '-') return wrong();
        auto second = std::from_chars(first.ptr + 1, end, stop);
        if (second.ec != std::errc()) return wrong();
        if (second.ptr != end) {
            if (*second.ptr != '/') return wrong();
            auto third = std::from_chars(second.ptr + 1, end, step);
            if (third.ec != std::errc() || third.ptr != end || step == 0) return wrong();
        }
        if (stop < start || (stop - start) / step >= options_.generate_limit)
            return fail(Code::out_of_range, "$GENERATE makes no or too many records");
        for (std::uint64_t i = start; i <= stop; i += step) {
            std::vector<std::string> texts;
            for (const Token& token : tokens.subspan(2))
                texts.push_back(TRY(expand(token.text, static_cast<std::int64_t>(i))));
            std::vector<Token> fields;
            for (std::size_t k = 1; k < texts.size(); ++k) fields.push_back({texts[k], tokens[k + 2].quoted});
            TRY(record(TRY(Name::parse(texts[0], &origin)), fields, origin));
        }
        return {};
    }

    static Result<std::string> expand(std::string_view text, std::int64_t number) {
        std::string expanded;
        for (std::size_t i = 0; i < text.size(); ++i) {
            if (text[i] == '\\' && i + 1 < text.size()) {
                if (text[i + 1] != '$') expanded += '\\';
                expanded += text[++i];
                continue;
            }
            if (text[i] != '$') {
                expanded += text[i];
                continue;
            }
            long long offset = 0;
            int width = 0;
            char base = 'd';
            if (i + 1 < text.size() && text[i + 1] == '{') {
                auto close = text.find('}', i);
                std::string inside(text.substr(i + 2, close == std::string_view::npos ? 0 : close - i - 2));
                if (close == std::string_view::npos ||
                    std::sscanf(inside.c_str(), "%lld,%d,%c", &offset, &width, &base) < 1 || width < 0 || width > 63 ||
                    offset < -0xFFFFFFFFLL || offset > 0xFFFFFFFFLL)
                    return fail(Code::invalid_argument,
                                "$GENERATE: bad modifier in \"" + std::string(text.substr(0, 64)) + "\"");
                i = close;
            }
            char digits[96];
            switch (base) {
                case 'd':
                    std::snprintf(digits, sizeof digits, "%0*lld", width, static_cast<long long>(number + offset));
                    break;
                case 'o':
                    std::snprintf(digits, sizeof digits, "%0*llo", width,
                                  static_cast<unsigned long long>(number + offset));
                    break;
                case 'x':
                    std::snprintf(digits, sizeof digits, "%0*llx", width,
                                  static_cast<unsigned long long>(number + offset));
                    break;
                case 'X':
                    std::snprintf(digits, sizeof digits, "%0*llX", width,
                                  static_cast<unsigned long long>(number + offset));
                    break;
                default:
                    return fail(Code::invalid_argument, "$GENERATE: base is none of d, o, x, X");
            }
            expanded += digits;
        }
        return expanded;
    }

    Result<> record(const Name& owner, std::span<const Token> tokens, const Name& origin) {
        ParsedRecord parsed;
        parsed.owner = owner;
        std::optional<std::uint32_t> ttl;
        // [TTL] [class] type or [class] [TTL] type (RFC 1035 section 5.1).
        for (int field = 0; field < 2 && !tokens.empty(); ++field) {
            std::string_view text = tokens[0].text;
            if (text.empty()) break;
            if (text[0] >= '0' && text[0] <= '9' && !ttl) {
                ttl = TRY(parse_ttl(text));
            } else if (auto dns_class = parse_class(text);
                       dns_class && *dns_class != Class::ANY && *dns_class != Class::NONE) {
                parsed.dns_class = *dns_class;
            } else {
                break;
            }
            tokens = tokens.subspan(1);
        }
        if (tokens.empty()) return fail(Code::invalid_argument, "record has no type");
        auto type = parse_type(tokens[0].text);
        if (!type)
            return fail(Code::invalid_argument,
                        "\"" + std::string(tokens[0].text.substr(0, 64)) + "\" is not a record type");
        parsed.type = *type;
        Bytes rdata = TRY(parse_rdata(*type, tokens.subspan(1), origin));
        if (!ttl) ttl = ttl_ ? ttl_ : last_ttl_ ? last_ttl_ : options_.default_ttl;
        if (!ttl) {
            // RFC 1035 leaves a first record without any TTL undefined; BIND takes the SOA's minimum.
            if (*type != Type::SOA)
                return fail(Code::invalid_argument, "record has no TTL, and there is no $TTL before it");
            const std::uint8_t* p = rdata.data() + rdata.size() - 4;
            ttl = static_cast<std::uint32_t>(p[0]) << 24U | static_cast<std::uint32_t>(p[1]) << 16U |
                  static_cast<std::uint32_t>(p[2]) << 8U | p[3];
        }
        last_ttl_ = ttl;
        // RFC 2181 section 8: a TTL with the top bit set is zero.
        parsed.ttl = *ttl > 0x7FFFFFFFU ? 0 : *ttl;
        parsed.rdata = rdata;
        return sink_(parsed);
    }

    const MasterFileOptions& options_;
    const RecordSink& sink_;
    std::optional<std::uint32_t> ttl_;       // $TTL
    std::optional<std::uint32_t> last_ttl_;  // of the record before
};

}  // namespace

Result<std::optional<std::span<const Token>>> MasterScanner::next() {
    tokens_.clear();
    int depth = 0;
    bool line_began = false;
    auto wrong = [&](const char* what) {
        token_line_ = line_;
        return fail(Code::invalid_argument, what);
    };
    while (at_ < text_.size()) {
        char c = text_[at_];
        if (!line_began) {
            line_began = true;
            starts_with_space_ = c == ' ' || c == '\t';
            token_line_ = line_;
        }
        if (c == '\n') {
            ++line_;
            ++at_;
            if (depth > 0) continue;
            if (!tokens_.empty()) return std::optional<std::span<const Token>>(tokens_);
            line_began = false;
            continue;
        }
        if (c == ' ' || c == '\t' || c == '\r') {
            ++at_;
            continue;
        }
        if (c == ';') {
            at_ = std::min(text_.find('\n', at_), text_.size());
            continue;
        }
        if (c == '(') {
            ++depth;
            ++at_;
            continue;
        }
        if (c == ')') {
            if (--depth < 0) return wrong("\")\" without \"(\"");
            ++at_;
            continue;
        }
        std::size_t start = at_;
        if (c == '"') {
            for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_) {
                if (text_[at_] == '\\') ++at_;
                if (at_ < text_.size() && text_[at_] == '\n') return wrong("a quoted string does not end on its line");
            }
            if (at_ >= text_.size()) return wrong("a quoted string does not end");
            tokens_.push_back({text_.substr(start + 1, at_ - start - 1), true});
            ++at_;
            continue;
        }
        // A bare word; quotes inside of it (key="a b") belong to it.
        bool in_quotes = false;
        for (; at_ < text_.size(); ++at_) {
            char w = text_[at_];
            if (w == '\n') break;
            if (w == '\\') {
                if (at_ + 1 < text_.size() && text_[at_ + 1] != '\n') ++at_;
                continue;
            }
            if (w == '"')
                in_quotes = !in_quotes;
            else if (!in_quotes && (w == ' ' || w == '\t' || w == '\r' || w == ';' || w == '(' || w == ')'))
                break;
        }
        if (in_quotes) return wrong("a quoted string does not end on its line");
        tokens_.push_back({text_.substr(start, at_ - start), false});
    }
    if (depth > 0) return wrong("\"(\" without \")\"");
    if (!tokens_.empty()) return std::optional<std::span<const Token>>(tokens_);
    return std::optional<std::span<const Token>>();
}

Result<> parse_master_file(const std::string& path, const MasterFileOptions& options, const RecordSink& sink) {
    return Parser(options, sink).file(path, options.origin, 0);
}

Result<> parse_master_text(std::string_view text, std::string_view name, const MasterFileOptions& options,
                           const RecordSink& sink) {
    return Parser(options, sink).text(text, name, options.origin, 0, /*folder_known=*/false);
}

std::string record_to_text(const Name& owner, std::uint32_t ttl, Class dns_class, Type type,
                           std::span<const std::uint8_t> rdata) {
    return owner.to_text() + "\t" + std::to_string(ttl) + "\t" + to_string(dns_class) + "\t" + to_string(type) + "\t" +
           rdata_to_text(type, rdata);
}

}  // namespace wherry::dns
