#include "cli/table.hpp"

#include <algorithm>

#include "base/json.hpp"
#include "cli/template.hpp"

namespace wherry::cli {

namespace {

std::size_t code_points(std::string_view text) {
    return static_cast<std::size_t>(
        std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; }));
}

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    while (true) {
        auto at = text.find(separator);
        parts.push_back(text.substr(0, at));
        if (at == std::string_view::npos) return parts;
        text.remove_prefix(at + 1);
    }
}

// Docker's own headings for what a template calls that has arguments: .Label "com.example.name" -> "name".
std::string label_heading(std::string_view label) {
    auto dot = label.rfind('.');
    std::string text(dot == std::string_view::npos ? label : label.substr(dot + 1));
    for (char& c : text)
        if (c == '-' || c == '_') c = ' ';
    return text;
}

std::string unescape(std::string_view format) {
    std::string out;
    for (std::size_t i = 0; i < format.size(); ++i) {
        if (format[i] == '\\' && i + 1 < format.size() && (format[i + 1] == 't' || format[i + 1] == 'n'))
            out += format[++i] == 't' ? '\t' : '\n';
        else
            out += format[i];
    }
    return out;
}

}  // namespace

std::string align(std::string_view text, TableShape shape) {
    bool ends_with_newline = text.ends_with('\n');
    if (ends_with_newline) text.remove_suffix(1);
    std::vector<std::vector<std::string_view>> lines;
    for (std::string_view line : split(text, '\n')) lines.push_back(split(line, '\t'));
    std::vector<std::vector<std::size_t>> widths(lines.size());
    for (std::size_t i = 0; i < lines.size(); ++i) widths[i].assign(lines[i].size(), 0);
    std::size_t most = 0;
    for (const auto& line : lines) most = std::max(most, line.size());
    for (std::size_t column = 0; column + 1 < most; ++column) {
        // A block: adjacent lines that have a terminated cell in this column.
        for (std::size_t start = 0; start < lines.size();) {
            if (lines[start].size() <= column + 1) {
                ++start;
                continue;
            }
            std::size_t end = start;
            std::size_t width = shape.minimum_width;
            for (; end < lines.size() && lines[end].size() > column + 1; ++end)
                width = std::max(width, code_points(lines[end][column]) + shape.padding);
            for (; start < end; ++start) widths[start][column] = width;
        }
    }
    std::string out;
    for (std::size_t i = 0; i < lines.size(); ++i) {
        for (std::size_t column = 0; column < lines[i].size(); ++column) {
            out += lines[i][column];
            if (column + 1 < lines[i].size()) out.append(widths[i][column] - code_points(lines[i][column]), ' ');
        }
        if (i + 1 < lines.size() || ends_with_newline) out += '\n';
    }
    return out;
}

Result<std::string> Listing::render(std::string_view format) const {
    TemplateOptions options;
    options.rows = true;
    options.method = [this](const json::value& object, std::string_view name,
                            std::span<const json::value> arguments) -> std::optional<json::value> {
        if (!method || !object.is_object()) return std::nullopt;
        return method(object.get_object(), name, arguments);
    };
    while (format.ends_with(' ')) format.remove_suffix(1);
    while (format.starts_with(' ')) format.remove_prefix(1);
    if (format == "json") format = "{{json .}}";
    bool table = format.empty() || format == "table" || format.starts_with("table ");
    std::string shape = format.empty() || format == "table" ? default_table_
                        : table                             ? unescape(format.substr(6))
                                                            : unescape(format);
    Template compiled = TRY(Template::parse(shape));
    // Only what the columns name is seen by "{{json .}}"; sorted, as Docker's is.
    auto visible = [&](const json::object& row) {
        std::vector<std::string_view> names;
        for (const Column& column : columns_) names.push_back(column.first);
        std::ranges::sort(names);
        json::object out;
        for (std::string_view name : names)
            if (const json::value* value = row.if_contains(name)) out[name] = *value;
        return out;
    };
    bool whole = shape.find("json .}") != std::string::npos || shape.find("json . }") != std::string::npos;
    std::string out;
    if (table) {
        json::object headings;
        for (const Column& column : columns_) headings[column.first] = column.second;
        TemplateOptions header_options;
        header_options.header = true;
        header_options.method = [](const json::value&, std::string_view name,
                                   std::span<const json::value> arguments) -> std::optional<json::value> {
            if (name == "Label" && arguments.size() == 1 && arguments[0].is_string())
                return json::value(label_heading(arguments[0].get_string()));
            return std::nullopt;
        };
        out += TRY(compiled.execute(headings, header_options)) + "\n";
    }
    for (const json::object& row : rows_) out += TRY(compiled.execute(whole ? visible(row) : row, options)) + "\n";
    return table ? align(out) : out;
}

std::string shorten(std::string_view text, std::size_t length) {
    if (code_points(text) <= length) return std::string(text);
    std::size_t count = 0;
    std::size_t at = 0;
    while (at < text.size()) {
        std::size_t next = at + 1;
        while (next < text.size() && (static_cast<unsigned char>(text[next]) & 0xc0U) == 0x80U) ++next;
        if (++count == length) return std::string(text.substr(0, at)) + "\xe2\x80\xa6";
        at = next;
    }
    return std::string(text);
}

}  // namespace wherry::cli
