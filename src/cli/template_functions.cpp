#include "cli/template_functions.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <optional>

#include "base/json.hpp"
#include "cli/template.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

void append_utf8_escaped(std::string& out, std::string_view text, bool html) {
    static constexpr char digits[] = "0123456789abcdef";
    out += '"';
    for (std::size_t i = 0; i < text.size(); ++i) {
        auto c = static_cast<unsigned char>(text[i]);
        switch (c) {
            case '"':
                out += "\\\"";
                continue;
            case '\\':
                out += "\\\\";
                continue;
            case '\n':
                out += "\\n";
                continue;
            case '\r':
                out += "\\r";
                continue;
            case '\t':
                out += "\\t";
                continue;
            case '\b':
                out += "\\b";
                continue;
            case '\f':
                out += "\\f";
                continue;
            default:
                break;
        }
        if (c < 0x20 || (html && (c == '<' || c == '>' || c == '&'))) {
            out += "\\u00";
            out += digits[c >> 4U];
            out += digits[c & 15U];
        } else {
            out += text[i];
        }
    }
    out += '"';
}

std::string number_text(const json::value& value) {
    if (value.is_int64()) return std::to_string(value.get_int64());
    if (value.is_uint64()) return std::to_string(value.get_uint64());
    double number = value.get_double();
    if (std::floor(number) == number && std::abs(number) < 1e15)
        return std::to_string(static_cast<std::int64_t>(number));
    char text[40];
    for (int precision = 1; precision <= 17; ++precision) {  // the shortest that reads back the same
        std::snprintf(text, sizeof text, "%.*g", precision, number);
        if (std::strtod(text, nullptr) == number) break;
    }
    return text;
}

void write_json(std::string& out, const json::value& value, int indent, int level, bool html) {
    auto newline = [&](int depth) {
        if (indent == 0) return;
        out += '\n';
        out.append(static_cast<std::size_t>(indent) * static_cast<std::size_t>(depth), ' ');
    };
    switch (value.kind()) {
        case json::kind::null:
            out += "null";
            break;
        case json::kind::bool_:
            out += value.get_bool() ? "true" : "false";
            break;
        case json::kind::string:
            append_utf8_escaped(out, value.get_string(), html);
            break;
        case json::kind::array: {
            const json::array& array = value.get_array();
            out += '[';
            bool first = true;
            for (const json::value& item : array) {
                if (!first) out += ',';
                first = false;
                newline(level + 1);
                write_json(out, item, indent, level + 1, html);
            }
            if (!array.empty()) newline(level);
            out += ']';
            break;
        }
        case json::kind::object: {
            const json::object& object = value.get_object();
            out += '{';
            bool first = true;
            for (const auto& member : object) {
                if (!first) out += ',';
                first = false;
                newline(level + 1);
                append_utf8_escaped(out, member.key(), html);
                out += indent == 0 ? ":" : ": ";
                write_json(out, member.value(), indent, level + 1, html);
            }
            if (!object.empty()) newline(level);
            out += '}';
            break;
        }
        default:
            out += number_text(value);
            break;
    }
}

}  // namespace

std::string print_value(const json::value& value) {
    switch (value.kind()) {
        case json::kind::null:
            return "<nil>";
        case json::kind::bool_:
            return value.get_bool() ? "true" : "false";
        case json::kind::string:
            return std::string(value.get_string());
        case json::kind::array: {
            std::string out = "[";
            for (const json::value& item : value.get_array()) out += (out.size() > 1 ? " " : "") + print_value(item);
            return out + "]";
        }
        case json::kind::object: {
            std::map<std::string_view, const json::value*> sorted;
            for (const auto& member : value.get_object()) sorted.emplace(member.key(), &member.value());
            std::string out = "map[";
            for (const auto& [key, item] : sorted)
                out += (out.size() > 4 ? " " : "") + std::string(key) + ":" + print_value(*item);
            return out + "]";
        }
        default:
            return number_text(value);
    }
}

std::string go_json(const json::value& value, HtmlEscape escape) {
    std::string out;
    write_json(out, value, 0, 0, escape == HtmlEscape::yes);
    return out;
}

std::string indented_json(const json::value& value, int indent) {
    std::string out;
    write_json(out, value, indent, 0, false);
    return out;
}

namespace template_detail {

namespace {

std::unexpected<Error> wrong(const std::string& what) {
    return fail(Code::invalid_argument, "template: " + what);
}

bool number(const json::value& value) {
    return value.is_int64() || value.is_uint64() || value.is_double();
}

double as_number(const json::value& value) {
    if (value.is_int64()) return static_cast<double>(value.get_int64());
    if (value.is_uint64()) return static_cast<double>(value.get_uint64());
    return value.get_double();
}

std::optional<std::int64_t> as_integer(const json::value& value) {
    if (value.is_int64()) return value.get_int64();
    if (value.is_uint64()) return static_cast<std::int64_t>(value.get_uint64());
    if (value.is_double() && std::floor(value.get_double()) == value.get_double())
        return static_cast<std::int64_t>(value.get_double());
    return std::nullopt;
}

Result<int> compare(const json::value& a, const json::value& b) {
    if (number(a) && number(b)) {
        double x = as_number(a);
        double y = as_number(b);
        return x < y ? -1 : x > y ? 1 : 0;
    }
    if (a.is_string() && b.is_string()) {
        int order = std::string_view(a.get_string()).compare(std::string_view(b.get_string()));
        return order < 0 ? -1 : order > 0 ? 1 : 0;
    }
    if (a.is_bool() && b.is_bool()) return static_cast<int>(a.get_bool()) - static_cast<int>(b.get_bool());
    if (a.is_null() || b.is_null()) return a.is_null() && b.is_null() ? 0 : 2;
    return wrong("incompatible types for comparison");
}

Result<Value> index(const std::vector<Value>& arguments) {
    if (arguments.empty()) return wrong("wrong number of args for index: want at least 1 got 0");
    Value value = arguments[0];
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        const json::value& key = arguments[i].json;
        if (!value.missing.empty()) return missing_entry(value);
        if (value.json.is_object()) {
            if (!key.is_string()) return wrong("error calling index: value is not a string key");
            const json::value* found = value.json.get_object().if_contains(key.get_string());
            Value next;
            next.zero = found == nullptr;
            if (found != nullptr) next.json = *found;
            value = std::move(next);
        } else if (value.json.is_array()) {
            auto at = as_integer(key);
            if (!number(key) || !at)
                return wrong("error calling index: cannot index slice/array with " + print_value(key));
            const json::array& array = value.json.get_array();
            if (*at < 0 || static_cast<std::size_t>(*at) >= array.size())
                return wrong("error calling index: index out of range: " + std::to_string(*at));
            json::value item = array[static_cast<std::size_t>(*at)];
            value = Value{std::move(item)};
        } else if (value.json.is_null()) {
            if (key.is_string()) {
                value = Value{};
                value.zero = true;
                continue;
            }
            return wrong("error calling index: index of untyped nil");
        } else {
            return wrong("error calling index: can't index item of type " + std::string(type_name(value.json)));
        }
    }
    return value;
}

// One verb of printf; the text of the argument.
Result<std::string> format_verb(const std::string& flags, char verb, const Value* argument) {
    if (argument == nullptr) return std::string("%!") + verb + "(MISSING)";
    const json::value& value = argument->json;
    char text[512];
    auto with = [&](const char* conversion, auto item) {
        std::string shape = "%" + flags + conversion;
        int length = std::snprintf(text, sizeof text, shape.c_str(), item);
        return std::string(text, std::min(static_cast<std::size_t>(std::max(length, 0)), sizeof text - 1));
    };
    auto padded = [&](const std::string& plain) {
        std::string shape = flags;
        std::size_t precision = std::string::npos;
        if (auto dot = shape.find('.'); dot != std::string::npos) {
            precision = static_cast<std::size_t>(std::strtoul(shape.c_str() + dot + 1, nullptr, 10));
            shape.resize(dot);
        }
        bool left = shape.find('-') != std::string::npos;
        std::size_t width = 0;
        if (auto digit = shape.find_first_of("123456789"); digit != std::string::npos)
            width = static_cast<std::size_t>(std::strtoul(shape.c_str() + digit, nullptr, 10));
        std::string out = plain.substr(0, precision);
        if (out.size() < width) out.insert(left ? out.size() : 0, width - out.size(), ' ');
        return out;
    };
    switch (verb) {
        case 's':
        case 'v':
            return padded(argument->zero ? "" : print_value(value));
        case 'q':
            return padded(value.is_string() ? go_json(value) : "'" + print_value(value) + "'");
        case 't':
            return padded(print_value(value));
        case 'd':
        case 'x':
        case 'X':
        case 'o':
            if (verb != 'd' && value.is_string()) {
                std::string out;
                for (char c : std::string_view(value.get_string())) {
                    std::snprintf(text, sizeof text, verb == 'x' ? "%02x" : "%02X",
                                  static_cast<unsigned>(static_cast<unsigned char>(c)));
                    out += text;
                }
                return padded(out);
            }
            if (auto whole = as_integer(value); number(value) && whole) {
                std::string conversion = std::string("ll") + verb;
                return with(conversion.c_str(), static_cast<long long>(*whole));
            }
            return std::string("%!") + verb + "(" + std::string(type_name(value)) + "=" + print_value(value) + ")";
        case 'f':
        case 'g':
        case 'e':
            if (number(value)) return with(std::string(1, verb).c_str(), as_number(value));
            return std::string("%!") + verb + "(" + std::string(type_name(value)) + "=" + print_value(value) + ")";
        case 'c':
            if (auto whole = as_integer(value); number(value) && whole && *whole >= 0 && *whole < 128)
                return std::string(1, static_cast<char>(*whole));
            return wrong("printf: %c of " + print_value(value));
        default:
            return wrong(std::string("printf: the verb %") + verb + " is not supported");
    }
}

Result<std::string> print_format(const std::vector<Value>& arguments) {
    if (arguments.empty() || !arguments[0].json.is_string())
        return wrong("wrong type for value; expected string as printf's format");
    std::string_view shape = arguments[0].json.get_string();
    std::string out;
    std::size_t next = 1;
    for (std::size_t i = 0; i < shape.size(); ++i) {
        if (shape[i] != '%') {
            out += shape[i];
            continue;
        }
        std::string flags;
        for (++i; i < shape.size() && std::string_view("-+ #0123456789.").find(shape[i]) != std::string_view::npos; ++i)
            flags += shape[i];
        if (flags.size() > 8) return wrong("printf: width or precision is too large");
        if (i >= shape.size()) {
            out += "%!(NOVERB)";
            break;
        }
        if (shape[i] == '%') {
            out += '%';
            continue;
        }
        const Value* argument = next < arguments.size() ? &arguments[next] : nullptr;
        if (argument != nullptr && !argument->missing.empty()) return missing_entry(*argument);
        ++next;
        out += TRY(format_verb(flags, shape[i], argument));
    }
    return out;
}

Result<std::string> text_of(const std::vector<Value>& arguments, std::size_t at, const std::string& name) {
    if (at >= arguments.size())
        return wrong("wrong number of args for " + name + ": want at least " + std::to_string(at + 1) + " got " +
                     std::to_string(arguments.size()));
    return printed(arguments[at]);
}

Result<std::string> join(const std::vector<Value>& arguments) {
    if (arguments.size() != 2)
        return wrong("wrong number of args for join: want 2 got " + std::to_string(arguments.size()));
    if (arguments[0].json.is_null()) return std::string();
    if (!arguments[0].json.is_array())
        return wrong("join: expected a list, not " + std::string(type_name(arguments[0].json)));
    std::string separator = TRY(printed(arguments[1]));
    std::string out;
    bool first = true;
    for (const json::value& item : arguments[0].json.get_array()) {
        if (!first) out += separator;
        first = false;
        out += print_value(item);
    }
    return out;
}

Result<Value> slice(const std::vector<Value>& arguments) {
    if (arguments.empty() || arguments.size() > 3) return wrong("slice: expected a value and up to two positions");
    const json::value& value = arguments[0].json;
    std::size_t size = value.is_string() ? value.get_string().size() : value.is_array() ? value.get_array().size() : 0;
    if (!value.is_string() && !value.is_array())
        return wrong("error calling slice: can't slice item of type " + std::string(type_name(value)));
    std::size_t bounds[2] = {0, size};
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        auto at = as_integer(arguments[i].json);
        if (!number(arguments[i].json) || !at || *at < 0 || static_cast<std::size_t>(*at) > size)
            return wrong("error calling slice: index out of range: " + print_value(arguments[i].json));
        bounds[i - 1] = static_cast<std::size_t>(*at);
    }
    if (bounds[0] > bounds[1]) return wrong("error calling slice: invalid slice index");
    if (value.is_string())
        return Value{json::value(std::string_view(value.get_string()).substr(bounds[0], bounds[1] - bounds[0]))};
    json::array part(value.get_array().begin() + static_cast<std::ptrdiff_t>(bounds[0]),
                     value.get_array().begin() + static_cast<std::ptrdiff_t>(bounds[1]));
    return Value{std::move(part)};
}

// Upper case of the letters of two bytes in UTF-8 that have a simple one: Latin-1, Greek, Cyrillic.
unsigned change_letter(unsigned letter, bool upper) {
    struct Block {
        unsigned first;
        unsigned last;
        unsigned distance;  // of the lower from the upper letters
    };
    static constexpr Block lower_blocks[] = {{0xe0, 0xf6, 0x20},   {0xf8, 0xfe, 0x20},   {0x3b1, 0x3c1, 0x20},
                                             {0x3c3, 0x3c9, 0x20}, {0x430, 0x44f, 0x20}, {0x450, 0x45f, 0x50}};
    for (const Block& block : lower_blocks) {
        if (upper && letter >= block.first && letter <= block.last) return letter - block.distance;
        if (!upper && letter >= block.first - block.distance && letter <= block.last - block.distance)
            return letter + block.distance;
    }
    return letter;
}

std::string change_case(std::string text, const std::string& name) {
    bool start = true;
    for (std::size_t i = 0; i < text.size(); ++i) {
        auto byte = static_cast<unsigned char>(text[i]);
        bool up = name == "upper" || (name == "title" && start);
        bool down = name == "lower";
        if (byte < 0x80) {
            bool lower = byte >= 'a' && byte <= 'z';
            bool upper = byte >= 'A' && byte <= 'Z';
            if ((lower && up) || (upper && down)) text[i] = static_cast<char>(byte ^ 0x20U);
            start = !lower && !upper && !(byte >= '0' && byte <= '9') && byte != '_';
            continue;
        }
        start = false;
        if ((byte & 0xe0U) != 0xc0U || i + 1 >= text.size()) continue;
        unsigned letter = ((byte & 0x1fU) << 6U) | (static_cast<unsigned char>(text[i + 1]) & 0x3fU);
        if (up || down) letter = change_letter(letter, up);
        text[i] = static_cast<char>(0xc0U | (letter >> 6U));
        text[++i] = static_cast<char>(0x80U | (letter & 0x3fU));
    }
    return text;
}

Result<Value> helpers(const std::string& name, const std::vector<Value>& arguments) {
    std::string text = TRY(text_of(arguments, 0, name));
    if (name == "lower" || name == "upper" || name == "title")
        return Value{json::value(change_case(std::move(text), name))};
    if (name == "urlquery" || name == "html" || name == "js")
        return wrong("function \"" + name + "\" is not supported");
    if (name == "split") {
        std::string separator = TRY(text_of(arguments, 1, name));
        json::array parts;
        for (std::string_view rest = text;;) {
            auto at = separator.empty() ? (rest.size() > 1 ? 1 : std::string_view::npos) : rest.find(separator);
            parts.emplace_back(rest.substr(0, at));
            if (at == std::string_view::npos) break;
            rest.remove_prefix(at + separator.size());
        }
        return Value{std::move(parts)};
    }
    auto length_at = [&](std::size_t at) -> Result<std::size_t> {
        auto whole =
            at < arguments.size() && number(arguments[at].json) ? as_integer(arguments[at].json) : std::nullopt;
        if (!whole || *whole < 0 || *whole > 65536) return wrong("wrong value for " + name + "; expected a length");
        return static_cast<std::size_t>(*whole);
    };
    if (name == "truncate") return Value{json::value(text.substr(0, TRY(length_at(1))))};
    // pad: nothing becomes of an empty text.
    if (text.empty()) return Value{json::value(text)};
    std::size_t before = TRY(length_at(1));
    std::size_t after = TRY(length_at(2));
    return Value{json::value(std::string(before, ' ') + text + std::string(after, ' '))};
}

}  // namespace

std::string_view type_name(const json::value& value) {
    switch (value.kind()) {
        case json::kind::null:
            return "nil";
        case json::kind::bool_:
            return "bool";
        case json::kind::string:
            return "string";
        case json::kind::array:
            return "[]interface {}";
        case json::kind::object:
            return "map[string]interface {}";
        case json::kind::double_:
            return "float64";
        default:
            return "int";
    }
}

std::unexpected<Error> missing_entry(const Value& value) {
    std::string where = value.where.empty() ? ":1:2: executing \"\" at <." + value.missing + ">" : value.where;
    return fail(Code::invalid_argument,
                "template parsing error: template: " + where + ": map has no entry for key \"" + value.missing + "\"");
}

bool truth(const Value& value) {
    if (!value.missing.empty()) return false;
    switch (value.json.kind()) {
        case json::kind::null:
            return false;
        case json::kind::bool_:
            return value.json.get_bool();
        case json::kind::string:
            return !value.json.get_string().empty();
        case json::kind::array:
            return !value.json.get_array().empty();
        case json::kind::object:
            return !value.json.get_object().empty();
        default:
            return as_number(value.json) != 0;
    }
}

Result<std::string> printed(const Value& value) {
    if (!value.missing.empty()) return missing_entry(value);
    if (value.zero) return std::string();
    if (!value.json.is_null()) return print_value(value.json);
    // Docker's structs print their empty lists and maps; JSON alone says null.
    for (std::string_view list : {"Cmd",
                                  "Entrypoint",
                                  "Env",
                                  "OnBuild",
                                  "Shell",
                                  "Args",
                                  "Binds",
                                  "VolumesFrom",
                                  "CapAdd",
                                  "CapDrop",
                                  "Dns",
                                  "DnsOptions",
                                  "DnsSearch",
                                  "ExtraHosts",
                                  "GroupAdd",
                                  "Links",
                                  "SecurityOpt",
                                  "Devices",
                                  "DeviceCgroupRules",
                                  "DeviceRequests",
                                  "Ulimits",
                                  "Mounts",
                                  "RepoTags",
                                  "RepoDigests",
                                  "Aliases",
                                  "DNSNames",
                                  "MaskedPaths",
                                  "ReadonlyPaths",
                                  "BlkioWeightDevice"})
        if (value.field == list) return std::string("[]");
    for (std::string_view map : {"Labels", "Volumes", "ExposedPorts", "PortBindings", "Ports", "Options", "Tmpfs",
                                 "Sysctls", "Annotations", "Networks"})
        if (value.field == map) return std::string("map[]");
    return std::string("<no value>");
}

Result<Value> call_function(const std::string& name, const std::vector<Value>& arguments,
                            const TemplateOptions& options) {
    static constexpr std::string_view helper_names[] = {"lower", "upper",    "title", "split", "truncate",
                                                        "pad",   "urlquery", "html",  "js"};
    bool helper = std::ranges::find(helper_names, name) != std::end(helper_names);
    if (options.header && (helper || name == "json" || name == "join")) {
        if (arguments.empty()) return wrong("wrong number of args for " + name + ": want at least 1 got 0");
        return arguments[0];
    }
    auto text = [](const std::string& value) { return Value{json::value(value)}; };
    if (name == "json") {
        if (arguments.size() != 1)
            return wrong("wrong number of args for json: want 1 got " + std::to_string(arguments.size()));
        if (!arguments[0].missing.empty()) return missing_entry(arguments[0]);
        return text(arguments[0].zero
                        ? "\"\""
                        : go_json(arguments[0].json,
                                  options.rows && arguments[0].json.is_object() ? HtmlEscape::yes : HtmlEscape::no));
    }
    if (name == "index") return index(arguments);
    if (name == "slice") return slice(arguments);
    if (name == "join") return text(TRY(join(arguments)));
    if (name == "printf") return text(TRY(print_format(arguments)));
    if (name == "print" || name == "println") {
        std::string out;
        for (std::size_t i = 0; i < arguments.size(); ++i) {
            // print adds a space between two values when neither is a string.
            bool gap =
                i > 0 && (name == "println" || (!arguments[i].json.is_string() && !arguments[i - 1].json.is_string()));
            if (gap) out += ' ';
            out += TRY(printed(arguments[i]));
        }
        return text(name == "println" ? out + "\n" : out);
    }
    if (name == "len") {
        if (arguments.size() != 1)
            return wrong("wrong number of args for len: want 1 got " + std::to_string(arguments.size()));
        const json::value& value = arguments[0].json;
        if (!arguments[0].missing.empty()) return missing_entry(arguments[0]);
        std::size_t size = value.is_string()   ? value.get_string().size()
                           : value.is_array()  ? value.get_array().size()
                           : value.is_object() ? value.get_object().size()
                                               : 0;
        if (number(value) || value.is_bool())
            return wrong("error calling len: len of type " + std::string(type_name(value)));
        return Value{json::value(static_cast<std::int64_t>(size))};
    }
    if (name == "not") {
        if (arguments.size() != 1)
            return wrong("wrong number of args for not: want 1 got " + std::to_string(arguments.size()));
        return Value{json::value(!truth(arguments[0]))};
    }
    if (name == "eq" || name == "ne" || name == "lt" || name == "le" || name == "gt" || name == "ge") {
        if (arguments.size() < 2) return wrong("error calling " + name + ": missing argument for comparison");
        bool result = false;
        for (std::size_t i = 1; i < arguments.size() && !result; ++i) {
            int order = TRY(compare(arguments[0].json, arguments[i].json));
            if (name == "eq")
                result = order == 0;
            else if (name == "ne")
                result = order != 0;
            else if (name == "lt")
                result = order == -1;
            else if (name == "le")
                result = order == -1 || order == 0;
            else if (name == "gt")
                result = order == 1;
            else
                result = order == 1 || order == 0;
            if (name != "eq") break;
        }
        return Value{json::value(result)};
    }
    if (helper) return helpers(name, arguments);
    return fail(Code::invalid_argument, "template parsing error: template: :1: function \"" + name + "\" not defined");
}

}  // namespace template_detail
}  // namespace wherry::cli
