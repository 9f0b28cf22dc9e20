// events.
#include <algorithm>
#include <array>

#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/template.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option events_options[] = {
    {"filter", 'f', "filter", "Filter output based on conditions provided (e.g. type=container, event=die)",
     check_filter},
    {"format", 0, "string", "Format output: 'json', or a Go template"},
    {"since", 0, "string", "Show all events created since timestamp"},
    {"until", 0, "string", "Stream events until this timestamp"},
};

// "time type action id (attributes)", as docker prints an event.
std::string plain_event(const json::value& event) {
    std::string time;
    if (std::int64_t nanos = integer_at(event, "timeNano"); nanos != 0)
        time = format_rfc3339(WallTime(Nanoseconds(nanos)));
    else if (std::int64_t seconds = integer_at(event, "time"); seconds != 0)
        time = format_rfc3339(WallTime(std::chrono::seconds(seconds)));
    std::string out = time.empty() ? "" : time + " ";
    out += text_at(event, "Type") + " " + text_at(event, "Action") + " " + text_at(event, "Actor.ID");
    std::vector<std::string> attributes;
    if (const json::value* map = value_at(event, "Actor.Attributes"); map != nullptr && map->is_object())
        for (const auto& member : map->get_object())
            attributes.push_back(std::string(member.key()) + "=" + print_text(member.value()));
    std::ranges::sort(attributes);
    if (!attributes.empty()) {
        out += " (";
        for (std::size_t i = 0; i < attributes.size(); ++i) out += (i > 0 ? ", " : "") + attributes[i];
        out += ")";
    }
    return out;
}

Result<int> events(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    QueryText query;
    WallTime now = wall_now();
    for (std::string_view bound : {"since", "until"})
        if (options.given(bound)) query.add(bound, TRY(parse_timestamp(options.text(bound), now)));
    std::string filters = TRY(encode_filters(options.list("filter")));
    if (!filters.empty()) query.add("filters", filters);
    std::string format = options.text("format");
    std::optional<Template> shape;
    if (!format.empty()) {
        auto parsed = Template::parse(format == "json" ? "{{json .}}" : format);
        if (!parsed) return fail(Code::invalid_argument, "Error parsing format: " + parsed.error().describe());
        shape.emplace(std::move(*parsed));
    }
    auto response = TRY(session.checked({.method = "GET", .target = "/events" + query.text()}));
    std::string pending;
    std::array<char, 16384> buffer{};
    auto show = [&](std::string_view line) -> Result<> {
        while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
        if (line.empty()) return {};
        json::value event = TRY(parse_json(line), "an event");
        std::string text = shape ? TRY(shape->execute(event)) : plain_event(event);
        session.out(text + "\n");
        session.flush();
        return {};
    };
    while (true) {
        std::size_t count = TRY(response.read_some(std::as_writable_bytes(std::span(buffer))));
        if (count == 0) break;
        pending.append(buffer.data(), count);
        for (auto end = pending.find('\n'); end != std::string::npos; end = pending.find('\n')) {
            TRY(show(std::string_view(pending).substr(0, end)));
            pending.erase(0, end + 1);
        }
        if (pending.size() > 4U << 20U) return fail(Code::data_loss, "events: a line without end");
    }
    TRY(show(pending));
    return 0;
}

}  // namespace

void add_event_verbs(std::vector<const Command*>& all) {
    static const Command command{.names = {"events", "system events"},
                                 .usage = "[OPTIONS]",
                                 .summary = "Get real time events from the server",
                                 .example = "wherry events --since 10m --until 0s --filter event=die",
                                 .options = events_options,
                                 .maximum = 0,
                                 .run = events};
    all.push_back(&command);
}

}  // namespace wherry::cli
